//! `mqueue doctor` on real nsqd and nsqlookupd: what is wrong is told with what mends it, and looking changes nothing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Finished, Lookupd, Mqueue, Nsqd, mqueue, needs, wait_until};

const OK: Option<i32> = Some(0);
const WARNINGS: Option<i32> = Some(3);
const ERRORS: Option<i32> = Some(4);
const UNAVAILABLE: Option<i32> = Some(69);

/// Where nobody listens.
const NOBODY: &str = "127.0.0.1:1";

/// A doctor with a folder of sockets of its own, and no systemd to ask.
fn doctor(sockets: &TempDir, args: &str) -> Mqueue {
    let no_systemctl = sockets.path().display().to_string();
    mqueue(&format!("doctor --socket-dir {} {args}", sockets.path().display())).env("PATH", &no_systemctl)
}

fn on(nsqd: &Nsqd) -> String {
    format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http())
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Its findings that are not in order: level, check and the command that mends it.
#[track_caller]
fn findings(finished: &Finished) -> Vec<(String, String, String)> {
    let report: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"));
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let findings = report["findings"].as_array().expect("a list").iter();
    let bad = findings.filter(|finding| !["ok", "skipped"].contains(&finding["level"].as_str().expect("a level")));
    bad.map(|finding| (text(finding, "level"), text(finding, "check"), text(finding, "mend"))).collect()
}

/// The one finding, which is of this level and check: what mends it.
#[track_caller]
fn the_one(finished: &Finished, level: &str, check: &str) -> String {
    let mut found = findings(finished);
    assert!(found.len() == 1 && found[0].0 == level && found[0].1 == check, "{level} {check}, got {finished:#?}");
    found.remove(0).2
}

/// Runs what a finding says, as somebody who pastes it.
#[track_caller]
fn paste(command: &str, work: &Path) {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_mqueue"));
    let path =
        format!("{}:{}", binary.parent().expect("a folder").display(), std::env::var("PATH").unwrap_or_default());
    let done = Command::new("bash").args(["-c", command]).env("PATH", path).current_dir(work).output().expect("bash");
    assert!(done.status.success(), "{command}: {done:?}");
}

#[test]
fn all_in_order_is_a_few_lines_and_0() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.create("foo", "1");
    let finished = doctor(&sockets, &on(&nsqd)).run();
    assert_eq!(finished.code, OK, "{finished:?}");
    let first = finished.stdout.lines().next().unwrap();
    let version = nsqd.stats().version;
    assert!(first.starts_with("skipped: units: "), "{finished:?}");
    let line = format!("ok: nsqd {}: {version}, TCP {}, clock in step", nsqd.http(), nsqd.tcp());
    assert!(finished.stdout.lines().any(|l| l == line), "{line}, got {finished:?}");
    assert!(finished.stdout.contains("1 stream, 1 group"), "{finished:?}");
    assert_eq!(finished.stderr, "");
}

#[test]
fn json_has_stable_names() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.publish("foo", b"1");
    let finished = doctor(&sockets, &format!("--json {}", on(&nsqd))).run();
    assert_eq!((finished.code, finished.stdout.lines().count()), (WARNINGS, 1), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["worst"], "warning");
    let first = &report["findings"][0];
    let names: Vec<&String> = first.as_object().unwrap().keys().collect();
    assert_eq!(names, ["check", "level", "mend", "subject", "what"]);
    assert_eq!(
        (&first["level"], &first["check"], &first["subject"]),
        (&"warning".into(), &"streams".into(), &"stream foo".into())
    );
    assert!(report["findings"].as_array().unwrap().iter().any(|f| f["level"] == "ok" && f["mend"].is_null()));
}

#[test]
fn messages_without_a_group_get_one_by_the_command_that_is_told() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.publish("foo", b"1");
    let look = || doctor(&sockets, &format!("--json {}", on(&nsqd))).run();
    paste(&the_one(&look(), "warning", "streams"), sockets.path());
    wait_until("the group has the message", || nsqd.channel("foo", "1").depth == 1);
    // now it waits there, and still nobody comes for it
    paste(&the_one(&look(), "warning", "groups"), sockets.path());
    assert_eq!(nsqd.channel("foo", "1").depth, 1, "looking at it takes nothing");
}

#[test]
fn paused_queues_go_on_by_the_command_that_is_told() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.create("foo", "1");
    let url = |what: &str| format!("curl -fsS -X POST 'http://{}/{what}'", nsqd.http());
    paste(&url("channel/pause?topic=foo&channel=1"), sockets.path());
    let look = || doctor(&sockets, &format!("--json {}", on(&nsqd))).run();
    assert_eq!(look().code, OK, "nothing waits");
    nsqd.publish("foo", b"1");
    wait_until("the message in the group", || nsqd.channel("foo", "1").depth == 1);
    paste(&the_one(&look(), "warning", "paused"), sockets.path());
    assert!(!nsqd.channel("foo", "1").paused);
}

#[test]
fn dead_letters_stay_when_the_command_that_is_told_lists_them() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.publish_lines("foo.dead", b"one\ntwo");
    let look = || doctor(&sockets, &format!("--json --watch 10ms {}", on(&nsqd))).run();
    let mend = the_one(&look(), "warning", "dead-letters");
    assert!(mend.starts_with("mqueue errors --stream foo "), "{mend}");
    for _ in 0..2 {
        paste(&mend, sockets.path());
        let finished = look();
        assert!(finished.stdout.contains("2 dead letters"), "{finished:?}");
    }
}

#[test]
fn the_token_of_a_fleet_that_has_stopped_is_left_alone() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.create("tk.token", "token");
    nsqd.publish("tk.token", b"t");
    wait_until("the token in its group", || nsqd.channel("tk.token", "token").depth == 1);
    let finished = doctor(&sockets, &format!("--json {}", on(&nsqd))).run();
    assert_eq!((finished.code, findings(&finished)), (OK, vec![]), "{finished:?}");
}

#[test]
fn an_nsqd_that_is_named_by_http_alone_tells_its_tcp_port() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let finished = doctor(&sockets, &format!("--nsqd-http-address {}", nsqd.http())).run();
    assert_eq!(finished.code, OK, "{finished:?}");
    assert!(finished.stdout.contains(&format!(", TCP {}", nsqd.tcp())), "{finished:?}");
    assert!(!finished.stdout.contains("127.0.0.1:4150"), "{finished:?}");
}

#[test]
fn dead_letters_that_become_more_are_an_error() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.publish("foo.dead", b"0");
    let mut looking = doctor(&sockets, &format!("--json --watch 500ms {}", on(&nsqd))).start();
    while !looking.has_ended() {
        nsqd.publish("foo.dead", b"1");
    }
    let finished = looking.finish();
    assert_eq!(finished.code, ERRORS);
    the_one(&finished, "error", "dead-letters");
    assert!(finished.stdout.contains("growing by"), "{finished:?}");
}

#[test]
fn a_broker_that_is_not_there_is_told_and_69() {
    let (sockets, address) = (folder(), NOBODY);
    let finished = doctor(&sockets, &format!("--nsqd-http-address {address} --lookupd-http-address {address}")).run();
    assert_eq!(finished.code, UNAVAILABLE, "{finished:?}");
    for line in
        [format!("error: nsqlookupd {address}: does not answer"), format!("error: nsqd {address}: does not answer")]
    {
        assert!(finished.stdout.contains(&line), "{line}, got {finished:?}");
    }
}

#[test]
fn one_dead_nsqd_of_two_is_an_error() {
    needs!("nsqd");
    let (alive, sockets) = (Nsqd::start(), folder());
    let dead = format!("--nsqd-tcp-address {NOBODY} --nsqd-http-address {NOBODY}");
    let finished = doctor(&sockets, &format!("--json {} {dead}", on(&alive))).run();
    assert_eq!(finished.code, ERRORS, "{finished:?}");
    let found = findings(&finished);
    assert_eq!(
        found.iter().map(|(level, check, _)| (level.as_str(), check.as_str())).collect::<Vec<_>>(),
        [("error", "nsqd"); 2]
    );
}

#[test]
fn silent_brokers_are_given_up_at_the_deadline_all_at_the_same_time() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let listeners: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let silent: Vec<String> = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    nsqd.signal(Signal::SIGSTOP);
    let args = format!(
        "--json --deadline 1s --nsqd-tcp-address {},{} --nsqd-http-address {},{}",
        silent[..3].join(","),
        nsqd.tcp(),
        silent[3..].join(","),
        nsqd.http(),
    );
    let begin = Instant::now();
    let finished = doctor(&sockets, &args).run();
    let took = begin.elapsed();
    assert_eq!(finished.code, UNAVAILABLE, "{finished:?}");
    assert_eq!(findings(&finished).len(), 8, "{finished:?}");
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(6), "they were asked one after the other: {took:?}");
}

#[test]
fn an_nsqd_known_by_its_tcp_address_only_is_told_with_the_other() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let finished = doctor(&sockets, &format!("--json --nsqd-tcp-address {}", nsqd.tcp())).run();
    assert_eq!(finished.code, WARNINGS);
    assert!(the_one(&finished, "warning", "nsqd").contains("--nsqd-http-address 127.0.0.1:"));
}

#[test]
fn a_broadcast_address_that_nobody_can_reach_is_told_with_the_one_that_answers() {
    needs!("nsqd", "nsqlookupd");
    let (lookupd, sockets) = (Lookupd::start(), folder());
    let look = || doctor(&sockets, &format!("--json --lookupd-http-address {}", lookupd.http())).run();
    the_one(&look(), "warning", "nsqlookupd");
    let flags = [format!("--lookupd-tcp-address={}", lookupd.tcp()), "--broadcast-address=nowhere.invalid".to_owned()];
    let _nsqd = Nsqd::with(&flags.each_ref().map(String::as_str));
    wait_until("the nsqd at nsqlookupd", || look().stdout.contains("nowhere.invalid"));
    let finished = look();
    assert_eq!(finished.code, ERRORS);
    let found = findings(&finished);
    assert_eq!(found.len(), 2, "over HTTP and over TCP: {finished:?}");
    for (level, check, mend) in found {
        assert_eq!((level.as_str(), check.as_str()), ("error", "nsqd"));
        assert!(mend.starts_with("nsqd --broadcast-address=127.0.0.1"), "{mend}");
    }
}

#[test]
fn an_nsqd_with_another_clock_an_old_version_and_a_full_disk_is_told() {
    let (sockets, listener) = (folder(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().flatten().for_each(old_nsqd));
    let finished = doctor(&sockets, &format!("--json --nsqd-http-address {address}")).run();
    let found = findings(&finished);
    for expected in [("error", "health"), ("warning", "version"), ("warning", "clock")] {
        assert!(
            found.iter().any(|(l, c, mend)| (l.as_str(), c.as_str()) == expected && !mend.is_empty()),
            "{finished:#?}"
        );
    }
    assert!(finished.stdout.contains("behind"), "{finished:?}");
}

/// The HTTP API of an nsqd that stopped in 2015.
fn old_nsqd(mut stream: std::net::TcpStream) {
    let mut request = [0; 4096];
    let length = stream.read(&mut request).unwrap_or(0);
    let stats = request[..length].starts_with(b"GET /stats");
    let body = match stats {
        true => r#"{"version":"0.3.8","health":"NOK - no space left on device","topics":[]}"#,
        false => r#"{"version":"0.3.8","tcp_port":1}"#,
    };
    let date = "Date: Fri, 01 May 2015 10:00:00 GMT";
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\n{date}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

#[test]
fn sockets_are_told_from_what_only_looks_like_them_and_nobody_is_woken() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let at = |name: &str| sockets.path().join(name);
    for group in ["awake", "dead", "plain"] {
        nsqd.create("foo", group);
    }
    nsqd.publish("foo", b"1");
    let listening = UnixListener::bind(at("awake.sock")).unwrap();
    std::fs::set_permissions(at("awake.sock"), std::fs::Permissions::from_mode(0o660)).unwrap();
    drop(UnixListener::bind(at("dead.sock")).unwrap());
    std::fs::set_permissions(at("dead.sock"), std::fs::Permissions::from_mode(0o660)).unwrap();
    std::fs::write(at("plain.sock"), "").unwrap();
    let before = nsqd.stats();
    wait_until("the message in each group", || nsqd.channel("foo", "plain").depth == 1);
    let finished = doctor(&sockets, &on(&nsqd)).run();
    assert_eq!(finished.code, ERRORS, "{finished:?}");
    for (name, what) in [("dead.sock", "nobody listens"), ("plain.sock", "is no socket")] {
        let line = format!("error: {}: {what}", at(name).display());
        assert!(finished.stdout.contains(&line), "{line}, got {finished:?}");
    }
    assert!(!finished.stdout.contains("awake.sock: "), "{finished:?}");
    listening.set_nonblocking(true).unwrap();
    assert!(listening.accept().is_err(), "the doctor woke a consumer");
    let names = |stats: &mqueue::proto::stats::Stats| -> Vec<String> {
        let topics = stats.topics.iter();
        topics.flat_map(|t| t.channels.iter().map(|c| format!("{}/{}", t.topic_name, c.channel_name))).collect()
    };
    assert_eq!(names(&before), names(&nsqd.stats()), "the doctor changed the queues");
    assert!(at("dead.sock").exists() && at("plain.sock").exists(), "the doctor changed the folder");
}

#[test]
fn a_folder_that_is_not_there_is_made_by_the_command_that_is_told() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let missing = sockets.path().join("not yet");
    let look =
        || doctor(&sockets, &on(&nsqd)).arg("--json").arg("--socket-dir").arg(&missing.display().to_string()).run();
    paste(&the_one(&look(), "warning", "socket-dir"), sockets.path());
    assert_eq!(look().code, OK);
}

//! `mqueue doctor` with real nsqd and nsqlookupd: problems are reported with a fix, and probing
//! changes nothing.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::doctor::{ERRORS, OK, UNAVAILABLE, WARNINGS, doctor, findings, folder, old_nsqd, on, the_one};
use crate::support::{Lookupd, Nsqd, needs, wait_until};

/// An address without a listener.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn a_healthy_system_exits_with_0() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.create("foo", "1");
    let finished = doctor(&sockets, &on(&nsqd)).run();
    assert_eq!(finished.code, OK, "{finished:?}");
    let first = finished.stdout.lines().next().unwrap();
    let version = nsqd.stats().version;
    assert!(first.starts_with("skipped: units: "), "{finished:?}");
    let line = format!("ok: nsqd {}: {version}, TCP {}, clock in sync", nsqd.http(), nsqd.tcp());
    assert!(finished.stdout.lines().any(|l| l == line), "{line}, got {finished:?}");
    assert!(finished.stdout.contains("1 stream, 1 group"), "{finished:?}");
    assert_eq!(finished.stderr, "");
}

#[test]
fn json_keys_are_stable() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.publish("foo", b"1");
    let finished = doctor(&sockets, &format!("--json {}", on(&nsqd))).run();
    assert_eq!((finished.code, finished.stdout.lines().count()), (WARNINGS, 1), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["worst"], "warning");
    let first = &report["findings"][0];
    let names: Vec<&String> = first.as_object().unwrap().keys().collect();
    assert_eq!(names, ["check", "fix", "level", "message", "subject"]);
    assert_eq!(
        (&first["level"], &first["check"], &first["subject"]),
        (&"warning".into(), &"streams".into(), &"stream foo".into())
    );
    assert!(report["findings"].as_array().unwrap().iter().any(|f| f["level"] == "ok" && f["fix"].is_null()));
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
fn an_nsqd_given_by_http_alone_reports_its_tcp_port() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let finished = doctor(&sockets, &format!("--nsqd-http-address {}", nsqd.http())).run();
    assert_eq!(finished.code, OK, "{finished:?}");
    assert!(finished.stdout.contains(&format!(", TCP {}", nsqd.tcp())), "{finished:?}");
    assert!(!finished.stdout.contains("127.0.0.1:4150"), "{finished:?}");
}

#[test]
fn growing_dead_letters_are_an_error() {
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
fn one_unreachable_nsqd_of_two_is_an_error() {
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
fn silent_brokers_share_one_deadline() {
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
fn an_nsqd_given_by_tcp_alone_is_reported_with_its_http_address() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let finished = doctor(&sockets, &format!("--json --nsqd-tcp-address {}", nsqd.tcp())).run();
    assert_eq!(finished.code, WARNINGS);
    assert!(the_one(&finished, "warning", "nsqd").contains("--nsqd-http-address 127.0.0.1:"));
}

#[test]
fn unreachable_broadcast_addresses_are_reported_with_the_working_one() {
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
    for (level, check, fix) in found {
        assert_eq!((level.as_str(), check.as_str()), ("error", "nsqd"));
        assert!(fix.contains(" --broadcast-address=127.0.0.1,"), "{fix}");
    }
}

#[test]
fn clock_skew_old_versions_and_full_disks_are_reported() {
    let (sockets, listener) = (folder(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().flatten().for_each(old_nsqd));
    let finished = doctor(&sockets, &format!("--json --nsqd-http-address {address}")).run();
    let found = findings(&finished);
    for expected in [("error", "health"), ("warning", "version"), ("warning", "clock")] {
        assert!(
            found.iter().any(|(l, c, fix)| (l.as_str(), c.as_str()) == expected && !fix.is_empty()),
            "{finished:#?}"
        );
    }
    assert!(finished.stdout.contains("behind"), "{finished:?}");
}

#[test]
fn sockets_are_distinguished_from_other_files_without_waking_consumers() {
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

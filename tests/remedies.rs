//! Pastes every command that doctor and wakeup print into a shell: it resolves the finding, or only
//! shows something. No message is lost, no work ends, and no name that a peer chose does harm.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::doctor::{Pasted, doctor, findings, folder, listing, old_nsqd, on, paste, the_one};
use crate::support::{Finished, Lookupd, Mqueue, Nsqd, mqueue, needs, wait_until};

/// Names that NSQ allows, and that a shell, curl or clap may misread.
const NAMES: [&str; 4] = ["-x", "--help", "a.b_c-d", "tmp#ephemeral"];

/// The brokers' messages: in streams, and waiting, in flight or deferred in each group.
fn held(nsqds: &[&Nsqd]) -> Vec<(String, i64)> {
    let mut all = Vec::new();
    for nsqd in nsqds {
        for topic in nsqd.stats().topics {
            let name = format!("{}/{}", nsqd.http(), topic.topic_name);
            all.push((name.clone(), topic.depth));
            let groups = topic.channels.into_iter();
            all.extend(groups.map(|group| {
                let name = format!("{name}/{}", group.channel_name);
                (name, group.depth + group.in_flight_count + group.deferred_count)
            }));
        }
    }
    all.retain(|(_, count)| *count > 0);
    all.sort();
    all
}

/// Runs the doctor with these brokers.
fn doctor_with(sockets: &tempfile::TempDir, nsqds: &[&Nsqd]) -> Finished {
    let all: Vec<String> = nsqds.iter().map(|nsqd| on(nsqd)).collect();
    doctor(sockets, &format!("--json --watch 0 {}", all.join(" "))).run()
}

/// Returns the command of the only finding of this check.
#[track_caller]
fn remedy(finished: &Finished, check: &str) -> String {
    let mut found = findings(finished);
    found.retain(|(_, of, _)| of == check);
    assert_eq!(found.len(), 1, "one finding of {check}, got {finished:#?}");
    found.remove(0).2
}

/// Pastes a command that only shows something: it must not change a queue.
#[track_caller]
fn only_shows(command: &str, nsqds: &[&Nsqd]) -> Pasted {
    let before = held(nsqds);
    let pasted = paste(command, "");
    assert_eq!(held(nsqds), before, "{command} changed the queues");
    pasted
}

/// Pastes the command of the only finding; this check must be clean then.
#[track_caller]
fn fixes(doctor_with: impl Fn() -> Finished, check: &str, answers: &str) {
    let command = remedy(&doctor_with(), check);
    let pasted = paste(&command, answers);
    assert_eq!(pasted.code, Some(0), "{command}");
    let after = doctor_with();
    assert!(findings(&after).iter().all(|(_, of, _)| of != check), "{command} left {after:#?}");
}

#[test]
fn the_first_group_of_a_stream_is_the_typed_one_and_gets_the_backlog() {
    needs!("nsqd");
    for group in ["1", "tmp#ephemeral", "-x"] {
        let (nsqd, sockets) = (Nsqd::start(), folder());
        nsqd.publish_lines("-foo", b"1\n2\n3");
        let command = the_one(&doctor_with(&sockets, &[&nsqd]), "warning", "streams");
        assert_ne!(paste(&command, "").code, Some(0), "nobody answered");
        assert_ne!(paste(&command, "no group's name\n").code, Some(0), "nsqd refuses it");
        assert_eq!(held(&[&nsqd]), [(format!("{}/-foo", nsqd.http()), 3)]);
        fixes(|| doctor_with(&sockets, &[&nsqd]), "streams", &format!("{group}\n"));
        wait_until("the group has all", || held(&[&nsqd]) == [(format!("{}/-foo/{group}", nsqd.http()), 3)]);
    }
}

#[test]
fn groups_created_from_another_nsqd_each_get_the_backlog() {
    needs!("nsqd");
    for is_paused in [false, true] {
        let (here, there, sockets) = (Nsqd::start(), Nsqd::start(), folder());
        for group in ["a", "-b", "c"] {
            there.create("foo", group);
        }
        here.publish_lines("foo", b"1\n2\n3");
        if is_paused {
            here.post("/topic/pause?topic=foo");
        }
        fixes(|| doctor_with(&sockets, &[&here, &there]), "streams", "");
        if is_paused {
            // the user who paused it has to unpause it
            fixes(|| doctor_with(&sockets, &[&here, &there]), "paused", "");
        }
        let all = ["-b", "a", "c"].map(|group| (format!("{}/foo/{group}", here.http()), 3));
        wait_until("each group has all", || held(&[&here, &there]) == all);
        assert!(!here.stats().topics.iter().any(|topic| topic.paused));
    }
}

#[test]
fn paused_queues_are_unpaused() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    for group in NAMES {
        let in_url = group.replace('#', "%23");
        nsqd.create("foo", &in_url);
        nsqd.post(&format!("/channel/pause?topic=foo&channel={in_url}"));
    }
    assert!(findings(&doctor_with(&sockets, &[&nsqd])).is_empty(), "nothing waits");
    nsqd.publish("foo", b"1");
    let everywhere = || NAMES.iter().all(|group| nsqd.channel("foo", group).depth == 1);
    wait_until("the message in each group", everywhere);
    let mut found = findings(&doctor_with(&sockets, &[&nsqd]));
    found.retain(|(_, check, _)| check == "paused");
    assert_eq!(found.len(), NAMES.len());
    for (_, _, command) in found {
        assert_eq!(paste(&command, "").code, Some(0), "{command}");
    }
    assert!(NAMES.iter().all(|group| !nsqd.channel("foo", group).paused) && everywhere());
    nsqd.post("/topic/pause?topic=foo");
    nsqd.publish("foo", b"2");
    fixes(|| doctor_with(&sockets, &[&nsqd]), "paused", "");
    wait_until("the second message", || NAMES.iter().all(|group| nsqd.channel("foo", group).depth == 2));
}

#[test]
fn groups_without_a_consumer_are_only_shown() {
    needs!("nsqd");
    for name in &NAMES[..3] {
        let (nsqd, sockets) = (Nsqd::start(), folder());
        nsqd.create("foo", name);
        nsqd.publish("foo", b"1");
        wait_until("the message in the group", || nsqd.channel("foo", name).depth == 1);
        let shown = only_shows(&the_one(&doctor_with(&sockets, &[&nsqd]), "warning", "groups"), &[&nsqd]);
        assert!(shown.code == Some(0) && shown.stdout.contains(name), "{shown:?}");
    }
}

#[test]
fn dead_letters_are_listed_in_place() {
    needs!("nsqd");
    for stream in ["foo.dead", "-x.dead", "--drop.dead", ".dead"] {
        let (nsqd, sockets) = (Nsqd::start(), folder());
        nsqd.publish_lines(stream, b"one\ntwo");
        let finished = doctor_with(&sockets, &[&nsqd]);
        let command = the_one(&finished, "warning", "dead-letters");
        assert!(finished.stdout.contains("2 dead letters"), "{finished:?}");
        for _ in 0..2 {
            assert_eq!(paste(&command, "").code, Some(0), "{command}");
            let after = doctor_with(&sockets, &[&nsqd]);
            assert!(after.stdout.contains("2 dead letters"), "{command}: {after:?}");
        }
    }
}

#[test]
fn a_sockets_group_is_created_on_every_given_nsqd() {
    needs!("nsqd", "nsqlookupd");
    let lookupd = Lookupd::start();
    let (listed, named) = (Nsqd::with(&[&format!("--lookupd-tcp-address={}", lookupd.tcp())]), Nsqd::start());
    let sockets = tempfile::Builder::new().prefix("it's $(touch pwned) `x`").tempdir().expect("a temporary folder");
    let _ears = UnixListener::bind(sockets.path().join("-g.sock")).expect("a folder of our own");
    let open = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(sockets.path().join("-g.sock"), open).expect("it is ours");
    named.publish_lines("-foo", b"1\n2");
    let args = format!("--json --watch 0 --lookupd-http-address {} {}", lookupd.http(), on(&named));
    let doctor_with = || doctor(&sockets, &args).run();
    wait_until("the nsqd at nsqlookupd", || doctor_with().stdout.contains(&listed.http()));
    let command = remedy(&doctor_with(), "groups");
    assert_eq!(paste(&command, "-foo\n").code, Some(0), "{command}");
    for nsqd in [&listed, &named] {
        assert_eq!(nsqd.channels("-foo"), ["-g"], "{command}");
    }
    wait_until("the group has all", || named.channel("-foo", "-g").depth == 2);
    assert!(findings(&doctor_with()).is_empty(), "{:#?}", doctor_with());
}

#[test]
fn files_in_a_sockets_place_are_moved_aside_intact() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "g");
    let sockets = tempfile::Builder::new().prefix("it's $(touch pwned)").tempdir().expect("a temporary folder");
    let at = |name: &str| sockets.path().join(name);
    let file = || std::fs::write(at("g.sock"), "precious").expect("a folder of our own");
    file();
    fixes(|| doctor_with(&sockets, &[&nsqd]), "socket", "");
    assert_eq!(std::fs::read_to_string(at("g.sock.old")).expect("it was put aside"), "precious");
    // another file: the first one is kept
    file();
    let command = the_one(&doctor_with(&sockets, &[&nsqd]), "error", "socket");
    assert_ne!(paste(&command, "").code, Some(0), "{command}");
    assert_eq!(listing(sockets.path()), [("g.sock".to_owned(), 8), ("g.sock.old".to_owned(), 8)]);
    std::fs::remove_file(at("g.sock.old")).expect("it is there");
    std::fs::remove_file(at("g.sock")).expect("it is there");
    symlink("/nowhere", at("g.sock")).expect("a folder of our own");
    fixes(|| doctor_with(&sockets, &[&nsqd]), "socket", "");
    assert_eq!(std::fs::read_link(at("g.sock.old")).expect("it was put aside"), Path::new("/nowhere"));
}

#[test]
fn sockets_without_a_listener_are_only_shown() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.create("foo", "g");
    let path = sockets.path().join("g.sock");
    drop(UnixListener::bind(&path).expect("a folder of our own"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).expect("it is ours");
    let finished = doctor_with(&sockets, &[&nsqd]);
    match &findings(&finished)[..] {
        // unknown where processes are hidden
        [] => assert!(finished.stdout.contains("another network namespace"), "{finished:?}"),
        [(_, check, command)] if check == "socket" => drop(only_shows(command, &[&nsqd])),
        other => panic!("{other:?}"),
    }
    assert!(path.exists());
}

#[test]
fn sockets_open_to_everybody_are_restricted_and_keep_their_listener() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.create("foo", "-g");
    let path = sockets.path().join("-g.sock");
    let ears = UnixListener::bind(&path).expect("a folder of our own");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("it is ours");
    fixes(|| doctor_with(&sockets, &[&nsqd]), "socket-mode", "");
    ears.set_nonblocking(true).expect("it is a socket");
    assert!(ears.accept().is_err(), "a consumer was woken");
}

#[test]
fn missing_folders_are_created() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let missing = sockets.path().join("it's $(touch pwned)/not yet");
    let doctor_with =
        || doctor(&sockets, &on(&nsqd)).arg("--json").arg("--socket-dir").arg(&missing.display().to_string()).run();
    fixes(doctor_with, "socket-dir", "");
    assert!(missing.is_dir());
}

#[test]
fn an_nsqd_that_is_down_is_not_started_on_other_data() {
    needs!("nsqd");
    let (mut nsqd, alive, sockets) = (Nsqd::start(), Nsqd::start(), folder());
    nsqd.publish_lines("foo", b"1\n2\n3");
    nsqd.stop();
    let before = listing(nsqd.data_path());
    let found = findings(&doctor_with(&sockets, &[&nsqd, &alive]));
    assert_eq!(found.len(), 2, "over TCP and HTTP: {found:?}");
    for (_, check, command) in found {
        assert_eq!(check, "nsqd");
        only_shows(&command, &[&alive]);
    }
    assert_eq!(listing(nsqd.data_path()), before);
    // its ports are free, and its data is complete
    nsqd.start_again();
    wait_until("all messages", || held(&[&nsqd]) == [(format!("{}/foo", nsqd.http()), 3)]);
}

#[test]
fn an_nsqlookupd_with_no_or_a_wrong_nsqd_is_only_shown() {
    needs!("nsqd", "nsqlookupd");
    let (mut lookupd, sockets) = (Lookupd::start(), folder());
    let args = format!("--json --watch 0 --lookupd-http-address {}", lookupd.http());
    let doctor_with = || doctor(&sockets, &args).run();
    let shown = only_shows(&the_one(&doctor_with(), "warning", "nsqlookupd"), &[]);
    assert!(shown.stdout.contains("producers"), "{shown:?}");
    let flags = [format!("--lookupd-tcp-address={}", lookupd.tcp()), "--broadcast-address=nowhere.invalid".to_owned()];
    let nsqd = Nsqd::with(&flags.each_ref().map(String::as_str));
    nsqd.publish_lines("foo", b"1\n2");
    wait_until("the nsqd at nsqlookupd", || doctor_with().stdout.contains("nowhere.invalid"));
    let found = findings(&doctor_with());
    assert_eq!(found.len(), 2, "{found:?}");
    for (_, _, command) in found {
        let shown = only_shows(&command, &[&nsqd]);
        assert!(shown.code == Some(0) && shown.stdout.contains("nowhere.invalid"), "{shown:?}");
    }
    lookupd.stop();
    only_shows(&the_one(&doctor_with(), "error", "nsqlookupd"), &[&nsqd]);
}

#[test]
fn an_nsqd_given_by_one_port_is_checked_by_both() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let sockets = tempfile::Builder::new().prefix("it's $(touch pwned)").tempdir().expect("a temporary folder");
    let finished = doctor(&sockets, &format!("--json --watch 0 --nsqd-tcp-address {}", nsqd.tcp())).run();
    let command = the_one(&finished, "warning", "nsqd");
    assert!(command.starts_with("mqueue doctor --socket-dir '"), "{command}");
    only_shows(&command, &[&nsqd]);
}

#[test]
fn full_disks_old_versions_and_clock_skew_are_only_shown() {
    let (sockets, listener) = (folder(), TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let address = listener.local_addr().expect("it listens").to_string();
    std::thread::spawn(move || listener.incoming().flatten().for_each(old_nsqd));
    let doctor_with = || doctor(&sockets, &format!("--json --watch 0 --nsqd-http-address {address}")).run();
    for check in ["health", "version"] {
        assert_eq!(only_shows(&remedy(&doctor_with(), check), &[]).code, Some(0), "{check}");
    }
    // this machine may lack the program
    only_shows(&remedy(&doctor_with(), "clock"), &[]);
}

/// Buries a message of group g2, one of two of stream ord, and redrives it: returns the broker, and
/// the retry stream.
fn redriven() -> (Nsqd, String) {
    let nsqd = Nsqd::real(&[]);
    nsqd.create("ord", "g1");
    nsqd.create("ord", "g2");
    nsqd.publish("ord", b"x");
    let args = "--stream ord --group g2 --handler exec:false --max-attempts 1 --timeout 1";
    mqueue(&format!("consumer {args} --nsqd-tcp-address {}", nsqd.tcp())).run();
    let redriven = mqueue(&format!("errors --stream ord --redrive --yes {}", on(&nsqd))).run();
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    let retry = nsqd.stats().topics.into_iter().map(|topic| topic.topic_name).find(|name| name.ends_with(".retry"));
    let retry = retry.expect("the stream of what was redriven");
    wait_until("the message in the retry stream", || nsqd.channel(&retry, "g2").depth == 1);
    (nsqd, retry)
}

#[test]
fn redriven_messages_wait_in_their_own_group() {
    needs!("nsqd");
    let ((nsqd, retry), sockets) = (redriven(), folder());
    let mut found = doctor_with(&sockets, &[&nsqd]).stdout;
    assert!(found.contains("group ord/g2") && !found.contains(&format!("group {retry}")), "{found}");
    let mut all = findings(&doctor_with(&sockets, &[&nsqd]));
    all.retain(|(_, check, command)| check == "groups" && command.contains(".retry "));
    assert_eq!(all.len(), 1, "{all:?}");
    let shown = only_shows(&all[0].2, &[&nsqd]);
    assert!(shown.stdout.contains(&retry), "{shown:?}");
    // a socket of that group wakes it, for both streams
    let ears = UnixListener::bind(sockets.path().join("g2.sock")).expect("a folder of our own");
    ears.set_nonblocking(true).expect("it is a socket");
    let said = wakeup(&[&nsqd], sockets.path()).run();
    assert!(ears.accept().is_ok(), "it is woken: {said:?}");
    assert!(!said.stderr.contains("is claimed by") && said.stderr.contains("stream=ord"), "{said:?}");
    found = doctor_with(&sockets, &[&nsqd]).stdout;
    assert!(!found.contains("group ord/g2"), "its socket is there: {found}");
}

#[test]
fn a_group_that_only_its_retry_stream_has_is_missing_and_created_again() {
    needs!("nsqd");
    for is_empty in [false, true] {
        let ((nsqd, retry), sockets) = (redriven(), folder());
        nsqd.post("/channel/delete?topic=ord&channel=g2");
        if is_empty {
            nsqd.post(&format!("/channel/empty?topic={retry}&channel=g2"));
        }
        let path = sockets.path().join("g2.sock");
        let ears = UnixListener::bind(&path).expect("a folder of our own");
        ears.set_nonblocking(true).expect("it is a socket");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).expect("it is ours");
        let said = wakeup(&[&nsqd], sockets.path()).run();
        assert_eq!(ears.accept().is_err(), is_empty, "what was redriven waits for it: {said:?}");
        let by_wakeup = between(
            &said,
            "stream ord has no group g2 any more, so it gets only what was redriven to it: ",
            " creates it",
        );
        let is_missing = || {
            let mut found = findings(&doctor_with(&sockets, &[&nsqd]));
            found.retain(|(_, _, command)| command.contains("--create"));
            found
        };
        let found = is_missing();
        assert_eq!(found.len(), 1, "{:#?}", doctor_with(&sockets, &[&nsqd]));
        for command in [&by_wakeup, &found[0].2] {
            if nsqd.channels("ord").contains(&"g2".to_owned()) {
                nsqd.post("/channel/delete?topic=ord&channel=g2");
            }
            assert_eq!(paste(command, "").code, Some(0), "{command}");
            assert!(nsqd.channels("ord").contains(&"g2".to_owned()), "{command}");
        }
        assert!(is_missing().is_empty(), "{:#?}", doctor_with(&sockets, &[&nsqd]));
        let said = wakeup(&[&nsqd], sockets.path()).run();
        assert!(!said.stderr.contains("any more"), "{said:?}");
    }
}

#[test]
fn messages_that_a_group_of_a_paused_stream_has_already_are_reported() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.create("foo", "g");
    nsqd.publish("foo", b"1");
    wait_until("the message in the group", || nsqd.channel("foo", "g").depth == 1);
    nsqd.post("/topic/pause?topic=foo");
    only_shows(&the_one(&doctor_with(&sockets, &[&nsqd]), "warning", "groups"), &[&nsqd]);
}

/// Returns a wakeup with these sockets.
fn wakeup(nsqds: &[&Nsqd], sockets: &Path) -> Mqueue {
    let http: Vec<String> = nsqds.iter().map(|nsqd| nsqd.http()).collect();
    mqueue(&format!("wakeup --once --nsqd-http-address {}", http.join(",")))
        .arg("--socket-dir")
        .arg(&sockets.display().to_string())
}

/// Returns the command between these words of a stderr line.
#[track_caller]
fn between(finished: &Finished, before: &str, after: &str) -> String {
    let line = finished.stderr.lines().find(|line| line.contains(before)).unwrap_or_else(|| panic!("{finished:?}"));
    let rest = line.split_once(before).expect("it is there").1;
    rest.split(after).next().expect("there is a first").to_owned()
}

#[test]
fn wakeups_command_creates_all_groups_missing_on_an_nsqd() {
    needs!("nsqd");
    let (here, there, sockets) = (Nsqd::start(), Nsqd::start(), folder());
    for group in ["-b", "a", "c"] {
        there.create("-foo", group);
    }
    let ears = UnixListener::bind(sockets.path().join("-b.sock")).expect("a folder of our own");
    ears.set_nonblocking(true).expect("it is a socket");
    here.publish_lines("-foo", b"1\n2");
    let said = wakeup(&[&here, &there], sockets.path()).run();
    let command = between(&said, "where groups -b, a, c are missing: ", " creates them there");
    assert!(ears.accept().is_err(), "nothing waits for it yet");
    assert_eq!(paste(&command, "").code, Some(0), "{command}");
    let all = ["-b", "a", "c"].map(|group| (format!("{}/-foo/{group}", here.http()), 2));
    wait_until("each group has all", || held(&[&here, &there]) == all);
    let said = wakeup(&[&here, &there], sockets.path()).run();
    assert!(!said.stderr.contains("are missing"), "{said:?}");
    assert!(ears.accept().is_ok(), "now it is woken: {said:?}");
}

#[test]
fn wakeups_command_creates_a_sockets_group() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let path = sockets.path().join("-g.sock");
    let ears = UnixListener::bind(&path).expect("a folder of our own");
    ears.set_nonblocking(true).expect("it is a socket");
    nsqd.publish_lines("-foo", b"1\n2");
    let empty = folder();
    let doctor_with = || wakeup(&[&nsqd], empty.path()).arg("--socket").arg(&path.display().to_string()).run();
    let command = between(&doctor_with(), "and no group: ", " creates it");
    assert_eq!(paste(&command, "").code, Some(0), "{command}");
    wait_until("the group has all", || held(&[&nsqd]) == [(format!("{}/-foo/-g", nsqd.http()), 2)]);
    let said = doctor_with();
    assert!(!said.stderr.contains("no stream has a group"), "{said:?}");
    assert!(ears.accept().is_ok(), "now it is woken: {said:?}");
}

//! Every command that doctor and wakeup print is pasted into a shell: the finding is gone, or the command only looks; no message is lost, nobody's
//! work ends, and no name that a peer chose is more than a name.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::doctor::{Pasted, doctor, findings, folder, listing, old_nsqd, on, paste, the_one};
use crate::support::{Finished, Lookupd, Mqueue, Nsqd, mqueue, needs, wait_until};

/// Names that NSQ allows, and a shell, curl or clap may take for something else.
const NAMES: [&str; 4] = ["-x", "--help", "a.b_c-d", "tmp#ephemeral"];

/// What the brokers have of messages: before their groups, and waiting, in flight or deferred in each.
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

/// A look of the doctor at these brokers.
fn look(sockets: &tempfile::TempDir, nsqds: &[&Nsqd]) -> Finished {
    let all: Vec<String> = nsqds.iter().map(|nsqd| on(nsqd)).collect();
    doctor(sockets, &format!("--json --watch 0 {}", all.join(" "))).run()
}

/// The command of the one finding of this check, whatever else is found.
#[track_caller]
fn remedy(finished: &Finished, check: &str) -> String {
    let mut found = findings(finished);
    found.retain(|(_, of, _)| of == check);
    assert_eq!(found.len(), 1, "one finding of {check}, got {finished:#?}");
    found.remove(0).2
}

/// Pastes a command that only looks: it changes no queue.
#[track_caller]
fn only_looks(command: &str, nsqds: &[&Nsqd]) -> Pasted {
    let before = held(nsqds);
    let pasted = paste(command, "");
    assert_eq!(held(nsqds), before, "{command} changed the queues");
    pasted
}

/// Pastes the command of the one finding: then there is none of this check.
#[track_caller]
fn mends(look: impl Fn() -> Finished, check: &str, answers: &str) {
    let command = remedy(&look(), check);
    let pasted = paste(&command, answers);
    assert_eq!(pasted.code, Some(0), "{command}");
    let after = look();
    assert!(findings(&after).iter().all(|(_, of, _)| of != check), "{command} left {after:#?}");
}

#[test]
fn a_streams_first_group_is_the_one_that_is_named_and_gets_all() {
    needs!("nsqd");
    for group in ["1", "tmp#ephemeral", "-x"] {
        let (nsqd, sockets) = (Nsqd::start(), folder());
        nsqd.publish_lines("-foo", b"1\n2\n3");
        let command = the_one(&look(&sockets, &[&nsqd]), "warning", "streams");
        assert_ne!(paste(&command, "").code, Some(0), "nobody answered");
        assert_ne!(paste(&command, "no group's name\n").code, Some(0), "nsqd refuses it");
        assert_eq!(held(&[&nsqd]), [(format!("{}/-foo", nsqd.http()), 3)]);
        mends(|| look(&sockets, &[&nsqd]), "streams", &format!("{group}\n"));
        wait_until("the group has all", || held(&[&nsqd]) == [(format!("{}/-foo/{group}", nsqd.http()), 3)]);
    }
}

#[test]
fn groups_that_are_on_another_nsqd_each_get_all() {
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
        mends(|| look(&sockets, &[&here, &there]), "streams", "");
        if is_paused {
            // which is for people to end
            mends(|| look(&sockets, &[&here, &there]), "paused", "");
        }
        let all = ["-b", "a", "c"].map(|group| (format!("{}/foo/{group}", here.http()), 3));
        wait_until("each group has all", || held(&[&here, &there]) == all);
        assert!(!here.stats().topics.iter().any(|topic| topic.paused));
    }
}

#[test]
fn paused_queues_go_on() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    for group in NAMES {
        let in_url = group.replace('#', "%23");
        nsqd.create("foo", &in_url);
        nsqd.post(&format!("/channel/pause?topic=foo&channel={in_url}"));
    }
    assert!(findings(&look(&sockets, &[&nsqd])).is_empty(), "nothing waits");
    nsqd.publish("foo", b"1");
    let everywhere = || NAMES.iter().all(|group| nsqd.channel("foo", group).depth == 1);
    wait_until("the message in each group", everywhere);
    let mut found = findings(&look(&sockets, &[&nsqd]));
    found.retain(|(_, check, _)| check == "paused");
    assert_eq!(found.len(), NAMES.len());
    for (_, _, command) in found {
        assert_eq!(paste(&command, "").code, Some(0), "{command}");
    }
    assert!(NAMES.iter().all(|group| !nsqd.channel("foo", group).paused) && everywhere());
    nsqd.post("/topic/pause?topic=foo");
    nsqd.publish("foo", b"2");
    mends(|| look(&sockets, &[&nsqd]), "paused", "");
    wait_until("the second message", || NAMES.iter().all(|group| nsqd.channel("foo", group).depth == 2));
}

#[test]
fn a_group_without_anybody_is_looked_at() {
    needs!("nsqd");
    for name in &NAMES[..3] {
        let (nsqd, sockets) = (Nsqd::start(), folder());
        nsqd.create("foo", name);
        nsqd.publish("foo", b"1");
        wait_until("the message in the group", || nsqd.channel("foo", name).depth == 1);
        let shown = only_looks(&the_one(&look(&sockets, &[&nsqd]), "warning", "groups"), &[&nsqd]);
        assert!(shown.code == Some(0) && shown.stdout.contains(name), "{shown:?}");
    }
}

#[test]
fn dead_letters_are_listed_where_they_are() {
    needs!("nsqd");
    for stream in ["foo.dead", "-x.dead", "--drop.dead", ".dead"] {
        let (nsqd, sockets) = (Nsqd::start(), folder());
        nsqd.publish_lines(stream, b"one\ntwo");
        let finished = look(&sockets, &[&nsqd]);
        let command = the_one(&finished, "warning", "dead-letters");
        assert!(finished.stdout.contains("2 dead letters"), "{finished:?}");
        for _ in 0..2 {
            assert_eq!(paste(&command, "").code, Some(0), "{command}");
            let after = look(&sockets, &[&nsqd]);
            assert!(after.stdout.contains("2 dead letters"), "{command}: {after:?}");
        }
    }
}

#[test]
fn a_sockets_group_is_created_on_every_nsqd_that_was_named() {
    needs!("nsqd", "nsqlookupd");
    let lookupd = Lookupd::start();
    let (listed, named) = (Nsqd::with(&[&format!("--lookupd-tcp-address={}", lookupd.tcp())]), Nsqd::start());
    let sockets = tempfile::Builder::new().prefix("it's $(touch pwned) `x`").tempdir().expect("a temporary folder");
    let _ears = UnixListener::bind(sockets.path().join("-g.sock")).expect("a folder of our own");
    let open = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(sockets.path().join("-g.sock"), open).expect("it is ours");
    named.publish_lines("-foo", b"1\n2");
    let args = format!("--json --watch 0 --lookupd-http-address {} {}", lookupd.http(), on(&named));
    let look = || doctor(&sockets, &args).run();
    wait_until("the nsqd at nsqlookupd", || look().stdout.contains(&listed.http()));
    let command = remedy(&look(), "groups");
    assert_eq!(paste(&command, "-foo\n").code, Some(0), "{command}");
    for nsqd in [&listed, &named] {
        assert_eq!(nsqd.channels("-foo"), ["-g"], "{command}");
    }
    wait_until("the group has all", || named.channel("-foo", "-g").depth == 2);
    assert!(findings(&look()).is_empty(), "{:#?}", look());
}

#[test]
fn what_stands_in_a_sockets_place_is_put_aside_and_whole() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "g");
    let sockets = tempfile::Builder::new().prefix("it's $(touch pwned)").tempdir().expect("a temporary folder");
    let at = |name: &str| sockets.path().join(name);
    let file = || std::fs::write(at("g.sock"), "precious").expect("a folder of our own");
    file();
    mends(|| look(&sockets, &[&nsqd]), "socket", "");
    assert_eq!(std::fs::read_to_string(at("g.sock.old")).expect("it was put aside"), "precious");
    // another one: the first stays
    file();
    let command = the_one(&look(&sockets, &[&nsqd]), "error", "socket");
    assert_ne!(paste(&command, "").code, Some(0), "{command}");
    assert_eq!(listing(sockets.path()), [("g.sock".to_owned(), 8), ("g.sock.old".to_owned(), 8)]);
    std::fs::remove_file(at("g.sock.old")).expect("it is there");
    std::fs::remove_file(at("g.sock")).expect("it is there");
    symlink("/nowhere", at("g.sock")).expect("a folder of our own");
    mends(|| look(&sockets, &[&nsqd]), "socket", "");
    assert_eq!(std::fs::read_link(at("g.sock.old")).expect("it was put aside"), Path::new("/nowhere"));
}

#[test]
fn a_socket_without_a_listener_is_looked_at_and_stays() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.create("foo", "g");
    let path = sockets.path().join("g.sock");
    drop(UnixListener::bind(&path).expect("a folder of our own"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).expect("it is ours");
    let finished = look(&sockets, &[&nsqd]);
    match &findings(&finished)[..] {
        // where processes are hidden nobody knows
        [] => assert!(finished.stdout.contains("another network namespace"), "{finished:?}"),
        [(_, check, command)] if check == "socket" => drop(only_looks(command, &[&nsqd])),
        other => panic!("{other:?}"),
    }
    assert!(path.exists());
}

#[test]
fn a_socket_that_everybody_may_poke_is_closed_to_them_and_still_heard() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    nsqd.create("foo", "-g");
    let path = sockets.path().join("-g.sock");
    let ears = UnixListener::bind(&path).expect("a folder of our own");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("it is ours");
    mends(|| look(&sockets, &[&nsqd]), "socket-mode", "");
    ears.set_nonblocking(true).expect("it is a socket");
    assert!(ears.accept().is_err(), "a consumer was woken");
}

#[test]
fn a_folder_that_is_not_there_is_made() {
    needs!("nsqd");
    let (nsqd, sockets) = (Nsqd::start(), folder());
    let missing = sockets.path().join("it's $(touch pwned)/not yet");
    let look =
        || doctor(&sockets, &on(&nsqd)).arg("--json").arg("--socket-dir").arg(&missing.display().to_string()).run();
    mends(look, "socket-dir", "");
    assert!(missing.is_dir());
}

#[test]
fn an_nsqd_that_is_down_is_not_started_on_other_data() {
    needs!("nsqd");
    let (mut nsqd, alive, sockets) = (Nsqd::start(), Nsqd::start(), folder());
    nsqd.publish_lines("foo", b"1\n2\n3");
    nsqd.stop();
    let before = listing(nsqd.data_path());
    let found = findings(&look(&sockets, &[&nsqd, &alive]));
    assert_eq!(found.len(), 2, "over TCP and HTTP: {found:?}");
    for (_, check, command) in found {
        assert_eq!(check, "nsqd");
        only_looks(&command, &[&alive]);
    }
    assert_eq!(listing(nsqd.data_path()), before);
    // its ports are free, and it has what it had
    nsqd.start_again();
    wait_until("all messages", || held(&[&nsqd]) == [(format!("{}/foo", nsqd.http()), 3)]);
}

#[test]
fn an_nsqlookupd_without_an_nsqd_or_with_a_wrong_one_is_looked_at() {
    needs!("nsqd", "nsqlookupd");
    let (mut lookupd, sockets) = (Lookupd::start(), folder());
    let args = format!("--json --watch 0 --lookupd-http-address {}", lookupd.http());
    let look = || doctor(&sockets, &args).run();
    let shown = only_looks(&the_one(&look(), "warning", "nsqlookupd"), &[]);
    assert!(shown.stdout.contains("producers"), "{shown:?}");
    let flags = [format!("--lookupd-tcp-address={}", lookupd.tcp()), "--broadcast-address=nowhere.invalid".to_owned()];
    let nsqd = Nsqd::with(&flags.each_ref().map(String::as_str));
    nsqd.publish_lines("foo", b"1\n2");
    wait_until("the nsqd at nsqlookupd", || look().stdout.contains("nowhere.invalid"));
    let found = findings(&look());
    assert_eq!(found.len(), 2, "{found:?}");
    for (_, _, command) in found {
        let shown = only_looks(&command, &[&nsqd]);
        assert!(shown.code == Some(0) && shown.stdout.contains("nowhere.invalid"), "{shown:?}");
    }
    lookupd.stop();
    only_looks(&the_one(&look(), "error", "nsqlookupd"), &[&nsqd]);
}

#[test]
fn an_nsqd_known_by_one_port_is_looked_at_by_both() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let sockets = tempfile::Builder::new().prefix("it's $(touch pwned)").tempdir().expect("a temporary folder");
    let finished = doctor(&sockets, &format!("--json --watch 0 --nsqd-tcp-address {}", nsqd.tcp())).run();
    let command = the_one(&finished, "warning", "nsqd");
    assert!(command.starts_with("mqueue doctor --socket-dir '"), "{command}");
    only_looks(&command, &[&nsqd]);
}

#[test]
fn a_full_disk_an_old_version_and_another_clock_are_looked_at() {
    let (sockets, listener) = (folder(), TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let address = listener.local_addr().expect("it listens").to_string();
    std::thread::spawn(move || listener.incoming().flatten().for_each(old_nsqd));
    let look = || doctor(&sockets, &format!("--json --watch 0 --nsqd-http-address {address}")).run();
    for check in ["health", "version"] {
        assert_eq!(only_looks(&remedy(&look(), check), &[]).code, Some(0), "{check}");
    }
    // this machine need not have it
    only_looks(&remedy(&look(), "clock"), &[]);
}

/// A wakeup with these sockets.
fn wakeup(nsqds: &[&Nsqd], sockets: &Path) -> Mqueue {
    let http: Vec<String> = nsqds.iter().map(|nsqd| nsqd.http()).collect();
    mqueue(&format!("wakeup --once --nsqd-http-address {}", http.join(",")))
        .arg("--socket-dir")
        .arg(&sockets.display().to_string())
}

/// The command between these words of a line of stderr.
#[track_caller]
fn between(finished: &Finished, before: &str, after: &str) -> String {
    let line = finished.stderr.lines().find(|line| line.contains(before)).unwrap_or_else(|| panic!("{finished:?}"));
    let rest = line.split_once(before).expect("it is there").1;
    rest.split(after).next().expect("there is a first").to_owned()
}

#[test]
fn wakeups_command_makes_all_groups_that_are_on_another_nsqd_only() {
    needs!("nsqd");
    let (here, there, sockets) = (Nsqd::start(), Nsqd::start(), folder());
    for group in ["-b", "a", "c"] {
        there.create("-foo", group);
    }
    let ears = UnixListener::bind(sockets.path().join("-b.sock")).expect("a folder of our own");
    ears.set_nonblocking(true).expect("it is a socket");
    here.publish_lines("-foo", b"1\n2");
    let said = wakeup(&[&here, &there], sockets.path()).run();
    let command = between(&said, "where groups -b, a, c are not: ", " makes them there");
    assert!(ears.accept().is_err(), "nothing waits for it yet");
    assert_eq!(paste(&command, "").code, Some(0), "{command}");
    let all = ["-b", "a", "c"].map(|group| (format!("{}/-foo/{group}", here.http()), 2));
    wait_until("each group has all", || held(&[&here, &there]) == all);
    let said = wakeup(&[&here, &there], sockets.path()).run();
    assert!(!said.stderr.contains("are not"), "{said:?}");
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
    let look = || wakeup(&[&nsqd], empty.path()).arg("--socket").arg(&path.display().to_string()).run();
    let command = between(&look(), "and no group: ", " creates it");
    assert_eq!(paste(&command, "").code, Some(0), "{command}");
    wait_until("the group has all", || held(&[&nsqd]) == [(format!("{}/-foo/-g", nsqd.http()), 2)]);
    let said = look();
    assert!(!said.stderr.contains("no stream has a group"), "{said:?}");
    assert!(ears.accept().is_ok(), "now it is woken: {said:?}");
}

//! The pokes of `mqueue wakeup` after polls of real nsqds.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Doors, Nsqd, Told, consumer, mqueue, needs, wait_until};

/// Returns `count` lines.
fn lines(count: usize) -> Vec<u8> {
    (0..count).map(|number| format!("{number}\n")).collect::<String>().into_bytes()
}

#[test]
fn a_waiting_message_wakes_only_its_group() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock", "2.sock"]));
    nsqd.create("foo", "1");
    nsqd.create("bar", "2");
    nsqd.publish("foo", b"x");
    let wakeup = doors.wakeup(&nsqd, "--no-edge").start();
    doors.wait_for_poke("1.sock");
    assert_eq!(doors.pokes("2.sock"), 0, "{}", wakeup.stderr());
}

#[test]
fn unanswered_pokes_are_repeated_between_polls() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    nsqd.publish("foo", b"x");
    let _wakeup = doors.wakeup(&nsqd, "--no-edge --poll-interval 1h").start();
    wait_until("two pokes", || doors.pokes("1.sock") == 2);
}

#[test]
fn orphaned_in_flight_messages_are_logged_once_and_wake_the_group_after_their_timeout() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::with_channel("foo", "1"), Doors::new(&["1.sock"]));
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms").start();
    let working = consumer(&nsqd.tcp(), "--handler sleep:60s --concurrency 3 --msg-timeout 4s").start();
    nsqd.wait_for_clients("foo", "1", 1);
    nsqd.publish_lines("foo", &lines(3));
    wait_until("3 in flight", || nsqd.channel("foo", "1").in_flight_count == 3);
    let poked_before = doors.pokes("1.sock");
    working.signal(Signal::SIGKILL);
    wakeup.wait_to_say("3 in flight to disconnected consumers");
    assert_eq!(doors.pokes("1.sock"), poked_before, "nothing can be handled yet");
    doors.wait_for_poke("1.sock");
    assert_ne!(nsqd.channel("foo", "1").depth, 0, "it was woken for messages that are back");
    assert_eq!(wakeup.times_said("in flight to disconnected consumers"), 1);
}

#[test]
fn deferred_messages_wake_their_group_within_a_poll_when_due() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::with_channel("foo", "1"), Doors::new(&["1.sock"]));
    let wakeup = doors.wakeup(&nsqd, "--listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    nsqd.publish_later("foo", b"x", 2500);
    wait_until("it is seen as deferred", || told.group("foo", "1")["deferred"] == 1);
    assert_eq!(doors.pokes("1.sock"), 0);
    wait_until("it is due", || nsqd.channel("foo", "1").depth == 1);
    let due = Instant::now();
    doors.wait_for_poke("1.sock");
    let after = due.elapsed();
    eprintln!("poked {after:?} after a deferred message fell due, at a poll each second");
    assert!(after < Duration::from_millis(1800), "{after:?}");
}

#[test]
fn depth_decides_how_many_consumers_are_woken() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1@1.sock", "1@2.sock", "1@3.sock", "1@4.sock"]));
    nsqd.create("foo", "1");
    let _working = consumer(&nsqd.tcp(), "--handler sleep:60s --max-in-flight 1").start();
    nsqd.wait_for_clients("foo", "1", 1);
    let wakeup = doors.wakeup(&nsqd, "--per-consumer 10 --poll-interval 50ms --listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    // one is in flight, and one consumer suffices for the rest
    nsqd.publish_lines("foo", &lines(8));
    wait_until("depth 7", || told.group("foo", "1")["depth"] == 7);
    told.wait_for_polls(3);
    assert_eq!(doors.all_pokes(), [0, 0, 0, 0], "{}", wakeup.stderr());
    nsqd.publish_lines("foo", &lines(15));
    wait_until("three are poked", || doors.all_pokes()[..3].iter().all(|pokes| *pokes > 0));
    assert_eq!(doors.pokes("1@4.sock"), 0, "22 messages are for three");
}

#[test]
fn a_socket_without_a_group_is_logged_once_with_a_working_remedy() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.publish_lines("foo", &lines(3));
    nsqd.publish("foo.dead", b"x");
    let socket = doors.at("1.sock").display().to_string();
    let wakeup = mqueue(&format!("wakeup --nsqd-http-address {} --socket {socket}", nsqd.http()))
        .arg("--poll-interval=50ms")
        .arg("--listen=127.0.0.1:0")
        .start();
    let told = Told::by(&wakeup);
    wakeup.wait_to_say(&format!("no stream has a group 1, so nothing wakes the consumer of {socket}"));
    told.wait_for_polls(3);
    assert_eq!(wakeup.times_said("no stream has a group"), 1, "{}", wakeup.stderr());
    assert_eq!(told.metric("mqueue_wakeup_sockets_without_group"), 1.0);
    assert!(nsqd.channels("foo").is_empty(), "wakeup makes no channel there: it would get the backlog");
    nsqd.publish_lines("foo", &lines(9));
    let remedy =
        "if it is for foo, which has 12 messages and no group: mqueue consumer --create --stream=foo --group=1";
    wakeup.wait_to_say(remedy);
    let said = wakeup.stderr();
    assert!(!said.contains("foo.dead"), "dead letters are nobody's to consume: {said}");
    let command = said.split("mqueue consumer").nth(1).and_then(|rest| rest.split(" creates it").next()).unwrap();
    assert_eq!(mqueue(&format!("consumer {command}")).run().code, Some(0), "{command}");
    doors.wait_for_poke("1.sock");
    wait_until("that is over", || told.metric("mqueue_wakeup_sockets_without_group") == 0.0);
    assert_eq!(nsqd.channel("foo", "1").depth, 12, "creating the group took nothing");
}

#[test]
fn the_remedy_for_a_socket_that_systemd_does_not_hold_names_no_unit() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["lonely@2.sock"]));
    nsqd.publish("foo", b"x");
    let once = doors.wakeup(&nsqd, "--once").run();
    assert!(once.stderr.contains("no stream has a group lonely,"), "{}", once.stderr);
    let remedy =
        "if it is for foo, which has 1 message and no group: mqueue consumer --create --stream=foo --group=lonely";
    assert!(once.stderr.contains(remedy) && !once.stderr.contains("systemctl"), "{}", once.stderr);
}

#[test]
fn no_group_is_reported_missing_while_an_nsqd_is_unreachable() {
    needs!("nsqd");
    let (nsqd, mut other) = (Nsqd::start(), Nsqd::start());
    other.stop();
    let doors = Doors::new(&["1.sock"]);
    let once = doors.wakeup_by(&format!("--once --nsqd-http-address {},{}", nsqd.http(), other.http())).run();
    assert!(once.stderr.contains(&other.http()) && !once.stderr.contains("no stream has"), "{}", once.stderr);
}

#[test]
fn messages_on_an_nsqd_without_their_group_are_logged_once_with_a_working_remedy() {
    needs!("nsqd");
    let (first, second, doors) = (Nsqd::start(), Nsqd::start(), Doors::new(&["1.sock"]));
    first.create("foo", "1");
    second.publish_lines("foo", &lines(3));
    let both = format!("--nsqd-http-address {},{} --poll-interval 50ms", first.http(), second.http());
    let wakeup = doors.wakeup_by(&both).start();
    wakeup.wait_to_say(&format!("stream foo has 3 messages on nsqd {}, where group 1 is missing", second.http()));
    let said = wakeup.stderr();
    let remedy = said.split("is missing: mqueue ").nth(1).and_then(|rest| rest.split(" creates it").next()).unwrap();
    assert_eq!(mqueue(remedy).run().code, Some(0), "{remedy}");
    doors.wait_for_poke("1.sock");
    assert_eq!(wakeup.times_said("where group 1 is missing"), 1);
}

#[test]
fn unanswered_pokes_are_a_warning_once_and_woken_consumers_are_logged() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    nsqd.publish("foo", b"x");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    wakeup.wait_to_say("poked: 1 waiting");
    assert_eq!(wakeup.times_said("woken"), 0, "nobody came: {}", wakeup.stderr());
    wakeup.wait_to_say("no consumer came: see what whoever listens on it says");
    told.wait_for_polls(3);
    assert_eq!(wakeup.times_said("no consumer came"), 1, "{}", wakeup.stderr());
    assert_eq!(told.metric("mqueue_wakeup_unanswered"), 1.0);
    assert_eq!(told.metric("mqueue_wakeup_wakes_total"), 0.0);
    assert!(told.group("foo", "1")["sockets"][0]["pokes_without_consumer"].as_u64() >= Some(3));
    assert_eq!(consumer(&nsqd.tcp(), "--count 1").run().code, Some(0));
    wakeup.wait_to_say("woken: its consumer came within");
    assert_eq!(told.metric("mqueue_wakeup_unanswered"), 0.0);
    assert_eq!(told.metric("mqueue_wakeup_wakes_total"), 1.0);
    assert_eq!(told.group("foo", "1")["sockets"][0]["pokes_without_consumer"], 0);
}

#[test]
fn paused_groups_are_not_woken_and_logged_once() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    nsqd.post("/channel/pause?topic=foo&channel=1");
    nsqd.publish("foo", b"x");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    wakeup.wait_to_say("is paused");
    wakeup.wait_to_say(&format!("socket={}", doors.at("1.sock").display()));
    Told::by(&wakeup).wait_for_polls(3);
    assert_eq!((doors.pokes("1.sock"), wakeup.times_said("is paused")), (0, 1));
    nsqd.post("/channel/unpause?topic=foo&channel=1");
    doors.wait_for_poke("1.sock");
}

#[test]
fn messages_that_a_group_of_a_paused_stream_has_already_wake_it() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    nsqd.publish("foo", b"x");
    wait_until("the message in the group", || nsqd.channel("foo", "1").depth == 1);
    nsqd.post("/topic/pause?topic=foo");
    let once = doors.wakeup(&nsqd, "--once").run();
    assert_eq!((once.code, doors.pokes("1.sock")), (Some(0), 1), "{}", once.stderr);
    assert!(!once.stderr.contains("is paused"), "{}", once.stderr);
    let handled = consumer(&nsqd.tcp(), "--handler print --timeout 1").run();
    assert_eq!(handled.code, Some(0), "the consumer gets it: {handled:?}");
    assert_eq!(nsqd.channel("foo", "1").depth, 0, "the consumer gets it: {handled:?}");
}

#[test]
fn new_streams_groups_and_sockets_are_found() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&[]));
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    nsqd.create("foo", "1");
    nsqd.publish("foo", b"x");
    Told::by(&wakeup).wait_for_polls(2);
    doors.open("1.sock");
    doors.wait_for_poke("1.sock");
    doors.close("1.sock");
    std::fs::remove_file(doors.at("1.sock")).unwrap();
    Told::by(&wakeup).wait_for_polls(2);
    doors.open("1.sock");
    doors.wait_for_poke("1.sock");
}

#[test]
fn once_pokes_and_exits_and_a_dry_run_pokes_nothing() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    nsqd.publish("foo", b"x");
    let dry = doors.wakeup(&nsqd, "--once --dry-run").run();
    let line = format!("would wake group 1 of stream foo by {}: 1 waiting\n", doors.at("1.sock").display());
    assert_eq!((dry.code, dry.stdout), (Some(0), line));
    assert_eq!(doors.pokes("1.sock"), 0);
    assert_eq!(doors.wakeup(&nsqd, "--once").run().code, Some(0));
    assert_eq!(doors.pokes("1.sock"), 1);
}

#[test]
fn systemd_is_notified_of_ready_status_watchdog_and_stopping() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    let systemd = UnixDatagram::bind(doors.at("notify")).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let note = || {
        let mut bytes = [0; 1024];
        let length = systemd.recv(&mut bytes).expect("a note comes");
        String::from_utf8(bytes[..length].to_vec()).unwrap().trim_end().to_owned()
    };
    // watchdog keep-alives do not wait for polls
    let wakeup = doors
        .wakeup(&nsqd, "--poll-interval 1h")
        .env("NOTIFY_SOCKET", doors.at("notify").to_str().unwrap())
        .env("WATCHDOG_USEC", "300000")
        .start();
    let mut notes = Vec::new();
    while notes.iter().filter(|note| *note == "WATCHDOG=1").count() < 4 || !notes.contains(&"READY=1".to_owned()) {
        notes.push(note());
    }
    let status = "STATUS=woke 0, watching 1 group on 1 stream, 1 asleep".to_owned();
    assert!(notes.contains(&status), "{notes:?}");
    wakeup.signal(Signal::SIGTERM);
    while note() != "STOPPING=1" {}
    assert_eq!(wakeup.finish().code, Some(0));
}

//! The subscriptions of `mqueue wakeup` for immediate notice of messages: when they exist, and what
//! they leave behind.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::support::{Doors, Nsqd, Told, consumer, needs, wait_until};

#[test]
fn messages_wake_long_before_the_next_poll() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    let _wakeup = doors.wakeup(&nsqd, "--poll-interval 1h").start();
    wait_until("wakeup listens", || nsqd.is_heard("foo"));
    let start = Instant::now();
    nsqd.publish("foo", b"x");
    doors.wait_for_poke("1.sock");
    eprintln!("poked {:?} after the publish began", start.elapsed());
    wait_until("it listens no longer", || !nsqd.is_heard("foo"));
}

#[test]
fn large_messages_are_not_read_while_a_consumer_is_awake() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    wait_until("wakeup listens", || nsqd.is_heard("foo"));
    let awake = consumer(&nsqd.tcp(), "--handler sleep:0ms").start();
    nsqd.wait_for_clients("foo", "1", 1);
    wait_until("it listens no longer", || !nsqd.is_heard("foo"));
    let (before, body) = (wakeup.rss(), vec![b'x'; 1_000_000]);
    for number in 0..100 {
        nsqd.publish("foo", &body);
        assert!(!nsqd.is_heard("foo"), "message {number} goes to wakeup, too");
    }
    nsqd.wait_for_empty("foo", "1");
    let grown = wakeup.rss().saturating_sub(before);
    eprintln!("wakeup's RSS: {before} KiB before 100 messages of 1 MB, {grown} KiB more after");
    assert!(grown < 1024, "{grown} KiB");
    assert_eq!(told.metric("mqueue_wakeup_heard_total"), 0.0);
    awake.signal(Signal::SIGTERM);
    awake.finish();
    wait_until("wakeup listens again", || nsqd.is_heard("foo"));
}

#[test]
fn only_the_beginning_of_a_large_message_is_read() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::with(&["--max-msg-size=52428800"]), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 1h").start();
    wait_until("wakeup listens", || nsqd.is_heard("foo"));
    let before = wakeup.rss();
    nsqd.publish("foo", &vec![b'x'; 50_000_000]);
    doors.wait_for_poke("1.sock");
    let grown = wakeup.rss().saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB for a message of 50 MB");
}

#[test]
fn deleted_streams_and_groups_stay_deleted() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    nsqd.create("bar", "1");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    let told = Told::by(&wakeup);
    wait_until("wakeup listens", || nsqd.is_heard("foo") && nsqd.is_heard("bar"));
    nsqd.delete_topic("foo");
    nsqd.post("/channel/delete?topic=bar&channel=1");
    wait_until("it listens to nothing", || told.metric("mqueue_wakeup_subscriptions") == 0.0);
    told.wait_for_polls(5);
    assert!(nsqd.stats().topics.iter().all(|topic| topic.topic_name != "foo"), "foo is back");
    assert_eq!(nsqd.channels("bar"), Vec::<String>::new());
}

#[test]
fn wakeup_leaves_nothing_on_nsqd() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let wakeup = doors.wakeup(&nsqd, "").start();
        wait_until("wakeup listens", || nsqd.is_heard("foo"));
        wakeup.signal(signal);
        wakeup.finish();
        wait_until("its channel is gone", || nsqd.channels("foo") == ["1"]);
    }
}

#[test]
fn an_nsqd_that_refuses_subscriptions_is_still_polled() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::real(&["--auth-http-address=127.0.0.1:9"]), Doors::new(&["1.sock"]));
    nsqd.create("foo", "1");
    let wakeup = doors.wakeup(&nsqd, "--poll-interval 50ms --listen 127.0.0.1:0").start();
    Told::by(&wakeup).wait_for_polls(3);
    nsqd.publish("foo", b"x");
    doors.wait_for_poke("1.sock");
    wakeup.wait_to_say("cannot subscribe");
    assert_eq!(wakeup.times_said("cannot subscribe"), 1, "{}", wakeup.stderr());
}

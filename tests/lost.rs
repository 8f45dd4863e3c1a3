//! Lost connections and killed consumers: consuming continues, and no message is lost.

use nix::sys::signal::Signal;

use crate::support::{Nsqd, consumer, needs, wait_until};

#[test]
fn a_consumer_goes_on_after_nsqd_was_restarted() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    nsqd.publish("foo", b"before");
    let consumer = consumer(&nsqd.tcp(), "--output body").start();
    consumer.wait_for_lines(1);
    nsqd.wait_for_empty("foo", "1");
    for turn in ["one", "two"] {
        nsqd.stop();
        nsqd.start_again();
        nsqd.publish("foo", turn.as_bytes());
        wait_until(turn, || consumer.stdout().contains(turn));
        nsqd.wait_for_empty("foo", "1");
    }
    consumer.signal(Signal::SIGTERM);
    let finished = consumer.finish();
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "before\none\ntwo\n"), "{}", finished.stderr);
}

#[test]
fn a_message_in_flight_while_nsqd_restarts_is_not_lost() {
    needs!("nsqd");
    let mut nsqd = Nsqd::start();
    nsqd.publish("foo", b"a");
    let consumer = consumer(&nsqd.tcp(), "--handler sleep:1s --timeout 2").start();
    wait_until("it is in hand", || nsqd.channel("foo", "1").in_flight_count == 1);
    nsqd.stop();
    nsqd.start_again();
    // the old connection's FIN was void: the message is redelivered, and handled again
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    nsqd.wait_for_empty("foo", "1");
}

#[test]
fn messages_of_a_killed_consumer_are_redelivered_to_another() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("foo", "1");
    nsqd.publish_lines("foo", b"a\nb\nc\nd\ne");
    let first = consumer(&nsqd.tcp(), "--handler sleep:60s --concurrency 5 --msg-timeout 1s").start();
    wait_until("5 in flight", || nsqd.channel("foo", "1").in_flight_count == 5);
    first.signal(Signal::SIGKILL);
    assert_eq!(first.finish().code, None);
    let second = consumer(&nsqd.tcp(), "--output body --count 5").run();
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let mut lines: Vec<&str> = second.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a", "b", "c", "d", "e"]);
    assert_eq!(nsqd.channel("foo", "1").timeout_count, 5);
}

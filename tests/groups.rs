//! Groups: every group gets every message, and the consumers of a group share them.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use crate::support::{Finished, Nsqd, consumer, mqueue, needs, wait_until};

/// Returns the numbers from 0 up to `count`, one a line.
fn numbers(count: usize) -> String {
    (0..count).map(|number| format!("{number}\n")).collect()
}

/// Sorts lines by their numbers: nsqd promises no order.
fn in_order(lines: &str) -> String {
    let mut numbers: Vec<usize> = lines.lines().map(|line| line.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers.iter().map(|number| format!("{number}\n")).collect()
}

#[test]
fn an_nsqd_without_messages_does_not_slow_down_one_that_has_them() {
    needs!("nsqd");
    let (full, empty) = (Nsqd::start(), Nsqd::start());
    empty.create("foo", "1");
    let lines: String = (0..300).map(|n| format!("{n}\n")).collect();
    full.publish_lines("foo", lines.as_bytes());
    let start = std::time::Instant::now();
    let both = format!("{},{}", empty.tcp(), full.tcp());
    let finished = consumer(&both, "--max-in-flight 1 --count 300 --output body").run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stdout.lines().count(), 300);
    // it would take 60 s if every nsqd had a fifth of each second, with messages or without
    assert!(start.elapsed() < std::time::Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn each_group_gets_every_message() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    nsqd.create("foo", "2");
    nsqd.publish_lines("foo", numbers(500).as_bytes());
    for group in ["1", "2"] {
        let args = "consumer --stream foo --count 500 --output body --nsqd-tcp-address";
        let Finished { code, stdout, stderr } = mqueue(args).arg(&nsqd.tcp()).arg("--group").arg(group).run();
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(in_order(&stdout), numbers(500), "group {group}");
    }
}

#[test]
fn the_consumers_of_a_group_share_its_messages_and_each_gets_some() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let consumers = [(); 2].map(|()| consumer(&nsqd.tcp(), "--output body").start());
    nsqd.wait_for_clients("foo", "1", 2);
    for number in 0..200 {
        nsqd.publish("foo", number.to_string().as_bytes());
    }
    nsqd.wait_for_empty("foo", "1");
    wait_until("200 lines", || consumers.iter().map(|c| c.stdout().lines().count()).sum::<usize>() >= 200);
    let outputs = consumers.map(|consumer| {
        consumer.signal(Signal::SIGTERM);
        consumer.finish().stdout
    });
    let share = |output: &String| output.lines().count();
    assert!(outputs.iter().all(|output| share(output) > 20), "shares: {:?}", outputs.each_ref().map(share));
    assert_eq!(in_order(&outputs.concat()), numbers(200));
}

#[test]
fn a_count_limits_the_messages_taken_and_leaves_the_rest_untouched() {
    needs!("nsqd");
    for handler in ["--output body", "--handler sleep:1ms --concurrency 7", "--handler sleep:1ms --max-in-flight 50"] {
        let nsqd = Nsqd::start();
        nsqd.create("foo", "1");
        nsqd.publish_lines("foo", numbers(100).as_bytes());
        let finished = consumer(&nsqd.tcp(), handler).arg("--count").arg("30").run();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        if handler == "--output body" {
            let seen: BTreeSet<&str> = finished.stdout.lines().collect();
            assert_eq!((finished.stdout.lines().count(), seen.len()), (30, 30), "{}", finished.stdout);
        }
        let left = nsqd.channel("foo", "1");
        assert_eq!((left.depth, left.in_flight_count, left.requeue_count), (70, 0, 0), "{handler}");
    }
}

#[test]
fn a_count_counts_messages_that_left_the_queue_not_attempts() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.create("foo", "1");
    nsqd.publish_lines("foo", numbers(10).as_bytes());
    let finished = consumer(&nsqd.tcp(), "--count 4 --retry-delay 0 --max-backoff 0 --concurrency 2")
        .arg("--handler")
        .arg("exec:[ $MQUEUE_ATTEMPTS -ge 2 ]")
        .run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let left = nsqd.channel("foo", "1");
    assert_eq!((left.depth, left.in_flight_count, left.deferred_count), (6, 0, 0));
    assert!(left.requeue_count >= 4, "each of the four failed once: {left:?}");
}

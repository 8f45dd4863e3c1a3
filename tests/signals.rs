//! Signals: each message is handled once, or requeued at once; none is lost or handled twice.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Mqueue, Nsqd, consumer, needs, wait_until, wait_within};

/// Makes the messages' bodies: numbers.
fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn publish(nsqd: &Nsqd, count: usize) {
    nsqd.create("foo", "1");
    nsqd.publish_lines("foo", numbers(count).join("\n").as_bytes());
}

/// Returns true once the process has ended, even if no parent has waited for it.
fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z') || rest.is_empty())
}

fn stopping(consumer: &Mqueue, nsqd: &Nsqd) {
    consumer.signal(Signal::SIGINT);
    wait_until("CLS", || nsqd.channel("foo", "1").clients.iter().all(|client| client.state == 4));
}

#[test]
fn running_commands_finish_after_the_first_ctrl_c_and_each_message_is_handled_once() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    publish(&nsqd, 100);
    let folder = tempfile::tempdir().unwrap();
    let (begun, ended) = (folder.path().join("begun"), folder.path().join("ended"));
    let lines = |path| fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let script = format!("exec:b=$(cat); echo $b >>{}; sleep 2; echo $b >>{}", begun.display(), ended.display());
    let consumer = consumer(&nsqd.tcp(), "--concurrency 100").arg("--handler").arg(&script).start();
    wait_until("100 commands run", || lines(&begun).len() == 100);
    consumer.signal(Signal::SIGINT);
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut handled = lines(&ended);
    handled.sort_unstable_by_key(|number| number.parse::<usize>().unwrap());
    assert_eq!(handled, numbers(100));
    nsqd.wait_for_empty("foo", "1");
    let stats = nsqd.channel("foo", "1");
    assert_eq!((stats.requeue_count, stats.timeout_count), (0, 0));
}

#[test]
fn a_second_ctrl_c_kills_all_child_processes_and_requeues_their_messages_at_once() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    publish(&nsqd, 30);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pids");
    let pids = || fs::read_to_string(&path).unwrap_or_default();
    // a shell and its child: both must end, even if they ignore SIGTERM
    let script = format!("exec:trap '' INT TERM; sleep 1000 & echo $$ $! >>{}; wait", path.display());
    let consumer = consumer(&nsqd.tcp(), "--concurrency 30").arg("--handler").arg(&script).start();
    wait_until("30 commands run", || pids().lines().count() == 30);
    stopping(&consumer, &nsqd);
    let start = Instant::now();
    consumer.signal(Signal::SIGINT);
    let finished = consumer.finish();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(finished.code, Some(130), "{}", finished.stderr);
    wait_within(Duration::from_secs(1), "30 messages in the queue again", || {
        let stats = nsqd.channel("foo", "1");
        (stats.depth, stats.in_flight_count) == (30, 0)
    });
    let all = pids();
    assert_eq!(all.split_whitespace().count(), 60);
    wait_within(Duration::from_secs(2), "no command lives on", || all.split_whitespace().all(has_ended));
}

#[test]
fn the_first_signal_requeues_messages_that_wait_behind_a_running_handler() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    publish(&nsqd, 20);
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let script = format!("exec:while ! [ -e {} ]; do sleep 0.05; done", go.display());
    let args = "--max-in-flight 20 --concurrency 1";
    let consumer = consumer(&nsqd.tcp(), args).arg("--handler").arg(&script).start();
    wait_until("20 in flight", || nsqd.channel("foo", "1").in_flight_count == 20);
    consumer.signal(Signal::SIGTERM);
    wait_within(Duration::from_secs(5), "19 for others, one being handled", || {
        let stats = nsqd.channel("foo", "1");
        (stats.depth, stats.in_flight_count) == (19, 1)
    });
    fs::write(&go, "").unwrap();
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let stats = nsqd.channel("foo", "1");
    assert_eq!((stats.depth, stats.in_flight_count), (19, 0));
}

#[test]
fn the_end_of_the_grace_period_acts_like_a_second_signal() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    publish(&nsqd, 3);
    let consumer = consumer(&nsqd.tcp(), "--handler sleep:60s --concurrency 3 --grace 500ms").start();
    wait_until("3 in flight", || nsqd.channel("foo", "1").in_flight_count == 3);
    let start = Instant::now();
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.finish().code, Some(130));
    let took = start.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(nsqd.channel("foo", "1").depth, 3);
}

#[test]
fn a_consumer_without_messages_ends_at_the_first_signal() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let consumer = consumer(&nsqd.tcp(), "").start();
        nsqd.wait_for_clients("foo", "1", 1);
        let start = Instant::now();
        consumer.signal(signal);
        assert_eq!(consumer.finish().code, Some(0), "{signal}");
        assert!(start.elapsed() < Duration::from_secs(2), "{signal}: {:?}", start.elapsed());
    }
}

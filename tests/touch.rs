//! Messages that take longer than nsqd's message timeout are kept alive, in a handler or waiting
//! for one.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::{Nsqd, consumer, needs, wait_until};

#[test]
fn a_handler_that_runs_three_times_the_message_timeout_gets_its_message_once() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("foo", "1");
    nsqd.publish("foo", b"a");
    let folder = tempfile::tempdir().unwrap();
    let (begun, ended) = (folder.path().join("begun"), folder.path().join("ended"));
    let handler = format!("exec:echo run >>{}; sleep 3; touch {}", begun.display(), ended.display());
    let consumer = consumer(&nsqd.tcp(), "--msg-timeout 1s --timeout 1").arg("--handler").arg(&handler).start();
    wait_until("its handler has ended", || ended.exists());
    assert_eq!(fs::read_to_string(&begun).unwrap(), "run\n");
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    nsqd.wait_for_empty("foo", "1");
    let stats = nsqd.channel("foo", "1");
    assert_eq!((stats.timeout_count, stats.requeue_count), (0, 0));
}

#[test]
fn messages_that_wait_behind_a_slow_handler_are_kept_alive() {
    needs!("nsqd");
    let nsqd = Nsqd::with_channel("foo", "1");
    nsqd.publish_lines("foo", b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10");
    let args = "--handler sleep:350ms --msg-timeout 1s --max-in-flight 10 --concurrency 1";
    let consumer = consumer(&nsqd.tcp(), args).start();
    wait_until("most of them in flight at once", || nsqd.channel("foo", "1").in_flight_count >= 9);
    nsqd.wait_for_empty("foo", "1");
    let stats = nsqd.channel("foo", "1");
    assert_eq!((stats.timeout_count, stats.requeue_count), (0, 0));
    drop(consumer);
}

/// Freezes a consumer whose handler waits for `door` (made before or after the freeze ends) until
/// its message has been redelivered several times. The handler must run only once.
fn frozen(door_opens_before_the_thaw: bool) {
    let nsqd = Nsqd::with_channel("foo", "1");
    let folder = tempfile::tempdir().unwrap();
    let (begun, door, ended) = (folder.path().join("begun"), folder.path().join("door"), folder.path().join("ended"));
    let handler = format!(
        "exec:echo run >>{}; while ! [ -e {} ]; do sleep 0.02; done; touch {}",
        begun.display(),
        door.display(),
        ended.display()
    );
    let args = "--msg-timeout 1s --timeout 2 --concurrency 4";
    let consumer = consumer(&nsqd.tcp(), args).arg("--handler").arg(&handler).start();
    nsqd.wait_for_clients("foo", "1", 1);
    nsqd.publish("foo", b"a");
    wait_until("its handler runs", || begun.exists());
    consumer.signal(Signal::SIGSTOP);
    if door_opens_before_the_thaw {
        fs::write(&door, "").unwrap();
        wait_until("its handler has ended", || ended.exists());
    }
    wait_until("its time has run out several times", || nsqd.channel("foo", "1").timeout_count >= 3);
    consumer.signal(Signal::SIGCONT);
    if !door_opens_before_the_thaw {
        // touched again: the freeze is over, and the pending frames are read
        let before = nsqd.channel("foo", "1").timeout_count;
        wait_until("it is in flight", || nsqd.channel("foo", "1").in_flight_count == 1);
        assert!(nsqd.channel("foo", "1").timeout_count <= before + 1);
        fs::write(&door, "").unwrap();
    }
    let finished = consumer.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(fs::read_to_string(&begun).unwrap(), "run\n", "{}", finished.stderr);
    nsqd.wait_for_empty("foo", "1");
}

#[test]
fn a_frozen_process_runs_no_second_handler_for_a_message_in_progress() {
    needs!("nsqd");
    frozen(false);
}

#[test]
fn a_frozen_process_runs_no_second_handler_for_a_finished_message() {
    needs!("nsqd");
    frozen(true);
}

//! Stored messages that cannot be read any more: they stand in nobody's way.

use std::path::Path;

use super::super::log::{DiskLog, Options, SyncMode};
use super::compaction::MOVE_BYTES;
use super::wire_id::to_wire;
use super::*;
use crate::proto::{Bodies, ChannelName, TopicName};

const BEGIN: Now = Now { at: 0, unix_nanos: 1_700_000_000_000_000_000 };
const SEGMENT: u32 = 20_000;

fn open(path: &Path, segment_bytes: u32) -> State {
    let options = Options { sync: SyncMode::Never, segment_bytes, reserve_bytes: 0, ..Options::new(path) };
    let (log, recovered, _) = DiskLog::open(&options).unwrap();
    State::recover(StateLimits { max_memory: 0, ..StateLimits::default() }, Box::new(log), recovered, BEGIN)
}

fn body(n: u32, length: usize) -> String {
    format!("<{n:04}>{}", ".".repeat(length))
}

/// A topic with a channel, and its messages one by one.
fn with_messages(path: &Path, segment: u32, count: u32, length: usize) -> (State, TopicName, ChannelName) {
    let (topic, channel) = (TopicName::new("a").unwrap(), ChannelName::new("x").unwrap());
    let mut state = open(path, segment);
    state.create_channel(&topic, &channel, BEGIN);
    for n in 0..count {
        state.publish(&topic, Bodies::one(body(n, length).into()).compact(), None, BEGIN).unwrap();
    }
    (state, topic, channel)
}

/// Changes a byte of this message's body on the disk, and says in which file.
fn damage(path: &Path, n: u32) -> std::path::PathBuf {
    let wanted = format!("<{n:04}>");
    for entry in std::fs::read_dir(path).unwrap() {
        let file = entry.unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted.as_bytes()) {
            bytes[at + wanted.len()] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            return file;
        }
    }
    panic!("message {n} is in no file")
}

/// Delivers and finishes what can be read, but for each `keep`th; says how many could not be read.
fn finish(state: &mut State, topic: &TopicName, channel: &ChannelName, keep: usize) -> usize {
    let settings = Settings {
        client_id: String::new(),
        hostname: String::new(),
        user_agent: String::new(),
        msg_timeout: 60_000,
        sample_rate: 0,
    };
    let session = state.connect(settings, String::new(), 0, BEGIN);
    state.subscribe(session, topic, channel, BEGIN).unwrap();
    state.ready(session, 2_500, BEGIN);
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let in_flight = state.channels.values().next().unwrap().in_flight.keys().copied();
        let new: Vec<_> = in_flight.filter(|id| !seen.contains(id)).collect();
        if new.is_empty() {
            break;
        }
        for id in new {
            seen.insert(id);
            if seen.len() % keep != 0 || keep == 1 {
                state.finish(session, &to_wire(id), BEGIN).unwrap();
            }
        }
        // a client that has read all is sent more
        state.take_output(session, &mut Outgoing::new(), BEGIN);
    }
    state.flush().unwrap();
    state.channels.values().next().unwrap().deferred_count
}

#[test]
fn an_unreadable_message_is_kept_aside_and_does_not_hold_up_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let (mut state, topic, channel) = with_messages(directory.path(), SEGMENT, 200, 1_000);
    let file = damage(directory.path(), 7);
    assert_eq!(finish(&mut state, &topic, &channel, 10), 1, "one message cannot be read");
    let aside = file.with_extension("log.damaged");
    assert_eq!(std::fs::read(&aside).unwrap(), std::fs::read(&file).unwrap(), "its bytes are kept");
    let (mut steps, before) = (0, state.log_usage().bytes);
    while state.compact().unwrap() {
        steps += 1;
        assert!(steps < 100, "it is tried again for ever");
    }
    // those behind it are stripped, by a thread of its own
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while state.log_usage().bytes > before / 2 {
        assert!(std::time::Instant::now() < deadline, "{before} bytes became {:?}", state.log_usage());
        std::thread::yield_now();
        state.flush().unwrap();
        state.compact().unwrap();
    }
    assert!(file.exists(), "the segment with the unreadable message stays");
    state.publish(&topic, Bodies::one("more".into()), None, BEGIN).unwrap();
    assert!(!state.compact().unwrap(), "nothing is to be done at each change");
}

#[test]
fn an_unreadable_message_is_tried_again_later_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let (mut state, topic, channel) = with_messages(directory.path(), SEGMENT, 3, 1_000);
    damage(directory.path(), 1);
    assert_eq!(finish(&mut state, &topic, &channel, 1), 1);
    let (mut at, mut delays) = (0, Vec::new());
    for _ in 0..15 {
        let due = state.channels.values().next().unwrap().deferred.values().next().unwrap().until;
        delays.push((due - at) / 1_000_000);
        at = due;
        state.advance(Now { at, unix_nanos: BEGIN.unix_nanos + at as i64 * 1000 });
    }
    assert_eq!(delays[..13], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600]);
    assert_eq!(delays[13..], [3600, 3600]);
    // the disk is mended
    damage(directory.path(), 1);
    let at = at + 3_600_000_000;
    state.advance(Now { at, unix_nanos: BEGIN.unix_nanos + at as i64 * 1000 });
    assert_eq!(state.channels.values().next().unwrap().deferred_count, 0);
}

#[test]
fn a_step_of_compaction_reads_and_writes_no_more_than_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let (mut state, topic, channel) = with_messages(directory.path(), 8 << 20, 1_000, 50_000);
    finish(&mut state, &topic, &channel, 5);
    let (mut most, mut longest, mut steps) = (0, std::time::Duration::ZERO, 0);
    loop {
        let (work, begun) = (state.store.log.work(), std::time::Instant::now());
        if !state.compact().unwrap() {
            break;
        }
        steps += 1;
        most = most.max(state.store.log.work() - work);
        longest = longest.max(begun.elapsed());
    }
    assert!(steps > 5, "{steps} steps, {longest:?} the longest");
    // what is read and written, and the segments that are begun for it
    assert!(most <= MOVE_BYTES + 2 * 50_100 + 1_000, "{most} bytes in a step");
}

//! Memory that a replay uses. Its results are tested on files, against a model.

use bytes::Bytes;

use super::super::payload::put_change;
use super::super::{PublishedBatch, record::RecordScan, record::Scanned, write_batch::WriteBatch};
use super::*;
use crate::proto::{ChannelName, TopicName};

const TOPIC: TopicId = TopicId(0);
const CHANNEL: ChannelId = ChannelId(1);

fn replay(build: impl FnOnce(&mut WriteBatch)) -> Replay {
    let mut outgoing = WriteBatch::default();
    outgoing.push_change(&Change::TopicCreated(TOPIC, TopicName::new("t").unwrap()));
    outgoing.push_change(&Change::ChannelCreated(TOPIC, CHANNEL, ChannelName::new("c").unwrap()));
    build(&mut outgoing);
    outgoing.seal(0);
    let bytes: Vec<u8> = outgoing.write(|slices| slices.iter().flat_map(|slice| slice.to_vec()).collect());
    let mut replay = Replay::default();
    for found in RecordScan::new(&bytes, 0, 0, None) {
        let Scanned::Record { at, kind, payload } = found else { panic!("{found:?}") };
        replay.replay_record(1, at, kind, payload).unwrap();
    }
    replay
}

fn publish(outgoing: &mut WriteBatch, first: u64, count: usize) {
    for begin in (0..count).step_by(500) {
        let parts = [std::iter::repeat_n(Bytes::from_static(b"x"), 500.min(count - begin)).collect()];
        let (first, holder) = (first + begin as u64, MessageHolder::Channels);
        outgoing.push_batch(&PublishedBatch { topic: TOPIC, first, timestamp: 0, due: None, holder, parts: &parts });
    }
}

#[test]
fn memory_is_bounded_by_live_messages_and_not_by_the_log() {
    let replay = replay(|outgoing| {
        for round in 0..50 {
            publish(outgoing, 1 + round * 2000, 2000);
            outgoing.push_change(&Change::ChannelEmptied(CHANNEL));
        }
        publish(outgoing, 1_000_000, 3);
    });
    assert!(replay.messages.len() < 15_000, "{}", replay.messages.len());
    let (recovered, _, lost) = replay.finish();
    assert_eq!(lost, []);
    assert_eq!(recovered.batches.iter().map(|batch| (batch.id, batch.count)).collect::<Vec<_>>(), [(1_000_000, 3)]);
    assert_eq!((recovered.last_id, recovered.next_number), (1_000_002, 2));
}

#[test]
fn a_malformed_record_with_a_right_checksum_is_refused() {
    let mut changes = Vec::new();
    put_change(&mut changes, &Change::TopicDeleted(TOPIC));
    changes.push(200);
    assert_eq!(Replay::default().replay_record(1, 0, RecordKind::Changes, &changes), Err(MalformedRecord));
    assert_eq!(Replay::default().replay_record(1, 0, RecordKind::Batch, &changes), Err(MalformedRecord));
    assert_eq!(Replay::default().replay_record(1, 0, RecordKind::Carried, &changes), Err(MalformedRecord));
    assert_eq!(Replay::default().replay_record(1, 0, RecordKind::Snapshot, &changes), Err(MalformedRecord));
}

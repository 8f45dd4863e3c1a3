//! Payloads are read as they were written, and no bytes make reading panic.

use proptest::prelude::*;

use super::*;

fn due() -> impl Strategy<Value = Option<UnixMillis>> {
    prop::option::of((1..u64::MAX).prop_map(UnixMillis))
}

fn any_change() -> impl Strategy<Value = Change> {
    let (topic, channel) = (any::<u32>().prop_map(TopicId), any::<u32>().prop_map(ChannelId));
    let topic_name = "[a-zA-Z0-9._-]{1,64}".prop_map(|name| TopicName::new(&name).unwrap());
    let channel_name = "[a-zA-Z0-9._-]{1,64}".prop_map(|name| ChannelName::new(&name).unwrap());
    prop_oneof![
        (topic.clone(), topic_name).prop_map(|(id, name)| Change::TopicCreated(id, name)),
        topic.clone().prop_map(Change::TopicDeleted),
        (topic.clone(), any::<bool>()).prop_map(|(id, paused)| Change::TopicPaused(id, paused)),
        (topic.clone(), any::<u64>()).prop_map(|(id, epoch)| Change::TopicFenced(id, epoch)),
        topic.clone().prop_map(Change::TopicEmptied),
        topic.clone().prop_map(Change::TopicDistributed),
        (topic, channel.clone(), channel_name).prop_map(|(topic, id, name)| Change::ChannelCreated(topic, id, name)),
        channel.clone().prop_map(Change::ChannelDeleted),
        (channel.clone(), any::<bool>()).prop_map(|(id, paused)| Change::ChannelPaused(id, paused)),
        channel.clone().prop_map(Change::ChannelEmptied),
        (channel.clone(), any::<u64>()).prop_map(|(channel, id)| Change::Finished(channel, id)),
        (channel, any::<u64>(), any::<u16>(), due())
            .prop_map(|(c, id, attempts, due)| Change::Requeued(c, id, attempts, due)),
    ]
}

#[test]
fn changes_have_a_stable_encoding() {
    let mut out = Vec::new();
    put_change(&mut out, &Change::TopicCreated(TopicId(1), TopicName::new("ab").unwrap()));
    put_change(&mut out, &Change::Finished(ChannelId(2), 0x0102));
    put_change(&mut out, &Change::Requeued(ChannelId(2), 3, 4, None));
    let created = [1, 1, 0, 0, 0, 2, b'a', b'b'];
    let finished = [10, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
    let requeued = [11, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(out, [&created[..], &finished, &requeued].concat());
}

#[test]
fn the_head_of_a_batch_has_a_stable_encoding() {
    let (parts, mut out) = ([["x", "y"].into_iter().collect()], Vec::new());
    let batch = PublishedBatch {
        topic: TopicId(1),
        first: 2,
        timestamp: -1,
        due: Some(UnixMillis(3)),
        holder: MessageHolder::Channels,
        parts: &parts,
    };
    put_batch_head(&mut out, &batch, 2, 2);
    let (ids, timestamp) = ([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], [0xff; 8]);
    assert_eq!(out, [&ids[..], &timestamp, &[3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0]].concat());
    assert_eq!(out.len(), BATCH_HEAD_BYTES);
    let read = BatchHead::read(&mut PayloadReader(&out));
    let (topic, holder) = (TopicId(1), MessageHolder::Channels);
    assert_eq!(read, Ok(BatchHead { topic, first: 2, timestamp: -1, due: Some(UnixMillis(3)), holder, count: 2 }));
}

/// Appends a Carried up to its body's length, as older versions did.
pub(in super::super) fn put_carried_head(
    out: &mut Vec<u8>,
    (topic, id, timestamp, due): (TopicId, u64, i64, Option<UnixMillis>),
    copies: &[ChannelCopy],
) {
    out.put_u32(topic.0);
    out.put_u64(id);
    out.put(&timestamp.to_le_bytes());
    out.put_due(due);
    out.put_u32(copies.len() as u32);
    for copy in copies {
        out.put_u32(copy.channel.0);
        out.put_u16(copy.attempts);
        out.put_due(copy.due);
    }
}

#[test]
fn relocated_heads_round_trip() {
    let copy = ChannelCopy { channel: ChannelId(4), attempts: 5, due: Some(UnixMillis(6)) };
    let (copies, bodies) = ([CopyRun { copy, index: 1, count: 2 }], ["x", "y", "z"].into_iter().collect());
    let (from, topic, first, timestamp, due, holder) = (Some(9), TopicId(1), 2, -3, None, MessageHolder::Channels);
    let mut out = Vec::new();
    let relocated = Relocated { from, topic, first, timestamp, due, holder, copies: &copies, bodies: &bodies };
    put_relocated_head(&mut out, &relocated);
    let batch = BatchHead { topic, first, timestamp, due, holder, count: 3 };
    let read = RelocatedHead::read(&mut PayloadReader(&out));
    assert_eq!(read, Ok(RelocatedHead { batch, copies: copies.to_vec() }));
}

proptest! {
    #[test]
    fn changes_round_trip(changes in prop::collection::vec(any_change(), 0..20)) {
        let mut out = Vec::new();
        changes.iter().for_each(|change| put_change(&mut out, change));
        let mut fields = PayloadReader(&out);
        let read: Vec<_> = std::iter::from_fn(|| fields.change().unwrap()).collect();
        prop_assert_eq!(read, changes);
    }

    #[test]
    fn snapshots_round_trip(changes in prop::collection::vec(any_change(), 0..40), last_id in any::<u64>()) {
        let mut catalog = Catalog { last_id, ..Catalog::default() };
        changes.iter().for_each(|change| catalog.apply(change));
        let mut out = Vec::new();
        put_snapshot(&mut out, &catalog);
        prop_assert_eq!(read_snapshot(&out), Ok(catalog));
        prop_assert_eq!(read_snapshot(&out[..out.len() - 1]), Err(MalformedRecord));
    }

    #[test]
    fn carried_messages_round_trip(
        id in any::<u64>(), timestamp in any::<i64>(), topic_due in due(),
        copies in prop::collection::vec((any::<u32>(), any::<u16>(), due()), 0..5),
    ) {
        let copy = |(channel, attempts, due)| ChannelCopy { channel: ChannelId(channel), attempts, due };
        let copies: Vec<_> = copies.into_iter().map(copy).collect();
        let (topic, mut out) = (TopicId(9), Vec::new());
        put_carried_head(&mut out, (topic, id, timestamp, topic_due), &copies);
        prop_assert_eq!(CarriedHead::read(&mut PayloadReader(&out)), Ok(CarriedHead { topic, id, timestamp, due: topic_due, copies }));
    }

    #[test]
    fn arbitrary_payloads_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_snapshot(&bytes);
        let _ = CarriedHead::read(&mut PayloadReader(&bytes));
        let _ = BatchHead::read(&mut PayloadReader(&bytes));
        let mut fields = PayloadReader(&bytes);
        while let Ok(Some(_)) = fields.change() {}
    }
}

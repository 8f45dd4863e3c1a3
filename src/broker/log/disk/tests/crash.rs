//! Files that are cut anywhere, and files with wrong bytes.

use crate::broker::log::UnixMillis;
use fastrand::Rng;

use super::super::super::record::{RecordKind, RecordScan, Scanned};
use super::super::super::report::{Damage, Torn};
use super::super::super::segment::SEGMENT_HEADER_BYTES;
use super::super::super::*;
use super::model::Model;
use super::world::copy;
use super::*;

fn open(path: &Path) -> (DiskLog, Model, RecoveryReport) {
    let (mut log, recovered, report) = DiskLog::open(&options(path, SyncMode::Never, 1 << 20)).unwrap();
    let model = Model::of(&recovered, &mut log);
    for batch in &recovered.batches {
        log.hold(batch.location.segment, batch.count, batch.length.into());
    }
    log.recovered();
    (log, model, report)
}

#[test]
fn a_segment_cut_at_any_byte_recovers_all_complete_records() {
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, 1 << 20);
    let file = file_path(directory.path(), 1);
    let length = || std::fs::metadata(&file).unwrap().len();
    // the Snapshot is there twice
    let snapshot = (length() + SEGMENT_HEADER_BYTES as u64) / 2;
    let mut states = vec![(0, Model::default()), (snapshot, Model::default()), (length(), Model::default())];
    // the changes that create the topic and the channel, too
    let mut created = Model::default();
    for (change, bytes) in [(topic_created(), 12), (channel_created(), 17)] {
        created.change(&change);
        for _ in 0..2 {
            let before = states.last().unwrap().0;
            states.push((before + RECORD_HEADER_BYTES as u64 + bytes, created.clone()));
        }
    }
    let rng = &mut Rng::with_seed(1);
    for n in 1..12 {
        let noted = world.model.clone();
        let location = world.publish(
            TOPIC,
            MessageHolder::Channels,
            Some(UnixMillis(5)),
            &bodies(rng.usize(1..4), rng.usize(..40)),
        );
        // noted changes are a record of their own, before the batch
        states.push((u64::from(location.offset) - (BATCH_HEAD_BYTES + RECORD_HEADER_BYTES) as u64, noted));
        states.push((length(), world.model.clone()));
        world.note(Change::Finished(CHANNEL, n));
        world.note(Change::Requeued(CHANNEL, n + 1, 2, None));
        if n % 3 == 0 {
            world.flush();
            states.push((length(), world.model.clone()));
        }
    }
    drop(world);
    let bytes = std::fs::read(&file).unwrap();
    for cut in 0..bytes.len() {
        let directory = fast_directory();
        std::fs::write(file_path(directory.path(), 1), &bytes[..cut]).unwrap();
        let (log, model, report) = open(directory.path());
        let (end, expected) = states.iter().rfind(|(end, _)| *end <= cut as u64).unwrap();
        assert_eq!(&model, expected, "cut at {cut}");
        // a file with only a header has no messages, and is not torn
        let whole = (*end).max(if cut >= SEGMENT_HEADER_BYTES { SEGMENT_HEADER_BYTES as u64 } else { 0 });
        let torn = (cut as u64 > whole).then(|| Torn { segment: 1, bytes: cut as u64 - whole });
        assert_eq!((report.torn, report.damage), (Vec::from_iter(torn), vec![]), "cut at {cut}");
        let kept = std::fs::read(file_path(directory.path(), 1).with_extension("log.torn")).unwrap_or_default();
        if cut >= SEGMENT_HEADER_BYTES {
            assert_eq!(kept, bytes[whole as usize..cut], "what is cut off at {cut} is kept");
        }
        assert_usable(log, directory.path(), model);
    }
}

#[test]
fn a_batch_cut_at_any_byte_keeps_its_complete_parts() {
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, 1 << 20);
    world.max_part = 50;
    let first = world.publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 30));
    let file = file_path(directory.path(), 1);
    let bytes = std::fs::read(&file).unwrap();
    let ends: Vec<_> = (0..3).map(|n| first.offset as usize + 34 + n * (BATCH_BEGIN + 34)).collect();
    assert_eq!(ends[2], bytes.len());
    for cut in first.record as usize..=bytes.len() {
        let directory = fast_directory();
        std::fs::write(file_path(directory.path(), 1), &bytes[..cut]).unwrap();
        let (log, found, report) = open(directory.path());
        let complete = ends.iter().filter(|end| **end <= cut).count();
        let mut expected = world.model.clone();
        expected.messages.retain(|id, _| *id <= complete as u64);
        expected.last_id = found.last_id;
        assert_eq!((&found, report.damage), (&expected, vec![]), "cut at {cut}");
        assert_usable(log, directory.path(), found);
    }
}

#[test]
fn damage_in_one_part_of_a_batch_leaves_the_others() {
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, 1 << 20);
    world.max_part = 50;
    let first = world.publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 30));
    let mut model = world.model.clone();
    drop(world);
    let file = file_path(directory.path(), 1);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[first.offset as usize + 34 + BATCH_BEGIN + 10] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    model.messages.remove(&2);
    let (_, found, report) = open(directory.path());
    assert_eq!((found, report.damage.len()), (model, 1));
}

/// Asserts that a log can be written to, and then opened with its old and new messages.
fn assert_usable(mut log: DiskLog, path: &Path, mut model: Model) {
    let (topic, bodies) = (TopicId(model.next_number), bodies(2, 10));
    let created = Change::TopicCreated(topic, TopicName::new("after").unwrap());
    let first = model.last_id + 1;
    let batch = PublishedBatch {
        topic,
        first,
        timestamp: 5,
        due: None,
        holder: MessageHolder::Topic,
        parts: &[bodies.iter().cloned().collect()],
    };
    log.note(&created);
    log.publish(&batch).unwrap();
    drop(log);
    model.change(&created);
    model.publish(&batch);
    let (_, found, report) = open(path);
    assert_eq!((found, report.torn), (model, vec![]));
}

/// A log of three segments; returns the model of its contents.
fn three_segments(path: &Path) -> Model {
    let mut world = world(path, SyncMode::Never, 1100);
    for _ in 0..6 {
        world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 400));
    }
    assert_eq!(files(path).len(), 3);
    world.model
}

#[test]
fn damage_in_the_middle_loses_one_record_and_is_reported() {
    let directory = fast_directory();
    let mut model = three_segments(directory.path());
    let file = file_path(directory.path(), 2);
    let mut bytes = std::fs::read(&file).unwrap();
    let location = bytes.iter().position(|b| *b == 0).unwrap().max(SEGMENT_HEADER_BYTES + 400);
    bytes[location] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    model.messages.remove(&3);
    let (log, found, report) = open(directory.path());
    assert_eq!(found, model);
    assert!(matches!(&report.damage[..], [Damage::Bytes { segment: 2, range }] if range.contains(&(location as u64))));
    assert!(report.is_damaged());
    let problem = report.problems().next().unwrap();
    assert!(problem.starts_with("0000000002.log is damaged from byte "), "{problem}");
    drop(log);
    assert_eq!(std::fs::read(file.with_extension("log.damaged")).unwrap(), bytes, "kept as it was");
    assert_eq!(open(directory.path()).2.damage, report.damage, "told each time");
}

#[test]
fn a_message_damaged_while_the_log_is_open_is_not_delivered() {
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, 1 << 20);
    let location = world.publish(TOPIC, MessageHolder::Channels, None, &bodies(2, 100));
    let other = world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 100));
    let file = file_path(directory.path(), 1);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[location.offset as usize + 50] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = world.log.read(location, 208, 2).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(world.log.read(other, 104, 1).is_ok(), "others are read");
}

#[test]
fn a_segment_shorter_than_the_next_one_states_is_reported_as_damaged() {
    let directory = fast_directory();
    let mut model = three_segments(directory.path());
    let file = file_path(directory.path(), 2);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    model.messages.remove(&4);
    let (_log, found, report) = open(directory.path());
    assert_eq!(found, model);
    assert!(matches!(&report.damage[..], [Damage::Bytes { segment: 2, range }] if range.end == bytes.len() as u64));
}

#[test]
fn missing_and_unreadable_segments_lose_only_their_own_messages() {
    for is_gone in [true, false] {
        let directory = fast_directory();
        let mut model = three_segments(directory.path());
        let file = file_path(directory.path(), 2);
        match is_gone {
            true => std::fs::remove_file(&file).unwrap(),
            false => std::fs::write(&file, [1; 1000]).unwrap(),
        }
        model.messages.retain(|id, _| ![3, 4].contains(id));
        let (_log, found, report) = open(directory.path());
        assert_eq!(found, model);
        assert_eq!(report.damage.len(), 1);
        let unreadable = Damage::Bytes { segment: 2, range: 0..1000 };
        assert_eq!(report.damage[0], if is_gone { Damage::Missing { segment: 2 } } else { unreadable });
    }
}

#[test]
fn a_damaged_first_snapshot_is_replaced_by_the_next() {
    let directory = fast_directory();
    let model = three_segments(directory.path());
    let file = file_path(directory.path(), 1);
    let mut bytes = std::fs::read(&file).unwrap();
    let created: Vec<_> = memchr::memmem::find_iter(&bytes, b"orders").collect();
    assert_eq!(created.len(), 2);
    created.into_iter().for_each(|at| bytes[at] ^= 1);
    std::fs::write(&file, &bytes).unwrap();
    let (_log, found, report) = open(directory.path());
    assert_eq!(report.damage.len(), 1);
    assert_eq!(found.topics, model.topics);
    let ids = |model: &Model| model.messages.keys().copied().collect::<Vec<_>>();
    assert_eq!(ids(&found), ids(&model));
    assert!(found.messages[&1].copies.is_empty(), "the topic holds it");
}

/// The positions of the records of a file that have messages.
fn message_records(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let header = SegmentHeader::decode(bytes).unwrap();
    let records = RecordScan::new(bytes, header.salt, header.length as usize, None);
    let with_messages = records.filter_map(|found| match found {
        Scanned::Record { at, kind: RecordKind::Batch | RecordKind::Relocated, payload } => {
            Some(at..at + RECORD_HEADER_BYTES + payload.len())
        }
        _ => None,
    });
    with_messages.collect()
}

/// Asserts that a wrong byte anywhere in a file, outside of messages, loses no topic, channel or
/// message.
fn assert_wrong_bytes_lose_no_messages(path: &Path, number: u32, model: &Model) {
    let bytes = std::fs::read(file_path(path, number)).unwrap();
    let messages = message_records(&bytes);
    for at in (SEGMENT_HEADER_BYTES..bytes.len()).filter(|at| !messages.iter().any(|record| record.contains(at))) {
        let directory = fast_directory();
        copy(path, directory.path());
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(file_path(directory.path(), number), damaged).unwrap();
        let (log, found, report) = open(directory.path());
        assert_eq!(found.topics, model.topics, "byte {at}: {report:?}");
        assert_eq!(found.messages, model.messages, "byte {at}: {report:?}");
        assert_eq!(report.problems().count(), 1, "byte {at}: {report:?}");
        drop(log);
        let (_, again, _) = open(directory.path());
        assert_eq!(again.messages, found.messages, "byte {at}, opened again");
    }
}

#[test]
fn a_wrong_byte_outside_of_messages_loses_none() {
    // created in the only segment
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, 1 << 20);
    world.note(Change::TopicFenced(TOPIC, 7));
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 20));
    let channel = ChannelName::new("later").unwrap();
    world.note(Change::ChannelCreated(TOPIC, ChannelId(3), channel));
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 20));
    let model = world.model.clone();
    drop(world);
    assert_wrong_bytes_lose_no_messages(directory.path(), 1, &model);

    // created in a segment that was removed
    let directory = fast_directory();
    let mut world = super::world(directory.path(), SyncMode::Never, 1000);
    for id in 1..6 {
        world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 800));
        world.note(Change::Finished(CHANNEL, id));
    }
    world.flush();
    world.wait_until_tidy();
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 20));
    world.wait_until_tidy();
    let model = world.model.clone();
    drop(world);
    let names = files(directory.path());
    assert!(names.len() == 1 && names[0].as_str() > "0000000003.log", "{names:?}");
    let number = names[0][..10].parse().unwrap();
    assert_wrong_bytes_lose_no_messages(directory.path(), number, &model);
}

/// As older versions wrote it.
#[test]
fn a_log_without_repetitions_is_read_and_continued() {
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, 1 << 20);
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 20));
    world.note(Change::ChannelPaused(CHANNEL, true));
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(2, 20));
    let model = world.model.clone();
    drop(world);
    let file = file_path(directory.path(), 1);
    let bytes = std::fs::read(&file).unwrap();
    let header = SegmentHeader::decode(&bytes).unwrap();
    let mut old = bytes[..SEGMENT_HEADER_BYTES].to_vec();
    let (mut last, mut repetitions) = (None, 0);
    for found in RecordScan::new(&bytes, header.salt, SEGMENT_HEADER_BYTES, None) {
        let Scanned::Record { at, payload, .. } = found else { panic!("{found:?}") };
        let record = &bytes[at..at + RECORD_HEADER_BYTES + payload.len()];
        match last == Some(record) {
            true => repetitions += 1,
            false => old.extend_from_slice(record),
        }
        last = Some(record);
    }
    assert_eq!(repetitions, 4, "of the Snapshot and three changes");
    std::fs::write(&file, old).unwrap();
    let (log, found, report) = open(directory.path());
    assert_eq!((found.clone(), report.problems().count()), (model, 0));
    assert_usable(log, directory.path(), found);
}

#[test]
fn a_damaged_copy_of_a_header_is_reported() {
    let original = fast_directory();
    let model = three_segments(original.path());
    for at in 0..SEGMENT_HEADER_BYTES {
        let directory = fast_directory();
        copy(original.path(), directory.path());
        let file = file_path(directory.path(), 2);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let (_log, found, report) = open(directory.path());
        assert_eq!((found, report.is_damaged()), (model.clone(), false), "byte {at}");
        let warnings: Vec<_> = report.warnings().collect();
        assert!(
            matches!(&warnings[..], [it] if it.starts_with("0000000002.log: one of the two copies of its header")),
            "byte {at}: {warnings:?}"
        );
    }
}

#[test]
fn messages_dropped_because_their_topic_is_unknown_are_counted() {
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, 1 << 20);
    for _ in 0..3 {
        world.publish(TOPIC, MessageHolder::Channels, None, &bodies(4_000, 1));
    }
    drop(world);
    let file = file_path(directory.path(), 1);
    let mut bytes = std::fs::read(&file).unwrap();
    for at in memchr::memmem::find_iter(&bytes.clone(), b"orders") {
        bytes[at] ^= 1;
    }
    std::fs::write(&file, &bytes).unwrap();
    let (_, found, report) = open(directory.path());
    assert!(found.messages.is_empty());
    let problems: Vec<_> = report.problems().collect();
    assert!(
        problems.iter().any(|it| it.starts_with("12000 messages of topic number 1 are lost: ")),
        "more than are held without a sweep: {problems:?}"
    );
}

#[test]
fn a_log_with_wrong_bytes_anywhere_opens() {
    let original = fast_directory();
    three_segments(original.path());
    let rng = &mut Rng::with_seed(2);
    for n in 0..300 {
        let directory = fast_directory();
        copy(original.path(), directory.path());
        let file = file_path(directory.path(), rng.u32(1..4));
        let mut bytes = std::fs::read(&file).unwrap();
        for _ in 0..rng.usize(1..5) {
            let at = rng.usize(SEGMENT_HEADER_BYTES..bytes.len());
            bytes[at] ^= 1 << rng.u8(..8);
        }
        std::fs::write(&file, bytes).unwrap();
        let (log, found, report) = open(directory.path());
        assert!(report.is_damaged() || !report.torn.is_empty(), "round {n}: {found:?}");
        assert_usable(log, directory.path(), found);
    }
}

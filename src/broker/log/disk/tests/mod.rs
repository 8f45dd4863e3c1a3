//! The log on real files: compared to a model, cut at every byte, damaged, and on failing disks.

mod checkpoint;
mod crash;
mod failing;
mod model;
mod random;
mod world;

use crate::broker::log::UnixMillis;
use std::path::Path;

use bytes::Bytes;

use self::world::{World, read};
use super::super::{ChannelId, MessageHolder, TopicId};
use super::*;
use crate::proto::{Bodies, ChannelName, TopicName};

const TOPIC: TopicId = TopicId(1);
const CHANNEL: ChannelId = ChannelId(2);

fn options(path: &Path, sync: SyncMode, segment_bytes: u32) -> LogOptions {
    LogOptions { sync, segment_bytes, interval: Duration::from_millis(1), reserve_bytes: 0, ..LogOptions::new(path) }
}

/// A temporary directory, in memory if possible, because many files are synced, and the disk is not
/// what is tested.
fn fast_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn topic_created() -> Change {
    Change::TopicCreated(TOPIC, TopicName::new("orders").unwrap())
}

fn channel_created() -> Change {
    Change::ChannelCreated(TOPIC, CHANNEL, ChannelName::new("billing").unwrap())
}

/// A log with a topic and a channel.
fn world(path: &Path, sync: SyncMode, segment_bytes: u32) -> World {
    let mut world = World::open(&options(path, sync, segment_bytes));
    world.note(topic_created());
    world.note(channel_created());
    world
}

fn bodies(count: usize, length: usize) -> Vec<Bytes> {
    (0..count).map(|n| Bytes::from(vec![n as u8; length])).collect()
}

fn files(path: &Path) -> Vec<String> {
    let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !["lock", "reserve"].contains(&name.as_str())).collect();
    names.sort();
    names
}

#[test]
fn a_reopened_log_has_the_same_contents() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = world(directory.path(), SyncMode::Interval, 1 << 20);
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(3, 10));
    world.publish(TOPIC, MessageHolder::Channels, Some(UnixMillis(77)), &[Bytes::new(), Bytes::from(vec![7; 100_000])]);
    world.publish(TOPIC, MessageHolder::Topic, Some(UnixMillis(78)), &bodies(1, 5000));
    world.note(Change::Finished(CHANNEL, 1));
    world.note(Change::Requeued(CHANNEL, 2, 3, Some(UnixMillis(99))));
    world.note(Change::TopicPaused(TOPIC, true));
    world.reopen();
    world.publish(TOPIC, MessageHolder::Topic, None, &bodies(2, 20));
    world.reopen();
    assert_eq!(files(directory.path()), ["0000000001.log"], "a good last segment is appended to");
}

#[test]
fn files_are_accessible_only_to_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut world = world(&path, SyncMode::Always, 1000);
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 10));
    assert_eq!(mode(&path), 0o700);
    for name in ["lock", "reserve", "0000000001.log"] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_second_broker_on_the_same_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions::new(directory.path());
    let _first = DiskLog::open(&options).unwrap();
    let error = DiskLog::open(&options).unwrap_err().to_string();
    let path = directory.path().display();
    assert_eq!(error, format!("{path} is in use by another broker: stop that one, or choose another data path"));
}

#[test]
fn a_log_of_another_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut header = SegmentHeader::new(1, Extent::default()).encode();
    header.truncate(28);
    header[7] += 1;
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    header.extend_from_within(..);
    std::fs::write(file_path(directory.path(), 1), header).unwrap();
    let error = DiskLog::open(&LogOptions::new(directory.path())).unwrap_err();
    assert!(matches!(error, OpenError::OtherVersion(path) if path == file_path(directory.path(), 1)));
}

#[test]
fn segments_without_live_messages_are_removed_or_stripped() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = world(directory.path(), SyncMode::Always, 50_000);
    for _ in 0..8 {
        world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 49_000));
    }
    assert_eq!(files(directory.path()).len(), 8);
    for id in [2, 3, 4, 5, 6] {
        world.note(Change::Finished(CHANNEL, id));
    }
    world.flush();
    let lengths = || -> Vec<u64> {
        let length = |name: &String| std::fs::metadata(directory.path().join(name)).unwrap().len();
        files(directory.path()).iter().map(length).collect()
    };
    world.wait_until_tidy();
    let now = lengths();
    assert!(now[0] > 49_000 && now[1..6].iter().all(|length| *length < 300), "the first is held still: {now:?}");
    world.reopen();
    world.note(Change::Finished(CHANNEL, 1));
    world.flush();
    world.wait_until_tidy();
    assert_eq!(files(directory.path()).first().map(String::as_str), Some("0000000007.log"));
    world.reopen();
    world.note(Change::Finished(CHANNEL, 7));
    world.note(Change::Finished(CHANNEL, 8));
    world.flush();
    world.wait_until_tidy();
    assert!(lengths().iter().sum::<u64>() < 1000, "the newest, too: {:?}", lengths());
    world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 900));
    assert_eq!(world.last_id(), 9, "ids continue after removals");
    world.reopen();
}

#[test]
fn the_size_of_the_log_is_right_after_stripping_though_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = world(directory.path(), SyncMode::Always, 50_000);
    for _ in 0..4 {
        world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, 49_000));
    }
    world.note(Change::Finished(CHANNEL, 2));
    world.flush();
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.log.usage().bytes > 150_000 {
        let next = world.log.next_compaction().expect("compaction asks again");
        assert!(next > Instant::now() && Instant::now() < deadline, "{:?}", world.log.usage());
        assert_eq!(world.log.compaction_candidate(), None);
        std::thread::yield_now();
    }
    assert_eq!(world.log.next_compaction(), None);
}

/// Three small messages stay queued beside each large one that is finished: the log has no more
/// than it needs.
#[test]
fn the_log_has_at_most_twice_its_live_bytes_and_a_few_segments() {
    const SEGMENT: u32 = 200_000;
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, SEGMENT);
    for _ in 0..200 {
        let first = world.last_id() + 1;
        for length in [30_000, 10, 10, 10] {
            world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, length));
        }
        world.note(Change::Finished(CHANNEL, first));
        world.flush();
        world.compact();
        let usage = world.log.usage();
        let limit = 2 * world.live() + 6 * u64::from(SEGMENT);
        assert!(usage.bytes <= limit, "{usage:?} with {} live", world.live());
    }
    world.check_bodies();
    world.wait_until_tidy();
    let usage = world.log.usage();
    let on_disk: u64 =
        files(directory.path()).iter().map(|name| std::fs::metadata(directory.path().join(name)).unwrap().len()).sum();
    assert_eq!(usage.bytes, on_disk);
    world.reopen();
}

/// As above, with random sizes, a random order of finishing, and restarts at random moments.
#[test]
fn the_log_stays_within_that_size_for_random_sizes_and_orders() {
    const SEGMENT: u32 = 20_000;
    let base = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    for seed in base.map_or(0..10, |seed: u64| seed..seed + 1) {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let directory = fast_directory();
        let mut world = world(directory.path(), SyncMode::Never, SEGMENT);
        for step in 0..600 {
            let length = if rng.u8(..5) == 0 { rng.usize(2_000..9_000) } else { rng.usize(..200) };
            world.publish(TOPIC, MessageHolder::Channels, None, &bodies(rng.usize(1..4), length));
            for _ in 0..rng.usize(..5) {
                let waiting: Vec<_> = world.model.messages.keys().copied().collect();
                // mostly the oldest ones
                let at =
                    if rng.bool() { rng.usize(..waiting.len().clamp(1, 5)) } else { rng.usize(..waiting.len().max(1)) };
                let Some(id) = waiting.get(at) else { break };
                world.note(Change::Finished(CHANNEL, *id));
            }
            world.flush();
            let restarts = rng.u8(..10) == 0;
            if restarts {
                world.reopen();
            }
            // much has died since the last time
            if !restarts && rng.u8(..20) > 0 {
                continue;
            }
            world.compact();
            world.wait_until_tidy();
            let (usage, limit) = (world.log.usage(), 2 * world.live() + 6 * u64::from(SEGMENT));
            assert!(usage.bytes <= limit, "{usage:?} with {} live, step {step}, SEED={seed}", world.live());
        }
        world.check_bodies();
        world.reopen();
    }
}

/// A restart does not hide what died before it.
#[test]
fn segments_that_were_mostly_dead_before_a_restart_are_compacted() {
    const SEGMENT: u32 = 200_000;
    let directory = fast_directory();
    let mut world = world(directory.path(), SyncMode::Never, SEGMENT);
    for _ in 0..60 {
        let first = world.last_id() + 1;
        for length in [30_000, 10] {
            world.publish(TOPIC, MessageHolder::Channels, None, &bodies(1, length));
        }
        world.note(Change::Finished(CHANNEL, first));
    }
    world.flush();
    let before = world.log.usage();
    assert!(before.bytes > 8 * u64::from(SEGMENT), "nothing is compacted yet: {before:?}");
    world.reopen();
    world.compact();
    world.wait_until_tidy();
    let after = world.log.usage();
    assert!(after.bytes <= 2 * world.live() + 6 * u64::from(SEGMENT), "{after:?} with {} live", world.live());
    assert_eq!(world.log.compaction_candidate(), None, "what was relocated is not relocated again");
    world.reopen();
    assert_eq!(world.log.compaction_candidate(), None, "nor after another restart");
    world.check_bodies();
}

#[test]
fn a_batch_above_the_segment_size_has_a_segment_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = world(directory.path(), SyncMode::Never, 1000);
    for length in [900, 5000, 900] {
        world.publish(TOPIC, MessageHolder::Channels, None, &bodies(2, length));
    }
    assert_eq!(files(directory.path()).len(), 3);
    world.reopen();
}

#[test]
fn reading_at_a_wrong_location_or_length_fails() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = world(directory.path(), SyncMode::Never, 1000);
    let location = world.publish(TOPIC, MessageHolder::Channels, None, &bodies(2, 10));
    let second = LogLocation { offset: location.offset + 10 + Bodies::SIZE as u32, ..location };
    assert_eq!(read(&mut world.log, second, 10).unwrap(), [1; 10].as_slice());
    for (segment, offset, length) in
        [(1, location.offset, 9), (1, location.offset + 1, 10), (1, u32::MAX, 10), (1, 0, 1), (9, location.offset, 10)]
    {
        let error = read(&mut world.log, LogLocation { segment, offset, ..location }, length).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

//! Seeded random operations, with small segments, reopening and crashes at random moments.

use crate::broker::log::UnixMillis;
use bytes::Bytes;
use fastrand::Rng;

use super::super::super::*;
use super::world::World;
use super::*;

const SEEDS: u64 = 40;
const OPERATIONS: u32 = 400;

#[test]
fn random_operations_survive_reopening_and_crashes() {
    let base = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let seeds = base.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let mut checkpoints = 0;
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "failed with SEED={seed}");
        checkpoints += result.unwrap_or_default();
    }
    assert!(checkpoints > 0 || base.is_some(), "no opening used a checkpoint");
}

/// Returns the number of openings that used a checkpoint.
fn run(seed: u64) -> u32 {
    let rng = &mut Rng::with_seed(seed);
    let directories = fast_directory();
    let path = |n: u32| {
        let path = directories.path().join(n.to_string());
        std::fs::create_dir(&path).unwrap();
        path
    };
    // mostly in memory: slow syncs are not what this tests
    let mode = match rng.u8(..8) {
        0 => SyncMode::Always,
        1 => SyncMode::Interval,
        _ => SyncMode::Never,
    };
    let segment_bytes = rng.choice([300, 4096, 20_000]).unwrap();
    let mut world = World::open(&options(&path(0), mode, segment_bytes));
    let mut checkpoints = 0;
    for n in 1..OPERATIONS {
        match rng.u32(..100) {
            0..2 => {
                world.reopen();
                checkpoints += u32::from(world.is_from_checkpoint);
            }
            2..4 => {
                world.crash(&path(n));
                checkpoints += u32::from(world.is_from_checkpoint);
            }
            4..6 => world.check_bodies(),
            6..8 => {
                world.checkpoint();
                // mostly, something is written before the end
                if rng.bool() {
                    world.reopen();
                    checkpoints += u32::from(world.is_from_checkpoint);
                }
            }
            8..12 => world.flush(),
            12..30 => world.compact(),
            30..60 => publish(&mut world, rng),
            _ => change(&mut world, rng),
        }
    }
    world.reopen();
    world.check_bodies();
    checkpoints
}

fn publish(world: &mut World, rng: &mut Rng) {
    let Some((topic, it)) = rng.choice(&world.model.topics) else { return };
    let holder = if it.paused || it.channels.is_empty() || rng.u8(..20) == 0 {
        MessageHolder::Topic
    } else {
        MessageHolder::Channels
    };
    let due = rng.bool().then(|| UnixMillis(rng.u64(1..1000)));
    let bodies: Vec<_> = (0..rng.usize(1..6)).map(|_| body(rng)).collect();
    world.max_part = rng.choice([50, 5000, usize::MAX]).unwrap();
    world.publish(*topic, holder, due, &bodies);
}

fn body(rng: &mut Rng) -> Bytes {
    let length = if rng.u8(..30) == 0 { rng.usize(4000..9000) } else { rng.usize(..100) };
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

fn change(world: &mut World, rng: &mut Rng) {
    let topic = rng.choice(world.model.topics.keys()).copied();
    let channels = world.model.topics.values().flat_map(|topic| topic.channels.keys());
    let channel = rng.choice(channels.collect::<Vec<_>>()).copied();
    let copies = world.model.messages.iter().flat_map(|(id, it)| it.copies.iter().map(move |copy| (*id, copy.channel)));
    let copy = rng.choice(copies.collect::<Vec<_>>());
    let number = world.model.next_number.max(1);
    let change = match (rng.u32(..100), topic, channel, copy) {
        (0..60, _, _, Some((id, channel))) => Change::Finished(channel, id),
        (60..80, _, _, Some((id, channel))) => {
            Change::Requeued(channel, id, rng.u16(..), rng.bool().then(|| UnixMillis(rng.u64(1..1000))))
        }
        (80..82, Some(topic), ..) => Change::TopicEmptied(topic),
        (82..86, Some(topic), ..) => Change::TopicDistributed(topic),
        (86..87, Some(topic), ..) => Change::TopicPaused(topic, rng.bool()),
        (87..88, Some(topic), ..) => Change::TopicFenced(topic, rng.u64(..100)),
        (88..89, Some(topic), ..) => Change::TopicDeleted(topic),
        (89..90, _, Some(channel), _) => Change::ChannelDeleted(channel),
        (90..92, _, Some(channel), _) => Change::ChannelEmptied(channel),
        (92..93, _, Some(channel), _) => Change::ChannelPaused(channel, rng.bool()),
        (93..98, Some(topic), ..) => {
            Change::ChannelCreated(topic, ChannelId(number), ChannelName::new(&format!("c{number}")).unwrap())
        }
        (98..100, ..) => Change::TopicCreated(TopicId(number), TopicName::new(&format!("t{number}")).unwrap()),
        _ if topic.is_none() => Change::TopicCreated(TopicId(number), TopicName::new("first").unwrap()),
        _ => return,
    };
    world.note(change);
}

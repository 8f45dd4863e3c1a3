//! The random settings of a run, and its statistics.

use std::collections::BTreeMap;
use std::time::Duration;

/// The random settings of a run.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) idle_timeout: Duration,
    pub(super) per_consumer: u64,
    pub(super) msg_timeout: Duration,
    /// The stream of each group.
    pub(super) groups: Vec<usize>,
    pub(super) instances: usize,
    pub(super) streams: usize,
    /// Consumers may check /stats before they exit.
    pub(super) looks: bool,
    /// The percentage of messages that fail and are requeued.
    pub(super) failing: u32,
    /// The percentage of wakeup's copies that are lost.
    pub(super) deaf: u32,
    pub(super) troubles: u32,
}

impl Settings {
    pub(super) fn any(random: &mut fastrand::Rng) -> Self {
        let streams = random.usize(1..=2);
        Self {
            idle_timeout: Duration::from_millis(random.u64(100..3000)),
            per_consumer: random.u64(1..5),
            msg_timeout: Duration::from_secs(5),
            groups: (0..random.usize(streams..=3)).map(|group| group % streams).collect(),
            instances: random.usize(1..=3),
            streams,
            looks: random.u8(..) < 200,
            failing: *random.choice(&[0, 0, 10, 50]).expect("some"),
            deaf: *random.choice(&[0, 10, 50, 100]).expect("some"),
            troubles: random.u32(0..5),
        }
    }
}

/// The statistics of a run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) published: u64,
    pub(super) sleeps: u64,
    pub(super) pokes: u64,
    /// The ways in which consumers exited or stayed.
    pub(super) exits: BTreeMap<&'static str, u64>,
    pub(super) waits: Vec<Duration>,
    /// The waits of messages whose copy let wakeup poke.
    pub(super) heard: Vec<Duration>,
}

impl Tally {
    pub(super) fn add(&mut self, more: Self) {
        self.published += more.published;
        self.sleeps += more.sleeps;
        self.pokes += more.pokes;
        more.exits.into_iter().for_each(|(what, count)| *self.exits.entry(what).or_default() += count);
        self.waits.extend(more.waits);
        self.heard.extend(more.heard);
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.exits.entry(what).or_default() += 1;
    }
}

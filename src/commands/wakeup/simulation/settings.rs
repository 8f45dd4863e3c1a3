//! The random settings of a run, and its statistics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::POLL;

/// The random settings of a run.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) idle_timeout: Duration,
    pub(super) per_consumer: u64,
    pub(super) msg_timeout: Duration,
    /// The stream of each group.
    pub(super) groups: Vec<usize>,
    /// The number of each group's sockets on a host that has any.
    pub(super) instances: usize,
    pub(super) hosts: usize,
    /// The weight of each host.
    pub(super) weights: Vec<u32>,
    /// The groups without sockets on a host other than the first, as `host * groups + group`.
    without: BTreeSet<usize>,
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
        let groups: Vec<usize> = (0..random.usize(streams..=3)).map(|group| group % streams).collect();
        let hosts = *random.choice(&[1, 1, 2, 3]).expect("some");
        let without = (groups.len()..hosts * groups.len()).filter(|_| random.u8(..) < 50).collect();
        Self {
            hosts,
            weights: (0..hosts).map(|_| random.u32(0..4)).collect(),
            without,
            idle_timeout: Duration::from_millis(random.u64(100..3000)),
            per_consumer: random.u64(1..5),
            msg_timeout: Duration::from_secs(5),
            groups,
            instances: random.usize(1..=3),
            streams,
            looks: random.u8(..) < 200,
            failing: *random.choice(&[0, 0, 10, 50]).expect("some"),
            deaf: *random.choice(&[0, 10, 50, 100]).expect("some"),
            troubles: random.u32(0..5),
        }
    }
}

impl Settings {
    /// True if the host has sockets for the group.
    pub(super) fn has_sockets(&self, host: usize, group: usize) -> bool {
        !self.without.contains(&(host * self.groups.len() + group))
    }

    /// The units of a group on a host.
    pub(super) fn units_of(&self, host: usize, group: usize) -> std::ops::Range<usize> {
        let first = (host * self.groups.len() + group) * self.instances;
        first..first + self.instances
    }

    /// The longest time until a message is seen and its group poked: a poll, and one poll more for
    /// each host that may have failed.
    pub(super) fn longest_wait(&self) -> Duration {
        if self.troubles == 0 { POLL } else { POLL * self.hosts as u32 }
    }
}

/// The statistics of a run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) published: u64,
    pub(super) sleeps: u64,
    pub(super) pokes: u64,
    /// Starts in undisturbed runs on several hosts, and those of them for messages that had a
    /// consumer already.
    pub(super) starts: u64,
    pub(super) double_starts: u64,
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
        self.starts += more.starts;
        self.double_starts += more.double_starts;
        more.exits.into_iter().for_each(|(what, count)| *self.exits.entry(what).or_default() += count);
        self.waits.extend(more.waits);
        self.heard.extend(more.heard);
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.exits.entry(what).or_default() += 1;
    }
}

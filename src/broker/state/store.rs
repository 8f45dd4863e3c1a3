//! Storage shared by all topics and channels: the messages, the log behind them, and the timers.

use std::collections::BTreeSet;

use super::super::log::{Change, ChannelId, Log};
use super::StateLimits;
use super::batches::{Batches, Run};
use super::rest::Rest;
use super::time::Micros;

pub(super) struct Store {
    pub(super) limits: StateLimits,
    pub(super) log: Box<dyn Log>,
    pub(super) batches: Batches,
    /// Deadlines at which copies in flight or deferred are requeued.
    pub(super) timers: BTreeSet<(Micros, ChannelId, u64)>,
    /// Channels that rest because their messages cannot be read.
    pub(super) rest: Rest,
}

impl Store {
    pub(super) fn new(limits: StateLimits, log: Box<dyn Log>) -> Self {
        let batches = Batches::new(limits.max_memory);
        Self { limits, log, batches, timers: BTreeSet::new(), rest: Rest::default() }
    }

    pub(super) fn note(&mut self, change: &Change) {
        self.log.note(change);
    }

    /// Drops one reference to each of these messages.
    pub(super) fn release(&mut self, run: Run) {
        self.batches.release(run, &mut *self.log);
    }

    /// Keeps at most the first `room` messages of the run and drops the others.
    pub(super) fn cut(&mut self, run: Run, room: usize) -> Option<Run> {
        let kept = run.truncated(u32::try_from(room).unwrap_or(u32::MAX));
        if kept.count < run.count {
            self.release(run.truncated(run.count - kept.count));
        }
        (kept.count > 0).then_some(kept)
    }

    /// Moves one copy into a batch of its own: see [`Batches::part`].
    pub(super) fn part(&mut self, run: Run) -> Run {
        self.batches.part(run, &mut *self.log)
    }

    /// The number of these messages whose bodies were only in the log from the start.
    pub(super) fn backlog(&self, run: &Run) -> usize {
        if self.batches.is_backlog(run.key) { run.count as usize } else { 0 }
    }
}

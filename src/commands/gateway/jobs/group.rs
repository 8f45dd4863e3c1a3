//! A group's workers and waiting jobs.

use std::collections::VecDeque;
use std::time::Instant;

use super::WorkerId;
use mqueue::proto::{ChannelName, TopicName};

/// The key of a group: its stream and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::commands::gateway) struct GroupKey {
    pub(in crate::commands::gateway) stream: TopicName,
    pub(in crate::commands::gateway) group: ChannelName,
}

#[derive(Debug)]
pub(super) struct GroupQueue<D> {
    /// The workers with room for a job, the one that has waited longest first.
    pub(super) available: VecDeque<WorkerId>,
    pub(super) workers: usize,
    /// The number of jobs that the workers hold and have room for.
    pub(super) slots: u64,
    /// The jobs that wait for a worker, each with the end of its wait. Empty while a worker is
    /// available.
    pub(super) waiting: VecDeque<(D, Instant)>,
    /// The jobs that must be requeued.
    pub(super) returned: Vec<D>,
}

impl<D> Default for GroupQueue<D> {
    fn default() -> Self {
        Self { available: VecDeque::new(), workers: 0, slots: 0, waiting: VecDeque::new(), returned: Vec::new() }
    }
}

//! A group, as far as handing out goes.

use std::collections::VecDeque;
use std::time::Instant;

use super::WorkerId;
use mqueue::proto::{ChannelName, TopicName};

/// Names a group: a stream and a group of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::commands::gateway) struct GroupKey {
    pub(in crate::commands::gateway) stream: TopicName,
    pub(in crate::commands::gateway) group: ChannelName,
}

#[derive(Debug)]
pub(super) struct Group<D> {
    /// The workers that would take a job, the one that waits longest first.
    pub(super) line: VecDeque<WorkerId>,
    pub(super) workers: usize,
    /// Jobs that the workers hold and would take.
    pub(super) slots: u64,
    /// Jobs that nobody takes just now, each until when; never while somebody is in line.
    pub(super) waiting: VecDeque<(D, Instant)>,
    /// Jobs of workers that went away.
    pub(super) returned: Vec<D>,
}

impl<D> Default for Group<D> {
    fn default() -> Self {
        Self { line: VecDeque::new(), workers: 0, slots: 0, waiting: VecDeque::new(), returned: Vec::new() }
    }
}

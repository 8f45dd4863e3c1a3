//! A worker's limits and jobs.

use std::collections::HashSet;
use std::time::Instant;

use super::{GroupKey, WorkerLimits};
use crate::commands::gateway::token::JobSecret;

#[derive(Debug)]
pub(super) struct GatewayWorker<W> {
    pub(super) group: GroupKey,
    pub(super) limits: WorkerLimits,
    pub(super) outbox: W,
    pub(super) held: HashSet<JobSecret>,
    /// When it last answered or touched a job, or got the first.
    pub(super) heard: Instant,
    pub(super) has_deadline: bool,
    pub(super) is_available: bool,
    /// It leaves its jobs unread.
    pub(super) blocked: bool,
    /// It gets no more jobs.
    pub(super) retired: bool,
}

impl<W> GatewayWorker<W> {
    pub(super) fn new(group: GroupKey, limits: WorkerLimits, outbox: W, now: Instant) -> Self {
        Self {
            group,
            limits,
            outbox,
            held: HashSet::new(),
            heard: now,
            has_deadline: false,
            is_available: false,
            blocked: false,
            retired: false,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.retired && !self.blocked && self.held.len() < self.limits.in_flight as usize
    }

    /// Returns the number of further jobs that it has room for.
    pub(super) fn room(&self) -> u64 {
        self.slots() - self.held.len() as u64
    }

    /// Returns the number of jobs that it holds and has room for.
    pub(super) fn slots(&self) -> u64 {
        match self.retired || self.blocked {
            true => self.held.len() as u64,
            false => self.limits.in_flight.into(),
        }
    }

    /// Returns true if it gets no more jobs and has answered all.
    pub(super) fn is_finished(&self) -> bool {
        self.retired && self.held.is_empty()
    }
}

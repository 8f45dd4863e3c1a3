//! A worker, as far as handing out goes.

use std::collections::HashSet;
use std::time::Instant;

use super::{GroupKey, Terms};
use crate::commands::gateway::token::Secret;

#[derive(Debug)]
pub(super) struct Worker<W> {
    pub(super) group: GroupKey,
    pub(super) terms: Terms,
    pub(super) way: W,
    pub(super) held: HashSet<Secret>,
    /// When it last answered, touched, or got its first job.
    pub(super) heard: Instant,
    pub(super) has_alarm: bool,
    pub(super) in_line: bool,
    /// It does not read what it was sent.
    pub(super) clogged: bool,
    /// It takes no more jobs.
    pub(super) retired: bool,
}

impl<W> Worker<W> {
    pub(super) fn new(group: GroupKey, terms: Terms, way: W, now: Instant) -> Self {
        Self {
            group,
            terms,
            way,
            held: HashSet::new(),
            heard: now,
            has_alarm: false,
            in_line: false,
            clogged: false,
            retired: false,
        }
    }

    pub(super) fn would_take(&self) -> bool {
        !self.retired && !self.clogged && self.held.len() < self.terms.in_flight as usize
    }

    /// The jobs that it would take.
    pub(super) fn room(&self) -> u64 {
        self.slots() - self.held.len() as u64
    }

    /// The jobs that it holds and would take.
    pub(super) fn slots(&self) -> u64 {
        match self.retired || self.clogged {
            true => self.held.len() as u64,
            false => self.terms.in_flight.into(),
        }
    }

    /// Nothing is to be expected of it.
    pub(super) fn is_over(&self) -> bool {
        self.retired && self.held.is_empty()
    }
}

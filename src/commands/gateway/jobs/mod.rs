//! The assignment of jobs to workers. Pure: no clock, no I/O.
//!
//! ```text
//!  messages ─▶ hand_out ─▶ the worker that has ─┬─ answer: done, retry, drop ─────▶ FIN, REQ or a dead letter
//!                          waited longest       ├─ leave: its connection ended ──┐
//!                                               └─ tick: silent past its deadline ┴─▶ returned, to be requeued
//! ```
//!
//! Invariants, checked by the tests after every step:
//! - a worker never holds more jobs than it asked for;
//! - a job is either held by one connected worker, or returned, or answered;
//! - a worker is in its group's list of available workers exactly if it has room for a job;
//! - a job waits only while no worker is available;
//! - a group's slots are the jobs that its workers hold and have room for.

mod group;
#[cfg(test)]
mod tests;
mod turns;
mod worker;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

pub(super) use self::group::GroupKey;
use self::group::GroupQueue;
use self::worker::GatewayWorker;
use super::token::JobSecret;

/// A worker's id, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct WorkerId(u64);

/// The limits that a worker asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkerLimits {
    /// The most jobs that it holds.
    pub(super) in_flight: u32,
    /// The longest time without an answer or a touch while it holds jobs; then they are requeued.
    pub(super) deadline: Duration,
}

/// All groups, workers and jobs of a gateway. `D` is a job, `W` the outbox of a worker.
#[derive(Debug)]
pub(super) struct Jobs<D, W> {
    groups: HashMap<GroupKey, GroupQueue<D>>,
    workers: HashMap<WorkerId, GatewayWorker<W>>,
    held: HashMap<JobSecret, HeldJob<D>>,
    /// When to check whether a worker is silent: at most one entry per worker, never later than its
    /// deadline.
    deadlines: BTreeSet<(Instant, WorkerId)>,
    /// When to check whether a job has waited too long: at the first job's time, or earlier.
    waiting_due: Option<Instant>,
    /// Shutdown: no more workers will come.
    ending: bool,
    next_worker: u64,
}

#[derive(Debug)]
struct HeldJob<D> {
    job: D,
    worker: WorkerId,
}

impl<D, W: Clone> Jobs<D, W> {
    pub(super) fn new() -> Self {
        Self {
            groups: HashMap::new(),
            workers: HashMap::new(),
            held: HashMap::new(),
            deadlines: BTreeSet::new(),
            waiting_due: None,
            ending: false,
            next_worker: 0,
        }
    }

    /// Opens a group. Returns false if it is open already.
    pub(super) fn open(&mut self, key: &GroupKey) -> bool {
        let is_new = !self.groups.contains_key(key);
        if is_new {
            self.groups.insert(key.clone(), GroupQueue::default());
        }
        is_new
    }

    /// Closes a group that has no workers, and drops its waiting jobs. Returns false if it has
    /// workers.
    pub(super) fn close_unused(&mut self, key: &GroupKey) -> bool {
        let unused = self.groups.get(key).is_none_or(|group| group.workers == 0);
        if unused {
            self.groups.remove(key);
        }
        unused
    }

    /// Adds a worker. Returns `None` if its group is not open.
    pub(super) fn join(&mut self, key: &GroupKey, limits: WorkerLimits, outbox: W, now: Instant) -> Option<WorkerId> {
        let group = self.groups.get_mut(key)?;
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        let worker = GatewayWorker::new(key.clone(), limits, outbox, now);
        group.workers += 1;
        group.slots += worker.slots();
        self.workers.insert(id, worker);
        self.make_available(id);
        Some(id)
    }

    /// Takes an answered job from its worker, and returns it. Also returns the worker's outbox if
    /// the worker is retired and this was its last job. `None` if no worker holds the job.
    pub(super) fn answer(&mut self, secret: JobSecret, now: Instant) -> Option<(D, Option<W>)> {
        let HeldJob { job, worker: id } = self.held.remove(&secret)?;
        self.change(id, |worker| {
            worker.held.remove(&secret);
            worker.heard = now;
        });
        let is_finished = self.workers.get(&id).is_some_and(GatewayWorker::is_finished);
        let over = if is_finished { self.remove(id) } else { None };
        Some((job, over.map(|worker| worker.outbox)))
    }

    /// Resets the deadline of the worker that holds a job; returns the job. `None` if no worker
    /// holds it.
    pub(super) fn touch(&mut self, secret: JobSecret, now: Instant) -> Option<&D> {
        let HeldJob { job, worker } = self.held.get(&secret)?;
        self.workers.get_mut(worker).expect("holders of jobs exist").heard = now;
        Some(job)
    }

    /// Returns the worker that holds this job.
    pub(super) fn holder(&self, secret: JobSecret) -> Option<WorkerId> {
        self.held.get(&secret).map(|held| held.worker)
    }

    /// Returns the group of the worker that holds this job.
    pub(super) fn group_of(&self, secret: JobSecret) -> Option<GroupKey> {
        self.workers.get(&self.holder(secret)?).map(|worker| worker.group.clone())
    }

    /// Returns all workers, each with its group and outbox.
    pub(super) fn all_workers(&self) -> Vec<(WorkerId, GroupKey, W)> {
        self.workers.iter().map(|(id, worker)| (*id, worker.group.clone(), worker.outbox.clone())).collect()
    }

    /// Blocks a worker that leaves its jobs unread, or unblocks it. A blocked worker gets no jobs.
    /// Returns its group, if it is connected.
    pub(super) fn set_blocked(&mut self, id: WorkerId, blocked: bool) -> Option<GroupKey> {
        self.change(id, |worker| worker.blocked = blocked);
        self.workers.get(&id).map(|worker| worker.group.clone())
    }

    /// Retires a worker: it gets no more jobs, and is removed with its last answer. Returns its
    /// group, and its outbox if it is removed already; `None` if it is unknown.
    pub(super) fn retire(&mut self, id: WorkerId) -> Option<(GroupKey, Option<W>)> {
        self.change(id, |worker| worker.retired = true);
        let worker = self.workers.get(&id)?;
        let key = worker.group.clone();
        let over = if worker.is_finished() { self.remove(id) } else { None };
        Some((key, over.map(|worker| worker.outbox)))
    }

    /// Retires all workers. Returns the outboxes of those that are removed.
    pub(super) fn retire_all(&mut self) -> Vec<W> {
        let all: Vec<WorkerId> = self.workers.keys().copied().collect();
        all.into_iter().filter_map(|id| self.retire(id)?.1).collect()
    }

    /// Removes all workers for good: see [`leave`](Self::leave).
    pub(super) fn leave_all(&mut self) {
        let all: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in all {
            self.leave(id);
        }
        self.ending = true;
        for group in self.groups.values_mut() {
            group.returned.extend(group.waiting.drain(..).map(|(job, _)| job));
        }
    }

    /// Removes a worker, and returns its jobs to its group's `returned`. Returns the group, the
    /// outbox and the number of jobs; `None` if the worker is unknown.
    pub(super) fn leave(&mut self, id: WorkerId) -> Option<(GroupKey, W, usize)> {
        let worker = self.remove(id)?;
        let group = self.groups.get_mut(&worker.group).expect("a group with workers is open");
        let jobs = worker.held.iter().map(|secret| self.held.remove(secret).expect("held by its worker").job);
        group.returned.extend(jobs);
        Some((worker.group, worker.outbox, worker.held.len()))
    }

    /// Takes the jobs of a group that must be requeued.
    pub(super) fn take_returned(&mut self, key: &GroupKey) -> Vec<D> {
        self.groups.get_mut(key).map(|group| std::mem::take(&mut group.returned)).unwrap_or_default()
    }

    /// Removes the workers that are silent past their deadline; returns for each what
    /// [`leave`](Self::leave) returns. Call it at [`due`](Self::due).
    pub(super) fn tick(&mut self, now: Instant) -> Vec<(GroupKey, W, usize)> {
        let mut silent = Vec::new();
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.pop_first();
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            worker.has_deadline = false;
            if worker.held.is_empty() {
                continue;
            }
            let end = worker.heard + worker.limits.deadline;
            if end > now {
                worker.has_deadline = true;
                self.deadlines.insert((end, id));
                continue;
            }
            silent.extend(self.leave(id));
        }
        silent
    }

    /// Returns when to call [`tick`](Self::tick) and [`expire_waiting`](Self::expire_waiting) next.
    pub(super) fn due(&self) -> Option<Instant> {
        let alarm = self.deadlines.first().map(|(at, _)| *at);
        alarm.into_iter().chain(self.waiting_due).min()
    }

    /// Returns the number of jobs that a group's workers hold and have room for.
    pub(super) fn slots(&self, key: &GroupKey) -> u64 {
        self.groups.get(key).map_or(0, |group| group.slots)
    }

    /// Returns the number of further jobs that a group's workers have room for.
    pub(super) fn room(&self, key: &GroupKey) -> u64 {
        let workers = self.groups.get(key).into_iter().flat_map(|group| &group.available);
        workers.filter_map(|id| self.workers.get(id)).map(GatewayWorker::room).sum()
    }

    /// Returns the number of a group's workers.
    pub(super) fn workers(&self, key: &GroupKey) -> usize {
        self.groups.get(key).map_or(0, |group| group.workers)
    }

    /// Returns the number of held jobs.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Returns the held jobs.
    pub(super) fn held_jobs(&self) -> impl Iterator<Item = &D> {
        self.held.values().map(|held| &held.job)
    }

    fn remove(&mut self, id: WorkerId) -> Option<GatewayWorker<W>> {
        let worker = self.workers.remove(&id)?;
        let group = self.groups.get_mut(&worker.group).expect("a group with workers is open");
        group.workers -= 1;
        group.slots -= worker.slots();
        if worker.is_available {
            group.available.retain(|other| *other != id);
        }
        Some(worker)
    }

    /// Changes a worker, and updates its group's slots and list of available workers.
    fn change(&mut self, id: WorkerId, change: impl FnOnce(&mut GatewayWorker<W>)) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let group = self.groups.get_mut(&worker.group).expect("a group with workers is open");
        group.slots -= worker.slots();
        change(worker);
        group.slots += worker.slots();
        if worker.is_available && !worker.has_room() {
            worker.is_available = false;
            group.available.retain(|other| *other != id);
        }
        self.make_available(id);
    }
}

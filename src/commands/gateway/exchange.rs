//! The exchange: hands messages out to workers as jobs, and turns workers' answers into FIN and
//! REQ.
//!
//! ```text
//!  nsqds ══▶ GroupConsumer (one per group) ──▶ Exchange ──▶ Outbox ──▶ a worker's response
//!    ▲                                     Jobs, TokenGenerator              │
//!    └────────────── FIN, REQ ◀────────────────────┴──── POST /jobs/TOKEN/done, retry, drop
//! ```
//!
//! A job is in flight at nsqd while a worker has it, so nsqd redelivers it if this process dies.
//! The lock is held for changes of the state and of RDY, never across an await.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::counter::JobCounter;
use super::counters::GatewayMetrics;
use super::group_consumer::GroupConsumer;
use super::jobs::{GroupKey, Jobs, WorkerId, WorkerLimits};
use super::outbox::Outbox;
use super::token::{JobToken, TokenGenerator};
use super::worker_guard::WorkerGuard;
use crate::commands::common::job::JobLine;
use crate::commands::common::metrics::group_meter::{self, GroupFigures};
use mqueue::client::Delivery;
use mqueue::proto::Message;
use mqueue::worker::{WorkMeter, WorkerStats, time_since};

/// A message as a job: its delivery, until a worker answers.
#[derive(Debug)]
pub(super) struct GatewayJob {
    pub(super) delivery: Delivery,
    /// The consumer that received it.
    pub(super) group_consumer: Arc<GroupConsumer>,
    /// When a worker got it, which may have begun with it.
    pub(super) handed_out: Option<Instant>,
}

/// The most closed groups whose counts are kept.
const MAX_CLOSED_METERS: usize = 100;

/// Why jobs are requeued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequeueReason {
    /// Their worker disconnected or was silent, and may have crashed on them; or no worker had
    /// room.
    WorkerGone,
    /// This gateway shuts down.
    Shutdown,
}

/// Why a token is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InvalidToken {
    /// Another gateway issued it.
    Elsewhere,
    /// It was used, or its job was requeued.
    Gone,
}

/// The open groups, their workers and their jobs.
#[derive(Debug)]
pub(super) struct Exchange {
    state: Mutex<ExchangeState>,
    /// The most jobs that the workers of one group hold together.
    max_in_flight: u32,
    /// Notified when the time of the next [`tick`](Self::tick) changed.
    pub(super) due_changed: Notify,
    /// Notified when workers may have more room than before.
    pub(super) room_changed: Notify,
    /// Notified when no worker holds a job any more.
    pub(super) all_answered: Notify,
    pub(super) counters: GatewayMetrics,
    pub(super) tasks: TaskTracker,
}

#[derive(Debug)]
struct ExchangeState {
    jobs: Jobs<GatewayJob, Arc<Outbox>>,
    consumers: HashMap<GroupKey, Arc<GroupConsumer>>,
    /// The meters of open groups, and of some closed ones, whose counts must not vanish.
    meters: HashMap<GroupKey, Arc<WorkMeter>>,
    tokens: TokenGenerator,
    /// The jobs that this gateway publishes itself (`--counter`).
    counter: Option<JobCounter>,
}

/// A job assigned to a worker, before it is written to the worker's outbox.
#[derive(Debug)]
struct AssignedJob {
    worker: WorkerId,
    outbox: Arc<Outbox>,
    token: JobToken,
    message: Message,
    group_consumer: Arc<GroupConsumer>,
    /// Its number, with `--counter`.
    number: Option<u64>,
}

impl ExchangeState {
    /// Assigns waiting jobs to the workers that have room.
    fn hand_out_waiting(&mut self, key: &GroupKey, now: Instant) -> Vec<AssignedJob> {
        let mut handed = Vec::new();
        while let Some(mut job) = self.jobs.next_waiting(key) {
            let token = match self.tokens.token() {
                Ok(token) => token,
                Err(error) => {
                    tracing::error!("no randomness for a token; job requeued: {error}");
                    break;
                }
            };
            let (message, group_consumer) = (job.delivery.message().clone(), job.group_consumer.clone());
            job.handed_out = Some(now);
            let number = self.counter.as_mut().and_then(|counter| counter.handed_out(key, &message.body));
            match self.jobs.hand_out(key, job, token.secret, now) {
                Ok((worker, outbox)) => {
                    handed.push(AssignedJob { worker, outbox, token, message, group_consumer, number })
                }
                Err(_) => unreachable!("next_waiting found an available worker"),
            }
        }
        handed
    }
}

impl Exchange {
    pub(super) fn new(tokens: TokenGenerator, max_in_flight: u32, counter: Option<JobCounter>) -> Arc<Self> {
        let (consumers, meters) = (HashMap::new(), HashMap::new());
        let state = ExchangeState { jobs: Jobs::new(), consumers, meters, tokens, counter };
        Arc::new(Self {
            state: Mutex::new(state),
            max_in_flight,
            due_changed: Notify::new(),
            room_changed: Notify::new(),
            all_answered: Notify::new(),
            counters: GatewayMetrics::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Opens a group with its consumer. Returns false if the group is open already.
    pub(super) fn open(&self, group_consumer: &Arc<GroupConsumer>) -> bool {
        let mut state = self.state();
        let is_new = state.jobs.open(&group_consumer.key);
        if is_new {
            state.consumers.insert(group_consumer.key.clone(), group_consumer.clone());
        }
        is_new
    }

    /// Closes a group that has no workers. Returns false if it has some.
    pub(super) fn close_unused(&self, key: &GroupKey) -> bool {
        let mut state = self.state();
        let closed = state.jobs.close_unused(key);
        if closed {
            state.consumers.remove(key);
        }
        closed
    }

    /// Adds a worker. Returns `None` if its group is not open.
    pub(super) fn join(
        self: &Arc<Self>,
        key: &GroupKey,
        limits: WorkerLimits,
        outbox: &Arc<Outbox>,
    ) -> Option<WorkerGuard> {
        let mut state = self.state();
        let id = state.jobs.join(key, limits, outbox.clone(), Instant::now())?;
        self.update_rdy(&state, key);
        drop(state);
        self.hand_out_waiting(key);
        Some(WorkerGuard::new(self.clone(), id, outbox.clone()))
    }

    /// Hands messages out to workers. Messages wait for a moment if no worker has room.
    pub(super) fn hand_out(&self, group_consumer: &Arc<GroupConsumer>, deliveries: Vec<Delivery>) {
        let (now, key) = (Instant::now(), &group_consumer.key);
        let (unwanted, handed) = self.update(|state| {
            let tasks = deliveries.into_iter().map(|delivery| GatewayJob {
                delivery,
                group_consumer: group_consumer.clone(),
                handed_out: None,
            });
            let unwanted: Vec<GatewayJob> = tasks.filter_map(|job| state.jobs.enqueue(key, job, now).err()).collect();
            let handed = state.hand_out_waiting(key, now);
            self.update_rdy(state, key);
            (unwanted, handed)
        });
        self.counters.released.inc_by(unwanted.len() as u64);
        group_consumer.work.count(WorkerStats { released: unwanted.len() as u64, ..WorkerStats::default() });
        drop(unwanted);
        self.send(handed);
    }

    /// Hands out waiting jobs, after a worker may have got room.
    fn hand_out_waiting(&self, key: &GroupKey) {
        let handed = self.update(|state| state.hand_out_waiting(key, Instant::now()));
        self.room_changed.notify_one();
        self.send(handed);
    }

    /// Changes the state, and notifies `due_changed` if the next deadline changed.
    fn update<T>(&self, change: impl FnOnce(&mut ExchangeState) -> T) -> T {
        let mut state = self.state();
        let due = state.jobs.due();
        let changed = change(&mut state);
        let due_changed = state.jobs.due() != due;
        drop(state);
        if due_changed {
            self.due_changed.notify_one();
        }
        changed
    }

    fn send(&self, handed: Vec<AssignedJob>) {
        for AssignedJob { worker, outbox, token, message, group_consumer, number } in handed {
            let (n, id, attempts) = (&outbox.name, message.id, message.attempts);
            match number {
                Some(counter) if attempts > 1 => tracing::info!(attempts, "fn=Flush n={n} counter={counter}"),
                Some(counter) => tracing::info!("fn=Flush n={n} counter={counter}"),
                None => {
                    tracing::info!(%n, stream = %group_consumer.key.stream, group = %group_consumer.key.group, %id, attempts, "job");
                }
            }
            self.counters.handed_out.inc();
            if outbox.add(&JobLine::new(token.to_string(), &message)) {
                self.set_blocked(worker, true);
            }
        }
    }

    /// Takes the job of a token from its worker, to be answered.
    pub(super) fn answer(&self, token: JobToken) -> Result<GatewayJob, InvalidToken> {
        let mut state = self.state();
        self.check(&state, token)?;
        let (job, over) = state.jobs.answer(token.secret, Instant::now()).ok_or(InvalidToken::Gone)?;
        let all_answered = state.jobs.held() == 0;
        if over.is_some() {
            self.update_rdy(&state, &job.group_consumer.key);
        }
        drop(state);
        match over {
            Some(outbox) => outbox.end(),
            None => self.hand_out_waiting(&job.group_consumer.key),
        }
        if all_answered {
            self.all_answered.notify_one();
        }
        if job.delivery.is_lost() { Err(InvalidToken::Gone) } else { Ok(job) }
    }

    /// Resets the deadline of the worker that has this job.
    pub(super) fn touch(&self, token: JobToken) -> Result<(), InvalidToken> {
        let mut state = self.state();
        self.check(&state, token)?;
        match state.jobs.touch(token.secret, Instant::now()) {
            Some(job) if !job.delivery.is_lost() => Ok(()),
            Some(_) | None => Err(InvalidToken::Gone),
        }
    }

    /// Blocks a worker that leaves its jobs unread, or unblocks it.
    pub(super) fn set_blocked(&self, id: WorkerId, blocked: bool) {
        let mut state = self.state();
        let Some(key) = state.jobs.set_blocked(id, blocked) else { return };
        self.update_rdy(&state, &key);
        drop(state);
        if !blocked {
            self.hand_out_waiting(&key);
        }
    }

    /// Retires a worker: it gets no more jobs, and is removed with its last answer.
    pub(super) fn retire(&self, id: WorkerId) {
        let mut state = self.state();
        if let Some((key, _)) = state.jobs.retire(id) {
            self.update_rdy(&state, &key);
        }
    }

    /// Retires the worker that has the job of this token.
    pub(super) fn retire_of(&self, token: JobToken) -> Result<(), InvalidToken> {
        let mut state = self.state();
        self.check(&state, token)?;
        let id = state.jobs.holder(token.secret).ok_or(InvalidToken::Gone)?;
        if let Some((key, _)) = state.jobs.retire(id) {
            self.update_rdy(&state, &key);
        }
        Ok(())
    }

    /// Retires all workers. Their responses end when their jobs are answered.
    pub(super) fn retire_all(&self) {
        let mut state = self.state();
        let over = state.jobs.retire_all();
        state.consumers.values().for_each(|group_consumer| self.update_rdy(&state, &group_consumer.key));
        let held = state.jobs.held();
        drop(state);
        over.iter().for_each(|outbox| outbox.end());
        if held == 0 {
            self.all_answered.notify_one();
        }
    }

    /// Removes a worker, and requeues its jobs at once.
    pub(super) fn leave(&self, id: WorkerId) {
        let Some((key, outbox, jobs)) = self.state().jobs.leave(id) else { return };
        if jobs > 0 {
            tracing::info!(n = %outbox.name, stream = %key.stream, group = %key.group, jobs, "worker disconnected; its jobs are requeued");
        }
        self.requeue_returned(&key, RequeueReason::WorkerGone);
    }

    /// Removes all workers, and requeues their jobs.
    pub(super) fn leave_all(&self) {
        let keys: Vec<GroupKey> = {
            let mut state = self.state();
            state.jobs.leave_all();
            state.consumers.keys().cloned().collect()
        };
        keys.iter().for_each(|key| self.requeue_returned(key, RequeueReason::Shutdown));
    }

    /// Requeues the jobs of workers silent past their deadline, and closes the workers'
    /// connections. Returns when to call it again.
    pub(super) fn tick(&self) -> Option<Instant> {
        let silent = self.state().jobs.tick(Instant::now());
        for (key, outbox, jobs) in silent {
            tracing::warn!(n = %outbox.name, stream = %key.stream, group = %key.group, jobs, "worker is silent past its deadline; its jobs are requeued");
            self.counters.silent_workers.inc();
            outbox.cut();
            self.requeue_returned(&key, RequeueReason::WorkerGone);
        }
        let given_up = self.state().jobs.expire_waiting(Instant::now());
        given_up.iter().for_each(|key| self.requeue_returned(key, RequeueReason::WorkerGone));
        self.state().jobs.due()
    }

    /// Returns the numbers to publish now (`--counter`); empty without it.
    pub(super) fn numbers_wanted(&self) -> Range<u64> {
        let mut state = self.state();
        let ExchangeState { jobs, counter, .. } = &mut *state;
        counter.as_mut().map_or(0..0, |counter| counter.next(jobs.room(counter.key()), Instant::now()))
    }

    /// Returns true if the numbers of `--counter` are for this group.
    pub(super) fn counts(&self, key: &GroupKey) -> bool {
        self.state().counter.as_ref().is_some_and(|counter| counter.key() == key)
    }

    /// Returns the group of the worker that holds the job of this token; `None` if no worker here
    /// does.
    pub(super) fn group_of(&self, token: JobToken) -> Option<GroupKey> {
        let state = self.state();
        self.check(&state, token).ok()?;
        state.jobs.group_of(token.secret)
    }

    /// Removes the workers that may no longer take their group's jobs, closes their connections,
    /// and requeues their jobs.
    pub(super) fn remove_unless(&self, may_stay: impl Fn(&GroupKey, &Outbox) -> bool) {
        let workers = self.state().jobs.all_workers();
        for (id, key, outbox) in workers.into_iter().filter(|(_, key, outbox)| !may_stay(key, outbox)) {
            tracing::info!(n = %outbox.name, stream = %key.stream, group = %key.group, "worker's token allows this group no longer");
            outbox.cut();
            self.leave(id);
        }
    }

    /// Returns the open groups' consumers, and the number of workers of each.
    pub(super) fn groups(&self) -> Vec<(Arc<GroupConsumer>, usize)> {
        let state = self.state();
        let mut groups: Vec<_> = state
            .consumers
            .values()
            .map(|group_consumer| (group_consumer.clone(), state.jobs.workers(&group_consumer.key)))
            .collect();
        groups.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        groups
    }

    /// Returns the meter of a group. One that was closed keeps its counts, unless too many others
    /// were closed.
    pub(super) fn meter(&self, key: &GroupKey) -> Arc<WorkMeter> {
        let ExchangeState { consumers, meters, .. } = &mut *self.state();
        if !meters.contains_key(key) && meters.len() >= consumers.len() + MAX_CLOSED_METERS {
            meters.retain(|key, _| consumers.contains_key(key));
        }
        meters.entry(key.clone()).or_default().clone()
    }

    /// Returns the figures of all groups that have a meter.
    pub(super) fn figures(&self) -> Vec<GroupFigures> {
        let state = self.state();
        let mut oldest: HashMap<&GroupKey, i64> = HashMap::new();
        for GatewayJob { delivery, group_consumer, .. } in state.jobs.held_jobs() {
            let (timestamp, key) = (delivery.message().timestamp, &group_consumer.key);
            oldest.entry(key).and_modify(|oldest| *oldest = timestamp.min(*oldest)).or_insert(timestamp);
        }
        let figures = |(key, work): (&GroupKey, &Arc<WorkMeter>)| {
            let health = state.consumers.get(key).map(|consumer| consumer.control.health());
            GroupFigures {
                labels: group_meter::labels(&key.stream, &key.group),
                work: work.clone(),
                stats: work.stats(),
                is_open: health.is_some(),
                in_flight: health.map_or(0, |health| health.in_flight.into()),
                connections: health.map_or(0, |health| health.connected),
                oldest: oldest.get(key).map(|timestamp| time_since(*timestamp)).unwrap_or_default(),
            }
        };
        let mut all: Vec<_> = state.meters.iter().map(figures).collect();
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        all
    }

    /// Returns the number of jobs that workers hold.
    pub(super) fn held(&self) -> usize {
        self.state().jobs.held()
    }

    fn check(&self, state: &ExchangeState, token: JobToken) -> Result<(), InvalidToken> {
        if token.gateway == state.tokens.gateway() { Ok(()) } else { Err(InvalidToken::Elsewhere) }
    }

    /// Lowers RDY, then requeues returned jobs. In this order, so that nsqd does not send them here
    /// again.
    fn requeue_returned(&self, key: &GroupKey, why: RequeueReason) {
        let mut state = self.state();
        let returned = state.jobs.take_returned(key);
        self.update_rdy(&state, key);
        drop(state);
        self.counters.released.inc_by(returned.len() as u64);
        for GatewayJob { delivery, handed_out, group_consumer } in returned {
            let work = &group_consumer.work;
            match why {
                // counts as a try, because the worker may have crashed on the job
                RequeueReason::WorkerGone if handed_out.is_some() => {
                    work.count(WorkerStats { retried: 1, ..WorkerStats::default() });
                    delivery.abandon();
                }
                RequeueReason::WorkerGone | RequeueReason::Shutdown => {
                    work.count(WorkerStats { released: 1, ..WorkerStats::default() });
                    delivery.release();
                }
            }
        }
    }

    /// Sets RDY to the number of jobs that the group's workers hold and have room for.
    fn update_rdy(&self, state: &ExchangeState, key: &GroupKey) {
        if let Some(group_consumer) = state.consumers.get(key) {
            let slots = u32::try_from(state.jobs.slots(key)).unwrap_or(u32::MAX);
            group_consumer.control.set_max_in_flight(slots.min(self.max_in_flight));
            self.room_changed.notify_one();
            if state.jobs.workers(key) == 0 {
                group_consumer.unused.notify_one();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, ExchangeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

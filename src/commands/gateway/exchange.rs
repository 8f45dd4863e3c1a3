//! Where messages become jobs of workers, and workers' answers become nsqd's.
//!
//! ```text
//!  nsqds ══▶ Supply (one consumer a group) ──▶ Exchange ──▶ Outbox ──▶ a worker's response
//!    ▲                                         Jobs, Mint                  │
//!    └────────────── FIN, REQ ◀────────────────────┴──── POST /jobs/TOKEN/done, retry, drop
//! ```
//!
//! A job is in flight at nsqd for as long as a worker has it, so whatever happens to this process, it comes again. The lock covers the
//! state's arithmetic and what it means for RDY, never an await.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::counter::Counter;
use super::counters::Counters;
use super::jobs::{GroupKey, Jobs, Terms, WorkerId};
use super::outbox::Outbox;
use super::stay::Stay;
use super::supply::Supply;
use super::token::{Mint, Token};
use crate::commands::common::job::JobLine;
use mqueue::client::Delivery;
use mqueue::proto::Message;

/// A message in the hands of a worker.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) delivery: Delivery,
    /// Where it came from.
    pub(super) supply: Arc<Supply>,
    /// A worker got it: from then on it may have been begun.
    pub(super) is_handed_out: bool,
}

/// Why jobs go back to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Returned {
    /// Their workers are gone, and may have died of them; or no worker came for them.
    NobodyIsThere,
    /// This gateway ends.
    GatewayEnds,
}

/// Why a token cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Another gateway gave it.
    Elsewhere,
    /// It was used, or its job was taken back.
    Gone,
}

/// The groups that are open, their workers and their jobs.
#[derive(Debug)]
pub(super) struct Exchange {
    state: Mutex<State>,
    /// Jobs of a group that its workers hold together, at the most.
    max_in_flight: u32,
    /// When somebody has to be looked after has changed.
    pub(super) due_changed: Notify,
    /// Workers may have room that they did not have before.
    pub(super) room_changed: Notify,
    /// Nobody holds a job any more.
    pub(super) all_answered: Notify,
    pub(super) counters: Counters,
    pub(super) tasks: TaskTracker,
}

#[derive(Debug)]
struct State {
    jobs: Jobs<Task, Arc<Outbox>>,
    supplies: HashMap<GroupKey, Arc<Supply>>,
    mint: Mint,
    /// What this gateway publishes by itself.
    counter: Option<Counter>,
}

/// A job on its way to a worker.
#[derive(Debug)]
struct Handed {
    worker: WorkerId,
    outbox: Arc<Outbox>,
    token: Token,
    message: Message,
    supply: Arc<Supply>,
    /// Its number, if this gateway counts.
    number: Option<u64>,
}

impl State {
    /// Gives as many jobs that wait as workers take.
    fn hand_out_waiting(&mut self, key: &GroupKey, now: Instant) -> Vec<Handed> {
        let mut handed = Vec::new();
        while let Some(mut task) = self.jobs.next_waiting(key) {
            let token = match self.mint.token() {
                Ok(token) => token,
                Err(error) => {
                    tracing::error!("no randomness for a token, the job goes back: {error}");
                    break;
                }
            };
            let (message, supply) = (task.delivery.message().clone(), task.supply.clone());
            task.is_handed_out = true;
            let number = self.counter.as_mut().and_then(|counter| counter.taken(key, &message.body));
            match self.jobs.hand_out(key, task, token.secret, now) {
                Ok((worker, outbox)) => handed.push(Handed { worker, outbox, token, message, supply, number }),
                Err(_) => unreachable!("somebody stands in line"),
            }
        }
        handed
    }
}

impl Exchange {
    pub(super) fn new(mint: Mint, max_in_flight: u32, counter: Option<Counter>) -> Arc<Self> {
        let state = State { jobs: Jobs::new(), supplies: HashMap::new(), mint, counter };
        Arc::new(Self {
            state: Mutex::new(state),
            max_in_flight,
            due_changed: Notify::new(),
            room_changed: Notify::new(),
            all_answered: Notify::new(),
            counters: Counters::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// A group's messages will come from this supply. False if it has one already.
    pub(super) fn open(&self, supply: &Arc<Supply>) -> bool {
        let mut state = self.state();
        let is_new = state.jobs.open(&supply.key);
        if is_new {
            state.supplies.insert(supply.key.clone(), supply.clone());
        }
        is_new
    }

    /// Forgets a group that has no workers. False if it has some.
    pub(super) fn close_unused(&self, key: &GroupKey) -> bool {
        let mut state = self.state();
        let closed = state.jobs.close_unused(key);
        if closed {
            state.supplies.remove(key);
        }
        closed
    }

    /// A worker comes. `None` if its group is not open.
    pub(super) fn join(self: &Arc<Self>, key: &GroupKey, terms: Terms, outbox: &Arc<Outbox>) -> Option<Stay> {
        let mut state = self.state();
        let id = state.jobs.join(key, terms, outbox.clone(), Instant::now())?;
        self.ask(&state, key);
        drop(state);
        self.hand_out_waiting(key);
        Some(Stay::new(self.clone(), id, outbox.clone()))
    }

    /// Gives messages that came to workers. Those that nobody takes just now wait for a moment.
    pub(super) fn hand_out(&self, supply: &Arc<Supply>, deliveries: Vec<Delivery>) {
        let (now, key) = (Instant::now(), &supply.key);
        let (unwanted, handed) = self.changing_due(|state| {
            let tasks =
                deliveries.into_iter().map(|delivery| Task { delivery, supply: supply.clone(), is_handed_out: false });
            let unwanted: Vec<Task> = tasks.filter_map(|task| state.jobs.keep(key, task, now).err()).collect();
            let handed = state.hand_out_waiting(key, now);
            self.ask(state, key);
            (unwanted, handed)
        });
        self.counters.released.inc_by(unwanted.len() as u64);
        drop(unwanted);
        self.send(handed);
    }

    /// A worker may have room again.
    fn hand_out_waiting(&self, key: &GroupKey) {
        let handed = self.changing_due(|state| state.hand_out_waiting(key, Instant::now()));
        self.room_changed.notify_one();
        self.send(handed);
    }

    /// Changes the state; whoever looks after what is due is told if it is due at another time now.
    fn changing_due<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
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

    fn send(&self, handed: Vec<Handed>) {
        for Handed { worker, outbox, token, message, supply, number } in handed {
            let (n, id, attempts) = (&outbox.name, message.id, message.attempts);
            match number {
                Some(counter) if attempts > 1 => tracing::info!(attempts, "fn=Flush n={n} counter={counter}"),
                Some(counter) => tracing::info!("fn=Flush n={n} counter={counter}"),
                None => {
                    tracing::info!(%n, stream = %supply.key.stream, group = %supply.key.group, %id, attempts, "job");
                }
            }
            self.counters.handed_out.inc();
            if outbox.add(&JobLine::new(token.to_string(), &message)) {
                self.set_clogged(worker, true);
            }
        }
    }

    /// Takes the job of a token, for its answer.
    pub(super) fn answer(&self, token: Token) -> Result<Task, Unusable> {
        let mut state = self.state();
        self.check(&state, token)?;
        let (task, over) = state.jobs.answer(token.secret, Instant::now()).ok_or(Unusable::Gone)?;
        let all_answered = state.jobs.held() == 0;
        if over.is_some() {
            self.ask(&state, &task.supply.key);
        }
        drop(state);
        match over {
            Some(outbox) => outbox.end(),
            None => self.hand_out_waiting(&task.supply.key),
        }
        if all_answered {
            self.all_answered.notify_one();
        }
        if task.delivery.is_lost() { Err(Unusable::Gone) } else { Ok(task) }
    }

    /// The worker that has this job is at work.
    pub(super) fn touch(&self, token: Token) -> Result<(), Unusable> {
        let mut state = self.state();
        self.check(&state, token)?;
        match state.jobs.touch(token.secret, Instant::now()) {
            Some(task) if !task.delivery.is_lost() => Ok(()),
            Some(_) | None => Err(Unusable::Gone),
        }
    }

    /// A worker leaves unread what it was sent, or has read it.
    pub(super) fn set_clogged(&self, id: WorkerId, clogged: bool) {
        let mut state = self.state();
        let Some(key) = state.jobs.set_clogged(id, clogged) else { return };
        self.ask(&state, &key);
        drop(state);
        if !clogged {
            self.hand_out_waiting(&key);
        }
    }

    /// A worker takes no more jobs, and goes with its last one.
    pub(super) fn retire(&self, id: WorkerId) {
        let mut state = self.state();
        if let Some((key, _)) = state.jobs.retire(id) {
            self.ask(&state, &key);
        }
    }

    /// The worker that has the job of this token takes no more.
    pub(super) fn retire_of(&self, token: Token) -> Result<(), Unusable> {
        let mut state = self.state();
        self.check(&state, token)?;
        let id = state.jobs.holder(token.secret).ok_or(Unusable::Gone)?;
        if let Some((key, _)) = state.jobs.retire(id) {
            self.ask(&state, &key);
        }
        Ok(())
    }

    /// No worker gets a job any more; their responses end when they have answered what they have.
    pub(super) fn retire_all(&self) {
        let mut state = self.state();
        let over = state.jobs.retire_all();
        state.supplies.values().for_each(|supply| self.ask(&state, &supply.key));
        let held = state.jobs.held();
        drop(state);
        over.iter().for_each(|outbox| outbox.end());
        if held == 0 {
            self.all_answered.notify_one();
        }
    }

    /// A worker is gone: what it has goes back to the queue, at once.
    pub(super) fn leave(&self, id: WorkerId) {
        let Some((key, outbox, jobs)) = self.state().jobs.leave(id) else { return };
        if jobs > 0 {
            tracing::info!(n = %outbox.name, stream = %key.stream, group = %key.group, jobs, "worker went away, its jobs go back");
        }
        self.give_back(&key, Returned::NobodyIsThere);
    }

    /// All workers are gone.
    pub(super) fn leave_all(&self) {
        let keys: Vec<GroupKey> = {
            let mut state = self.state();
            state.jobs.leave_all();
            state.supplies.keys().cloned().collect()
        };
        keys.iter().for_each(|key| self.give_back(key, Returned::GatewayEnds));
    }

    /// Looks for workers that are silent, whose jobs go back, and whose connections are cut. Returns when to look again.
    pub(super) fn tick(&self) -> Option<Instant> {
        let silent = self.state().jobs.tick(Instant::now());
        for (key, outbox, jobs) in silent {
            tracing::warn!(n = %outbox.name, stream = %key.stream, group = %key.group, jobs, "worker is silent, its jobs go back");
            self.counters.silent_workers.inc();
            outbox.cut();
            self.give_back(&key, Returned::NobodyIsThere);
        }
        let given_up = self.state().jobs.give_up_waiting(Instant::now());
        given_up.iter().for_each(|key| self.give_back(key, Returned::NobodyIsThere));
        self.state().jobs.due()
    }

    /// The numbers that this gateway is to publish now, if it counts.
    pub(super) fn numbers_wanted(&self) -> Range<u64> {
        let mut state = self.state();
        let State { jobs, counter, .. } = &mut *state;
        counter.as_mut().map_or(0..0, |counter| counter.next(jobs.room(counter.key()), Instant::now()))
    }

    /// The open groups' supplies, and how many workers each has.
    pub(super) fn groups(&self) -> Vec<(Arc<Supply>, usize)> {
        let state = self.state();
        let mut groups: Vec<_> =
            state.supplies.values().map(|supply| (supply.clone(), state.jobs.workers(&supply.key))).collect();
        groups.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        groups
    }

    /// How many jobs workers have.
    pub(super) fn held(&self) -> usize {
        self.state().jobs.held()
    }

    fn check(&self, state: &State, token: Token) -> Result<(), Unusable> {
        if token.gateway == state.mint.gateway() { Ok(()) } else { Err(Unusable::Elsewhere) }
    }

    /// First less is asked for, then the jobs go back: they shall not come here again for nobody.
    fn give_back(&self, key: &GroupKey, why: Returned) {
        let mut state = self.state();
        let returned = state.jobs.take_returned(key);
        self.ask(&state, key);
        drop(state);
        self.counters.released.inc_by(returned.len() as u64);
        for Task { delivery, is_handed_out, .. } in returned {
            match why {
                // a worker that dies of its job is the reason to count this as a try
                Returned::NobodyIsThere if is_handed_out => delivery.abandon(),
                Returned::NobodyIsThere | Returned::GatewayEnds => delivery.release(),
            }
        }
    }

    /// Asks nsqd for as many messages as workers would take.
    fn ask(&self, state: &State, key: &GroupKey) {
        if let Some(supply) = state.supplies.get(key) {
            let slots = u32::try_from(state.jobs.slots(key)).unwrap_or(u32::MAX);
            supply.control.set_max_in_flight(slots.min(self.max_in_flight));
            self.room_changed.notify_one();
            if state.jobs.workers(key) == 0 {
                supply.unused.notify_one();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

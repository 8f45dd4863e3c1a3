//! Which worker has which job, and who gets the next one: pure.
//!
//! ```text
//!  a group's messages ─▶ hand_out ─▶ the worker that waits longest for one ─┬─ answer: done, retried, dropped ─▶ the caller says so to nsqd
//!                                                                          ├─ leave: its connection ended ─────┐
//!                                                                          └─ tick: silent past its deadline ──┴─▶ returned, to be given back
//! ```
//!
//! Invariants, checked by the tests after every step:
//! - a worker never holds more jobs than it asked for;
//! - a job is held by one worker, which is there, or is returned, or was answered: never two of them;
//! - a worker stands in its group's line exactly if it would take a job;
//! - a job waits for a worker, for a moment, only while nobody stands in line;
//! - a group's slots are the jobs that its workers hold and would take.

mod group;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use self::group::Group;
pub(super) use self::group::GroupKey;
use self::worker::Worker;
use super::token::Secret;

/// How long a job waits for a worker that has room, before it goes back to the queue.
const WAIT: Duration = Duration::from_secs(1);

/// Names a worker; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct WorkerId(u64);

/// What a worker asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Jobs that it holds at the most.
    pub(super) in_flight: u32,
    /// While it holds jobs it says something at least this often, or they are taken back.
    pub(super) deadline: Duration,
}

/// All groups, workers and jobs of a gateway. `D` is a job, `W` the way to its worker.
#[derive(Debug)]
pub(super) struct Jobs<D, W> {
    groups: HashMap<GroupKey, Group<D>>,
    workers: HashMap<WorkerId, Worker<W>>,
    held: HashMap<Secret, Held<D>>,
    /// When to look whether a worker is silent; one entry a worker at the most, for the time that it was heard before or earlier.
    alarms: BTreeSet<(Instant, WorkerId)>,
    /// When to look whether a job has waited for too long; that or later.
    waiting_due: Option<Instant>,
    /// Nobody will come any more.
    ending: bool,
    next_worker: u64,
}

#[derive(Debug)]
struct Held<D> {
    job: D,
    worker: WorkerId,
}

impl<D, W: Clone> Jobs<D, W> {
    pub(super) fn new() -> Self {
        Self {
            groups: HashMap::new(),
            workers: HashMap::new(),
            held: HashMap::new(),
            alarms: BTreeSet::new(),
            waiting_due: None,
            ending: false,
            next_worker: 0,
        }
    }

    /// A group's messages will come. False, and nothing happens, if they come already.
    pub(super) fn open(&mut self, key: &GroupKey) -> bool {
        let is_new = !self.groups.contains_key(key);
        if is_new {
            self.groups.insert(key.clone(), Group::default());
        }
        is_new
    }

    /// Forgets a group that has no workers, and drops the jobs that wait for some. False if it has workers.
    pub(super) fn close_unused(&mut self, key: &GroupKey) -> bool {
        let unused = self.groups.get(key).is_none_or(|group| group.workers == 0);
        if unused {
            self.groups.remove(key);
        }
        unused
    }

    /// A worker comes. `None` if its group is not open.
    pub(super) fn join(&mut self, key: &GroupKey, terms: Terms, way: W, now: Instant) -> Option<WorkerId> {
        let group = self.groups.get_mut(key)?;
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        let worker = Worker::new(key.clone(), terms, way, now);
        group.workers += 1;
        group.slots += worker.slots();
        self.workers.insert(id, worker);
        self.line_up(id);
        Some(id)
    }

    /// Gives a job of this group to the worker that waits longest, and says which. Gives it back (`Err`) if
    /// nobody takes one.
    pub(super) fn hand_out(
        &mut self,
        key: &GroupKey,
        job: D,
        secret: Secret,
        now: Instant,
    ) -> Result<(WorkerId, W), D> {
        let next = self.groups.get_mut(key).and_then(|group| group.line.pop_front());
        let Some(id) = next else { return Err(job) };
        let worker = self.workers.get_mut(&id).expect("who stands in line is there");
        worker.in_line = false;
        if worker.held.is_empty() {
            worker.heard = now;
        }
        worker.held.insert(secret);
        if !worker.has_alarm {
            worker.has_alarm = true;
            self.alarms.insert((now + worker.terms.deadline, id));
        }
        let way = worker.way.clone();
        self.held.insert(secret, Held { job, worker: id });
        self.line_up(id);
        Ok((id, way))
    }

    /// Keeps a job that nobody takes just now: a worker will soon have room again, or come again. Gives it back (`Err`) if the group is
    /// not open, or nobody will.
    pub(super) fn keep(&mut self, key: &GroupKey, job: D, now: Instant) -> Result<(), D> {
        match self.groups.get_mut(key).filter(|_| !self.ending) {
            Some(group) => {
                group.waiting.push_back((job, now + WAIT));
                self.waiting_due.get_or_insert(now + WAIT);
                Ok(())
            }
            None => Err(job),
        }
    }

    /// The job that waits longest for a worker, if there is one for it now.
    pub(super) fn next_waiting(&mut self, key: &GroupKey) -> Option<D> {
        let group = self.groups.get_mut(key).filter(|group| !group.line.is_empty())?;
        group.waiting.pop_front().map(|(job, _)| job)
    }

    /// Jobs that have waited for too long are returned. Says of which groups; to be called at [`due`](Self::due).
    pub(super) fn give_up_waiting(&mut self, now: Instant) -> Vec<GroupKey> {
        if self.waiting_due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let (mut given_up, mut next) = (Vec::new(), None::<Instant>);
        for (key, group) in &mut self.groups {
            let overdue = group.waiting.iter().take_while(|(_, due)| *due <= now).count();
            group.returned.extend(group.waiting.drain(..overdue).map(|(job, _)| job));
            if overdue > 0 {
                given_up.push(key.clone());
            }
            let due = group.waiting.front().map(|(_, due)| *due);
            next = next.into_iter().chain(due).min();
        }
        self.waiting_due = next;
        given_up
    }

    /// A worker answers a job, which is the caller's now; and says how to reach the worker if that was all that it was there for.
    /// `None` if nobody holds the job (any more).
    pub(super) fn answer(&mut self, secret: Secret, now: Instant) -> Option<(D, Option<W>)> {
        let Held { job, worker: id } = self.held.remove(&secret)?;
        self.change(id, |worker| {
            worker.held.remove(&secret);
            worker.heard = now;
        });
        let is_over = self.workers.get(&id).is_some_and(Worker::is_over);
        let over = if is_over { self.remove(id) } else { None };
        Some((job, over.map(|worker| worker.way)))
    }

    /// A worker says that it still works on a job, which it shows. `None` if nobody holds it (any more).
    pub(super) fn touch(&mut self, secret: Secret, now: Instant) -> Option<&D> {
        let Held { job, worker } = self.held.get(&secret)?;
        self.workers.get_mut(worker).expect("who holds a job is there").heard = now;
        Some(job)
    }

    /// Who holds this job.
    pub(super) fn holder(&self, secret: Secret) -> Option<WorkerId> {
        self.held.get(&secret).map(|held| held.worker)
    }

    /// A worker does not read what it was sent, or reads again: it gets nothing meanwhile. Says of which group it is, if it is there.
    pub(super) fn set_clogged(&mut self, id: WorkerId, clogged: bool) -> Option<GroupKey> {
        self.change(id, |worker| worker.clogged = clogged);
        self.workers.get(&id).map(|worker| worker.group.clone())
    }

    /// A worker takes no more jobs, and goes with its last one. Says of which group it is, and how to reach it if it is gone; `None` if
    /// it was gone before.
    pub(super) fn retire(&mut self, id: WorkerId) -> Option<(GroupKey, Option<W>)> {
        self.change(id, |worker| worker.retired = true);
        let worker = self.workers.get(&id)?;
        let key = worker.group.clone();
        let over = if worker.is_over() { self.remove(id) } else { None };
        Some((key, over.map(|worker| worker.way)))
    }

    /// All workers take no more jobs. Returns the ways to those that are gone.
    pub(super) fn retire_all(&mut self) -> Vec<W> {
        let all: Vec<WorkerId> = self.workers.keys().copied().collect();
        all.into_iter().filter_map(|id| self.retire(id)?.1).collect()
    }

    /// All workers are gone for good: see [`leave`](Self::leave).
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

    /// A worker is gone: its jobs are returned. Says of which group, how it was reached, and how many there are; `None` if it was gone
    /// before.
    pub(super) fn leave(&mut self, id: WorkerId) -> Option<(GroupKey, W, usize)> {
        let worker = self.remove(id)?;
        let group = self.groups.get_mut(&worker.group).expect("a group with workers is open");
        let jobs = worker.held.iter().map(|secret| self.held.remove(secret).expect("held by its worker").job);
        group.returned.extend(jobs);
        Some((worker.group, worker.way, worker.held.len()))
    }

    /// The jobs of a group that are to be given back.
    pub(super) fn take_returned(&mut self, key: &GroupKey) -> Vec<D> {
        self.groups.get_mut(key).map(|group| std::mem::take(&mut group.returned)).unwrap_or_default()
    }

    /// Takes the jobs of workers back that were silent for too long; to be called at [`due`](Self::due). Says of each what
    /// [`leave`](Self::leave) says.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<(GroupKey, W, usize)> {
        let mut silent = Vec::new();
        while let Some((_, id)) = self.alarms.first().copied().filter(|(at, _)| *at <= now) {
            self.alarms.pop_first();
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            worker.has_alarm = false;
            if worker.held.is_empty() {
                continue;
            }
            let end = worker.heard + worker.terms.deadline;
            if end > now {
                worker.has_alarm = true;
                self.alarms.insert((end, id));
                continue;
            }
            silent.extend(self.leave(id));
        }
        silent
    }

    /// When [`tick`](Self::tick) and [`give_up_waiting`](Self::give_up_waiting) are wanted next.
    pub(super) fn due(&self) -> Option<Instant> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        alarm.into_iter().chain(self.waiting_due).min()
    }

    /// How many messages of a group its workers hold and would take.
    pub(super) fn slots(&self, key: &GroupKey) -> u64 {
        self.groups.get(key).map_or(0, |group| group.slots)
    }

    /// How many more messages its workers would take.
    pub(super) fn room(&self, key: &GroupKey) -> u64 {
        let workers = self.groups.get(key).into_iter().flat_map(|group| &group.line);
        workers.filter_map(|id| self.workers.get(id)).map(Worker::room).sum()
    }

    /// How many workers a group has.
    pub(super) fn workers(&self, key: &GroupKey) -> usize {
        self.groups.get(key).map_or(0, |group| group.workers)
    }

    /// How many jobs are held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    fn remove(&mut self, id: WorkerId) -> Option<Worker<W>> {
        let worker = self.workers.remove(&id)?;
        let group = self.groups.get_mut(&worker.group).expect("a group with workers is open");
        group.workers -= 1;
        group.slots -= worker.slots();
        if worker.in_line {
            group.line.retain(|other| *other != id);
        }
        Some(worker)
    }

    /// Changes a worker, and what its group knows of it.
    fn change(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker<W>)) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let group = self.groups.get_mut(&worker.group).expect("a group with workers is open");
        group.slots -= worker.slots();
        change(worker);
        group.slots += worker.slots();
        if worker.in_line && !worker.would_take() {
            worker.in_line = false;
            group.line.retain(|other| *other != id);
        }
        self.line_up(id);
    }

    /// Puts a worker at the end of its group's line, if it would take a job and is not there yet.
    fn line_up(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.would_take() && !worker.in_line {
            worker.in_line = true;
            let group = self.groups.get_mut(&worker.group).expect("a group with workers is open");
            group.line.push_back(id);
        }
    }
}

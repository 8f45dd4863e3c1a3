//! Jobs in turns: the worker that has waited longest gets the next job, and the job that has waited
//! longest goes first.

use std::time::{Duration, Instant};

use super::group::GroupKey;
use super::{HeldJob, Jobs, WorkerId};
use crate::commands::gateway::token::JobSecret;

/// How long a job waits for a worker with room before it is requeued.
pub(super) const MAX_WAIT_FOR_WORKER: Duration = Duration::from_secs(1);

impl<D, W: Clone> Jobs<D, W> {
    /// Gives a job to the worker of this group that has waited longest, and returns that worker.
    /// Returns the job (`Err`) if no worker is available.
    pub(in crate::commands::gateway) fn hand_out(
        &mut self,
        key: &GroupKey,
        job: D,
        secret: JobSecret,
        now: Instant,
    ) -> Result<(WorkerId, W), D> {
        let next = self.groups.get_mut(key).and_then(|group| group.available.pop_front());
        let Some(id) = next else { return Err(job) };
        let worker = self.workers.get_mut(&id).expect("available workers exist");
        worker.is_available = false;
        if worker.held.is_empty() {
            worker.heard = now;
        }
        worker.held.insert(secret);
        if !worker.has_deadline {
            worker.has_deadline = true;
            self.deadlines.insert((now + worker.limits.deadline, id));
        }
        let outbox = worker.outbox.clone();
        self.held.insert(secret, HeldJob { job, worker: id });
        self.make_available(id);
        Ok((id, outbox))
    }

    /// Adds a job to those that wait for a worker. Returns the job (`Err`) if the group is not
    /// open, or the gateway shuts down.
    pub(in crate::commands::gateway) fn enqueue(&mut self, key: &GroupKey, job: D, now: Instant) -> Result<(), D> {
        match self.groups.get_mut(key).filter(|_| !self.ending) {
            Some(group) => {
                group.waiting.push_back((job, now + MAX_WAIT_FOR_WORKER));
                self.waiting_due.get_or_insert(now + MAX_WAIT_FOR_WORKER);
                Ok(())
            }
            None => Err(job),
        }
    }

    /// Takes the job that has waited longest, if a worker is available.
    pub(in crate::commands::gateway) fn next_waiting(&mut self, key: &GroupKey) -> Option<D> {
        let group = self.groups.get_mut(key).filter(|group| !group.available.is_empty())?;
        group.waiting.pop_front().map(|(job, _)| job)
    }

    /// Returns jobs that have waited too long to their groups' `returned`, and lists those groups.
    /// Call it at [`due`](Self::due).
    pub(in crate::commands::gateway) fn expire_waiting(&mut self, now: Instant) -> Vec<GroupKey> {
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

    /// Appends a worker to its group's list of available workers, if it has room and is not in it
    /// yet.
    pub(super) fn make_available(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.has_room() && !worker.is_available {
            worker.is_available = true;
            let group = self.groups.get_mut(&worker.group).expect("a group with workers is open");
            group.available.push_back(id);
        }
    }
}

//! A model of a consumer's process with its real lifecycle and idle timer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::world::{Event, HANDLING, Id, Pid, World};
use crate::commands::consumer::lifecycle::{LifecycleStep, PendingCheck, StepResult};
use mqueue::worker::StopReason;
use mqueue::worker::idle::IdleTimer;

#[derive(Debug)]
pub(super) enum Phase {
    /// Starting, or between two steps.
    Steps,
    Works(IdleTimer),
    /// RDY 0 and CLS were sent, for this reason.
    Leaves {
        why: StopReason,
        closed: bool,
    },
    Dead,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) unit: usize,
    pub(super) phase: Phase,
    /// The latency to nsqd.
    pub(super) link: Duration,
    connected: bool,
    /// The running handlers.
    running: BTreeSet<Id>,
    /// The last time that it was busy, as seen by nsqd and systemd.
    active: Duration,
    /// It took pokes, and has not subscribed since.
    owes: bool,
    /// Messages that arrived during its exit were returned.
    gave_back: bool,
}

impl Process {
    pub(super) fn new(unit: usize, link: Duration) -> Self {
        let (running, active) = (BTreeSet::new(), Duration::ZERO);
        Self { unit, phase: Phase::Steps, link, connected: false, running, active, owes: false, gave_back: false }
    }

    /// An arrival resets the idle timer of a working consumer.
    pub(super) fn put_off(&mut self, now: Duration, clock: Instant) {
        if let Phase::Works(idle) = &mut self.phase {
            idle.reset(clock.into());
            self.active = now;
        }
    }

    fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Dead)
    }
}

impl World {
    pub(super) fn group_of(&self, pid: Pid) -> usize {
        self.units[self.processes[pid].unit].group
    }

    /// Takes the pokes that woke it first.
    pub(super) fn begin(&mut self, pid: Pid) {
        if self.processes[pid].is_dead() {
            return;
        }
        if self.now < self.channels[self.group_of(pid)].crashes_until {
            return self.exited(pid, true);
        }
        let process = &mut self.processes[pid];
        process.owes = true;
        self.units[process.unit].pokes = 0;
        self.perform(pid, LifecycleStep::FIRST);
    }

    fn happened(&mut self, pid: Pid, happened: StepResult<()>) {
        self.tally.count(match happened {
            StepResult::Subscribed(()) => "subscriptions",
            StepResult::Interrupted => "stops",
            StepResult::Ended(StopReason::Unreachable) => "times cut off",
            StepResult::Ended(_) => "ends",
            StepResult::Poked(0) => "not poked while leaving",
            StepResult::Poked(_) => "poked while leaving",
            StepResult::Looked(PendingCheck::Messages) => "messages while leaving",
            StepResult::Looked(PendingCheck::Nothing) => "nothing left",
        });
        self.perform(pid, happened.next());
    }

    fn perform(&mut self, pid: Pid, step: LifecycleStep<()>) {
        let link = self.processes[pid].link;
        self.processes[pid].phase = Phase::Steps;
        self.disturb(pid);
        match step {
            LifecycleStep::Subscribe => self.after(link * 2, Event::Subscribe(pid)),
            LifecycleStep::Work(()) => {
                let (allowed, now) = (self.settings.idle_timeout, self.clock().into());
                let process = &mut self.processes[pid];
                process.phase = Phase::Works(IdleTimer::new(allowed, now));
                (process.connected, process.owes, process.active) = (true, false, self.now);
                // a working consumer takes pending and further pokes
                self.units[process.unit].pokes = 0;
                self.after(allowed, Event::LookIdle(pid));
                self.subscribed(pid);
            }
            LifecycleStep::TakePokes => self.after_ms(0, 2, Event::TakePokes(pid)),
            LifecycleStep::LookAtStats => self.after(link, Event::Look(pid)),
            LifecycleStep::Stop(ended) => {
                if self.processes[pid].owes {
                    self.wrong = Some(format!("process {pid} took a poke and forgot it"));
                }
                self.after_ms(0, 20, Event::Exited { pid, failed: ended == StopReason::Unreachable });
            }
        }
    }

    /// Lets messages and pokes arrive at the moments of the consumer's steps.
    fn disturb(&mut self, pid: Pid) {
        let stream = self.channels[self.group_of(pid)].stream;
        if self.chance(8) {
            self.after_ms(0, 4, Event::Publish { stream });
        }
        if self.chance(2) {
            self.after_ms(0, 4, Event::Poke { unit: self.processes[pid].unit });
        }
    }

    pub(super) fn subscribe(&mut self, pid: Pid) {
        if self.processes[pid].is_dead() {
            return;
        }
        match self.nsqd_is_up {
            true => self.happened(pid, StepResult::Subscribed(())),
            false => self.exited(pid, true),
        }
    }

    pub(super) fn arrive(&mut self, pid: Pid, id: Id, attempt: u32) {
        match self.processes[pid].phase {
            Phase::Works(_) => {}
            Phase::Leaves { .. } => {
                self.tally.count("messages behind RDY 0");
                self.processes[pid].gave_back = true;
                return self.after(self.processes[pid].link, Event::GivenBack { id, attempt });
            }
            Phase::Steps | Phase::Dead => return,
        }
        let (now, clock) = (self.now, self.clock());
        self.processes[pid].put_off(now, clock);
        self.processes[pid].running.insert(id);
        let most = if self.chance(20) { HANDLING } else { Duration::from_millis(20) };
        let takes = self.between_ms(0, most.as_millis() as u64);
        if self.settings.troubles > 0 && self.chance(2) {
            self.after(takes / 2, Event::Kill(pid));
        }
        self.after(takes, Event::Handled { pid, id, attempt });
    }

    pub(super) fn handled(&mut self, pid: Pid, id: Id, attempt: u32) {
        if self.processes[pid].is_dead() {
            return;
        }
        let done = !self.chance(self.settings.failing);
        self.messages[id].handled |= done;
        let (now, clock) = (self.now, self.clock());
        let process = &mut self.processes[pid];
        process.running.remove(&id);
        process.put_off(now, clock);
        if process.connected {
            self.after(self.processes[pid].link, Event::Answered { id, attempt, done });
        }
        self.close(pid);
    }

    pub(super) fn look_idle(&mut self, pid: Pid) {
        let now = self.clock().into();
        let process = &mut self.processes[pid];
        let Phase::Works(idle) = &mut process.phase else { return };
        if let Some(again) = idle.check(!process.running.is_empty(), now) {
            let again = self.since_epoch(again.into());
            return self.at(again, Event::LookIdle(pid));
        }
        if !process.running.is_empty() || self.now < process.active + self.settings.idle_timeout {
            self.wrong = Some(format!("process {pid} is not idle: {process:?}"));
        }
        let (connected, link) = (process.connected, process.link);
        let why = if connected { StopReason::Idle } else { StopReason::Unreachable };
        process.phase = Phase::Leaves { why, closed: !connected };
        self.disturb(pid);
        self.after(link, Event::Leave(pid));
        self.close(pid);
    }

    pub(super) fn close_wait(&mut self, pid: Pid) {
        if let Phase::Leaves { closed, .. } = &mut self.processes[pid].phase {
            *closed = true;
            self.close(pid);
        }
    }

    /// Closes the connection once all messages are answered.
    fn close(&mut self, pid: Pid) {
        let process = &self.processes[pid];
        if matches!(process.phase, Phase::Leaves { closed: true, .. }) && process.running.is_empty() {
            self.after(process.link, Event::Gone(pid));
        }
    }

    pub(super) fn gone(&mut self, pid: Pid) {
        if let Phase::Leaves { why, .. } = self.processes[pid].phase {
            self.processes[pid].connected = false;
            self.disconnected(pid);
            self.happened(pid, StepResult::Ended(why));
        }
    }

    pub(super) fn take_pokes(&mut self, pid: Pid) {
        if !self.processes[pid].is_dead() {
            let gave_back = std::mem::take(&mut self.processes[pid].gave_back);
            let pokes = std::mem::take(&mut self.units[self.processes[pid].unit].pokes) + usize::from(gave_back);
            self.processes[pid].owes = pokes > 0;
            self.happened(pid, StepResult::Poked(pokes));
        }
    }

    pub(super) fn look(&mut self, pid: Pid) {
        let waits = !self.channels[self.group_of(pid)].queue.is_empty();
        let left = if waits && self.nsqd_is_up && self.settings.looks {
            PendingCheck::Messages
        } else {
            PendingCheck::Nothing
        };
        self.after(self.processes[pid].link, Event::Looked(pid, left));
    }

    pub(super) fn looked(&mut self, pid: Pid, left: PendingCheck) {
        if !self.processes[pid].is_dead() {
            self.happened(pid, StepResult::Looked(left));
        }
    }

    /// Loses the connection: a working consumer reconnects.
    pub(super) fn cut_off(&mut self, pid: Pid) {
        self.processes[pid].connected = false;
        match &mut self.processes[pid].phase {
            Phase::Works(_) => self.after_ms(500, 1500, Event::Reconnect(pid)),
            Phase::Leaves { closed, .. } => {
                *closed = true;
                self.close(pid);
            }
            Phase::Steps | Phase::Dead => {}
        }
    }

    pub(super) fn reconnect(&mut self, pid: Pid) {
        match (&self.processes[pid].phase, self.nsqd_is_up) {
            (Phase::Works(_), true) => {
                self.processes[pid].connected = true;
                self.subscribed(pid);
            }
            (Phase::Works(_), false) => self.after_ms(500, 1500, Event::Reconnect(pid)),
            (Phase::Steps | Phase::Leaves { .. } | Phase::Dead, _) => {}
        }
    }
}

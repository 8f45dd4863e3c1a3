//! A model of a consumer's process with its real lifecycle and idle timer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::world::{Event, HANDLING, Id, Pid, World};
use crate::commands::consumer::life::{Happened, Left, Step};
use mqueue::worker::Ended;
use mqueue::worker::idle::Idle;

#[derive(Debug)]
pub(super) enum Phase {
    /// Starting, or between two steps.
    Steps,
    Works(Idle),
    /// RDY 0 and CLS were sent, for this reason.
    Leaves {
        why: Ended,
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
            idle.put_off(clock.into());
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
        self.perform(pid, Step::FIRST);
    }

    fn happened(&mut self, pid: Pid, happened: Happened<()>) {
        self.tally.count(match happened {
            Happened::Subscribed(()) => "subscriptions",
            Happened::Interrupted => "stops",
            Happened::Ended(Ended::Unreachable) => "times cut off",
            Happened::Ended(_) => "ends",
            Happened::Poked(0) => "not poked while leaving",
            Happened::Poked(_) => "poked while leaving",
            Happened::Looked(Left::Messages) => "messages while leaving",
            Happened::Looked(Left::Nothing) => "nothing left",
        });
        self.perform(pid, happened.next());
    }

    fn perform(&mut self, pid: Pid, step: Step<()>) {
        let link = self.processes[pid].link;
        self.processes[pid].phase = Phase::Steps;
        self.disturb(pid);
        match step {
            Step::Subscribe => self.after(link * 2, Event::Subscribe(pid)),
            Step::Work(()) => {
                let (allowed, now) = (self.settings.idle_timeout, self.clock().into());
                let process = &mut self.processes[pid];
                process.phase = Phase::Works(Idle::new(allowed, now));
                (process.connected, process.owes, process.active) = (true, false, self.now);
                // a working consumer takes pending and further pokes
                self.units[process.unit].pokes = 0;
                self.after(allowed, Event::LookIdle(pid));
                self.subscribed(pid);
            }
            Step::TakePokes => self.after_ms(0, 2, Event::TakePokes(pid)),
            Step::LookAtStats => self.after(link, Event::Look(pid)),
            Step::Stop(ended) => {
                if self.processes[pid].owes {
                    self.wrong = Some(format!("process {pid} took a poke and forgot it"));
                }
                self.after_ms(0, 20, Event::Exited { pid, failed: ended == Ended::Unreachable });
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
            true => self.happened(pid, Happened::Subscribed(())),
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
        if let Some(again) = idle.look(!process.running.is_empty(), now) {
            let again = self.since_epoch(again.into());
            return self.at(again, Event::LookIdle(pid));
        }
        if !process.running.is_empty() || self.now < process.active + self.settings.idle_timeout {
            self.wrong = Some(format!("process {pid} is not idle: {process:?}"));
        }
        let (connected, link) = (process.connected, process.link);
        let why = if connected { Ended::Idle } else { Ended::Unreachable };
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
            self.happened(pid, Happened::Ended(why));
        }
    }

    pub(super) fn take_pokes(&mut self, pid: Pid) {
        if !self.processes[pid].is_dead() {
            let gave_back = std::mem::take(&mut self.processes[pid].gave_back);
            let pokes = std::mem::take(&mut self.units[self.processes[pid].unit].pokes) + usize::from(gave_back);
            self.processes[pid].owes = pokes > 0;
            self.happened(pid, Happened::Poked(pokes));
        }
    }

    pub(super) fn look(&mut self, pid: Pid) {
        let waits = !self.channels[self.group_of(pid)].queue.is_empty();
        let left = if waits && self.nsqd_is_up && self.settings.looks { Left::Messages } else { Left::Nothing };
        self.after(self.processes[pid].link, Event::Looked(pid, left));
    }

    pub(super) fn looked(&mut self, pid: Pid, left: Left) {
        if !self.processes[pid].is_dead() {
            self.happened(pid, Happened::Looked(left));
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

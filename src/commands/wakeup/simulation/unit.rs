//! A model of systemd: a socket that keeps pokes, and the service that it starts.

use std::collections::VecDeque;
use std::time::Duration;

use super::consumer::{Phase, Process};
use super::world::{Event, Pid, World};

/// systemd's default trigger limit: this many starts within this time fail the socket.
const TRIGGERS: (usize, Duration) = (20, Duration::from_secs(2));

/// The time until the hosts know each other.
const ACQUAINTED: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Unit {
    pub(super) group: usize,
    service: Service,
    /// Pending pokes.
    pub(super) pokes: usize,
    starts: VecDeque<Duration>,
    /// The last poke: the wakeup's number and the time.
    pub(super) poked: Option<(u32, Duration)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Dead,
    Runs(Pid),
}

impl Unit {
    pub(super) fn new(group: usize) -> Self {
        Self { group, service: Service::Dead, pokes: 0, starts: VecDeque::new(), poked: None }
    }

    pub(super) fn sleeps(&self) -> bool {
        self.service == Service::Dead
    }

    pub(super) fn process(&self) -> Option<Pid> {
        match self.service {
            Service::Runs(pid) => Some(pid),
            Service::Dead => None,
        }
    }
}

impl World {
    /// Connects to the socket: a working consumer takes the poke immediately, otherwise it stays
    /// pending.
    pub(super) fn poke(&mut self, unit: usize) {
        self.tally.pokes += 1;
        let (now, clock) = (self.now, self.clock());
        match self.units[unit].process().map(|pid| &mut self.processes[pid]) {
            Some(process) if matches!(process.phase, Phase::Works(_)) => process.put_off(now, clock),
            Some(_) | None => self.units[unit].pokes += 1,
        }
        self.trigger(unit);
    }

    /// Level-triggered: starts a dead service while pokes are pending.
    fn trigger(&mut self, unit: usize) {
        if self.units[unit].sleeps() && self.units[unit].pokes > 0 {
            self.start(unit);
        }
    }

    fn start(&mut self, unit: usize) {
        let (burst, within) = TRIGGERS;
        let starts = &mut self.units[unit].starts;
        starts.push_back(self.now);
        if starts.len() > burst && self.now - starts[starts.len() - 1 - burst] < within {
            self.wrong = Some(format!("unit {unit} reached its trigger limit"));
        }
        self.count_start(self.units[unit].group);
        let pid = self.processes.len();
        self.units[unit].service = Service::Runs(pid);
        let link = if self.chance(10) { self.between_ms(5, 40) } else { self.between_ms(0, 2) };
        self.processes.push(Process::new(unit, link));
        self.after_ms(3, 80, Event::Begin(pid));
    }

    /// Counts the start of a consumer, once the hosts know each other: twice if the group's messages
    /// had enough consumers, which start or work.
    fn count_start(&mut self, group: usize) {
        if self.settings.hosts == 1 || self.settings.troubles > 0 || self.now < ACQUAINTED {
            return;
        }
        let running = self.units.iter().filter(|unit| unit.group == group).filter_map(Unit::process);
        let serve = |pid: &Pid| matches!(self.processes[*pid].phase, Phase::Steps | Phase::Works(_));
        let serving = running.filter(serve).count() as u64;
        let wanted = self.channels[group].unfinished().div_ceil(self.settings.per_consumer).max(1);
        self.tally.starts += 1;
        self.tally.double_starts += u64::from(serving >= wanted);
    }

    pub(super) fn exited(&mut self, pid: Pid, failed: bool) {
        let unit = self.processes[pid].unit;
        if self.units[unit].service != Service::Runs(pid) {
            return;
        }
        self.processes[pid].phase = Phase::Dead;
        self.disconnected(pid);
        self.tally.sleeps += u64::from(!failed);
        self.units[unit].service = Service::Dead;
        // FlushPending=yes: untaken pokes go with the service, and wakeup pokes again
        self.units[unit].pokes = 0;
    }
}

//! What goes wrong: consumers and wakeup are killed, nsqd goes away.

use std::time::Duration;

use super::wakeup::Watch;
use super::world::{Event, POLL, Pid, START, World};

/// How long nsqd is away.
const AWAY: Duration = Duration::from_secs(10);

/// As rare do wakeup's pokes become while they bring no consumer.
const RAREST: Duration = Duration::from_secs(30);

/// How long consumers crash at their start.
const CRASHES: Duration = Duration::from_secs(20);

impl World {
    pub(super) fn trouble(&mut self) {
        match self.random.u8(0..5) {
            0 if self.nsqd_is_up => {
                self.tally.count("nsqds gone");
                self.nsqd_goes();
                self.after(AWAY, Event::NsqdReturns);
            }
            1 => {
                self.tally.count("wakeups killed");
                self.watch = Watch::new(self.watch.number + 1);
                self.after_ms(500, 3000, Event::WakeupReturns { watch: self.watch.number });
            }
            2 => {
                self.tally.count("groups crashing at start");
                let group = self.random.usize(0..self.channels.len());
                self.channels[group].crashes_until = self.now + CRASHES;
                self.excuse(group, CRASHES + RAREST + START);
            }
            _ => {
                let running: Vec<Pid> = self.units.iter().filter_map(|unit| unit.process()).collect();
                match self.random.choice(&running).copied() {
                    Some(pid) => self.kill(pid),
                    None => self.after_ms(10, 500, Event::Trouble),
                }
            }
        }
    }

    /// kill -9: what it has in flight comes again when its time is up.
    pub(super) fn kill(&mut self, pid: Pid) {
        if self.units[self.processes[pid].unit].process() == Some(pid) {
            self.tally.count("consumers killed");
            self.excuse(self.group_of(pid), POLL + START);
            self.exited(pid, true);
        }
    }

    pub(super) fn nsqd_returns(&mut self) {
        self.nsqd_is_up = true;
        (0..self.channels.len()).for_each(|group| self.excuse(group, POLL + POLL + START));
    }

    pub(super) fn wakeup_returns(&mut self, watch: u32) {
        (0..self.channels.len()).for_each(|group| self.excuse(group, Duration::ZERO));
        self.after(Duration::ZERO, Event::Tick { watch });
    }

    /// What waits in this group now may wait so much longer.
    fn excuse(&mut self, group: usize, longer: Duration) {
        let excused = &mut self.channels[group].excused;
        *excused = (*excused).max(self.now + longer);
    }
}

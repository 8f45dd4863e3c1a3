//! Failures: consumers and wakeup are killed, nsqd is unreachable.

use std::time::Duration;

use super::wakeup::Watch;
use super::world::{Event, POLL, Pid, START, World};

/// The time of an outage of nsqd.
const AWAY: Duration = Duration::from_secs(10);

/// The maximum interval of wakeup's pokes while they bring no consumer.
const RAREST: Duration = Duration::from_secs(30);

/// The time for which consumers crash at their start.
const CRASHES: Duration = Duration::from_secs(20);

impl World {
    pub(super) fn trouble(&mut self) {
        match self.random.u8(0..6) {
            0 if self.nsqd_is_up => {
                self.tally.count("nsqds gone");
                self.nsqd_goes();
                self.after(AWAY, Event::NsqdReturns);
            }
            1 => {
                self.tally.count("wakeups killed");
                let (host, number) = (self.random.usize(0..self.watches.len()), self.runs);
                self.listed.remove(&self.watches[host].number);
                self.watches[host] = Watch::new(number);
                self.runs += 1;
                self.after_ms(500, 3000, Event::WakeupReturns { watch: number });
                self.excuse_uncovered();
            }
            3 if self.watches.len() > 1 => {
                let host = self.random.usize(0..self.watches.len());
                if self.watches[host].runs {
                    self.tally.count("wakeups hung");
                    let time = self.between_ms(500, 15_000);
                    self.hang(host, time);
                    self.excuse_uncovered();
                }
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

    /// kill -9: its in-flight messages are requeued after their timeout.
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

    /// Allows the messages of groups of which every host hangs or is away until one of them is back.
    fn excuse_uncovered(&mut self) {
        for group in 0..self.channels.len() {
            let of_group = (0..self.watches.len()).filter(|host| self.settings.has_sockets(*host, group));
            let watches: Vec<&Watch> = of_group.map(|host| &self.watches[host]).collect();
            let hangs: Vec<Duration> =
                watches.iter().filter(|watch| watch.runs).map(|watch| watch.hangs_until).collect();
            if let Some(back) = hangs.iter().min().filter(|back| **back > self.now) {
                self.excuse(group, *back - self.now);
            }
        }
    }

    /// Allows the waiting messages of this group this much more time.
    pub(super) fn excuse(&mut self, group: usize, longer: Duration) {
        let excused = &mut self.channels[group].excused;
        *excused = (*excused).max(self.now + longer);
    }
}

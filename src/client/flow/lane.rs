//! One connection's flow.

use std::time::{Duration, Instant};

/// Back-to-back messages from which on a connection may have all the room there is.
const BUSY: u32 = 64;
/// Messages in a row that came neither soon nor late from which on more room is tried, and where that number ends when it is tried in vain.
const FIRST_TRIAL: u32 = 64;
const LAST_TRIAL: u32 = 4096;

/// One connection.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) in_flight: u32,
    /// What nsqd should have been told.
    pub(super) rdy: u32,
    pub(super) max_rdy: u32,
    /// Messages that came back to back.
    streak: u32,
    trial: Trial,
    /// Messages before the next trial.
    trial_after: u32,
    /// Since when there has been room and nothing has come; `None` without room.
    waiting_since: Option<Instant>,
    /// A message that comes this soon was already waiting.
    brisk: Duration,
    /// With no message for this long, none was waiting.
    patience: Duration,
}

/// Whether more room is tried, of which messages that come steadily may make use.
#[derive(Debug)]
enum Trial {
    /// When so many more of them have come.
    After(u32),
    /// It is.
    Runs,
}

impl Lane {
    pub(super) fn new(max_rdy: u32, round_trip: Duration) -> Self {
        let round_trip = round_trip.min(Duration::from_secs(1));
        Self {
            in_flight: 0,
            rdy: 0,
            max_rdy,
            streak: 0,
            trial: Trial::After(FIRST_TRIAL),
            trial_after: FIRST_TRIAL,
            waiting_since: None,
            brisk: round_trip * 3 / 2 + Duration::from_micros(200),
            patience: round_trip * 2 + Duration::from_millis(1),
        }
    }

    pub(super) fn received(&mut self, count: u32, now: Instant) {
        let room = self.rdy.saturating_sub(self.in_flight);
        self.in_flight += count;
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if waited > self.patience {
            return self.fell_quiet();
        }
        let fills = matches!(self.trial, Trial::Runs) && count >= room;
        if waited <= self.brisk || fills {
            self.streak = self.streak.saturating_add(count);
        } else {
            self.came_steadily(count);
        }
        if self.streak >= BUSY {
            self.trial_after = FIRST_TRIAL;
            self.trial = Trial::After(FIRST_TRIAL);
        }
    }

    /// Messages came later than those that wait come from an nsqd that has nothing else to do, and sooner than others: it may have much
    /// to do, or they are published at this pace. Then room for two of them tells, at the price of a moment.
    fn came_steadily(&mut self, count: u32) {
        if let Trial::After(left) = self.trial {
            self.trial = Trial::After(left.saturating_sub(count));
            if left <= count {
                self.trial = Trial::Runs;
                self.streak = self.streak.max(2);
            }
        }
    }

    /// None was waiting: a trial was in vain, and the next is later.
    fn fell_quiet(&mut self) {
        self.streak = 1;
        if let Trial::Runs = self.trial {
            self.trial_after = (2 * self.trial_after).min(LAST_TRIAL);
        }
        self.trial = Trial::After(self.trial_after);
    }

    /// How many messages beyond those in flight would be welcome.
    pub(super) fn want(&self) -> u32 {
        let room = match self.streak {
            0 | 1 => 1,
            BUSY.. => u32::MAX,
            streak => 1 << streak.ilog2(),
        };
        room.min(self.max_rdy.saturating_sub(self.in_flight))
    }

    /// Sets RDY for `room` more messages; true if that changes it. `closed`: nobody is to get any, whatever is answered.
    pub(super) fn grant(&mut self, room: u32, closed: bool, now: Instant) -> bool {
        let rdy = match room {
            _ if closed => 0,
            // no message can come as long as RDY is not above what is in flight, so it may stay where it was
            0 => self.rdy.min(self.in_flight),
            room => self.in_flight + room,
        };
        let has_room = rdy > self.in_flight;
        self.waiting_since = has_room.then(|| self.waiting_since.unwrap_or(now));
        std::mem::replace(&mut self.rdy, rdy) != rdy
    }

    /// With no message for this long, none was waiting.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting_since.filter(|_| self.streak > 1).map(|since| since + self.patience)
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.fell_quiet();
        }
    }
}

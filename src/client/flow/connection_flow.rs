//! The flow of one connection.

use std::time::Duration;
use tokio::time::Instant;

/// The number of back-to-back messages after which a connection may use all free room.
const BUSY: u32 = 64;
/// The number of messages, neither back to back nor late, before a trial of more room. It doubles
/// after each trial in vain, up to `LAST_TRIAL`.
const FIRST_TRIAL: u32 = 64;
const LAST_TRIAL: u32 = 4096;
/// The longest wait for a message after which more room is still tried. A longer wait is a pause in
/// publishing.
pub(super) const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// The state of one connection.
#[derive(Debug)]
pub(super) struct ConnectionFlow {
    pub(super) in_flight: u32,
    /// The RDY that nsqd should have.
    pub(super) rdy: u32,
    /// The most messages that an nsqd that obeys RDY may have in flight here: RDY may have been
    /// higher when it sent them.
    covered: u32,
    pub(super) max_rdy: u32,
    /// The number of messages received back to back.
    streak: u32,
    trial: Trial,
    /// The number of messages before the next trial.
    trial_after: u32,
    /// The time since which there is room and no message has arrived; `None` without room.
    waiting_since: Option<Instant>,
    /// The longest wait for a message that was queued at nsqd already, by the round trip of the
    /// connect.
    back_to_back_wait: Duration,
    /// The wait after which nsqd's queue counts as empty.
    patience: Duration,
    /// The least `patience`, by the round trip of the connect.
    least_patience: Duration,
    /// The moving average of the waits between `back_to_back_wait` and [`LONGEST_WAIT`].
    mean_wait: Duration,
}

/// The trial of room for two messages.
#[derive(Debug)]
enum Trial {
    /// The trial starts after this many more messages.
    After(u32),
    /// The trial is running.
    Runs,
}

impl ConnectionFlow {
    pub(super) fn new(max_rdy: u32, round_trip: Duration) -> Self {
        let round_trip = round_trip.min(Duration::from_secs(1));
        let patience = round_trip * 2 + Duration::from_millis(1);
        Self {
            in_flight: 0,
            rdy: 0,
            covered: 0,
            max_rdy,
            streak: 0,
            trial: Trial::After(FIRST_TRIAL),
            trial_after: FIRST_TRIAL,
            waiting_since: None,
            back_to_back_wait: round_trip * 3 / 2 + Duration::from_micros(200),
            patience,
            least_patience: patience,
            mean_wait: patience / 2,
        }
    }

    pub(super) fn received(&mut self, count: u32, now: Instant) {
        let room = self.rdy.saturating_sub(self.in_flight);
        self.in_flight += count;
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if waited > self.patience {
            self.return_to_one();
        }
        let fills = matches!(self.trial, Trial::Runs) && count >= room;
        if waited <= self.back_to_back_wait || fills {
            self.streak = self.streak.saturating_add(count);
        } else if waited <= self.least_patience.max(LONGEST_WAIT) {
            self.count_steady(count, waited);
        }
        if self.streak >= BUSY {
            self.trial_after = FIRST_TRIAL;
            self.trial = Trial::After(1);
        }
    }

    pub(super) fn answered(&mut self, count: u32) {
        let covered = self.covered.saturating_sub(count);
        if self.is_beyond_rdy() {
            // RDY would cover what follows the answered messages
            self.rdy = self.rdy.min(covered);
        }
        self.in_flight = self.in_flight.saturating_sub(count);
        self.covered = covered.max(self.rdy);
    }

    /// True if nsqd sent more messages than RDY allowed. Messages that timed out at nsqd while this
    /// process was frozen may be the reason.
    fn is_beyond_rdy(&self) -> bool {
        self.in_flight > self.covered
    }

    /// The messages in flight that take room: what nsqd sent beyond RDY takes none from the other
    /// connections.
    pub(super) fn takes(&self) -> u32 {
        self.in_flight.min(self.covered)
    }

    /// Counts messages that came later than `back_to_back_wait`, and starts a trial after enough of
    /// them.
    ///
    /// Such messages are either published at this pace, or queued while nsqd, this machine or the
    /// network is slower than at the connect. Room for two distinguishes the cases: two queued
    /// messages take as long as one. The price is a short delay of one message if they were not
    /// queued.
    fn count_steady(&mut self, count: u32, waited: Duration) {
        self.mean_wait = (7 * self.mean_wait + waited) / 8;
        if let Trial::After(left) = self.trial
            && self.streak < BUSY
        {
            self.trial = Trial::After(left.saturating_sub(count));
            if left <= count {
                self.trial = Trial::Runs;
                self.streak = self.streak.max(2);
                self.patience = self.least_patience.max(2 * self.mean_wait);
            }
        }
    }

    /// Goes back to room for one: nsqd's queue is empty, or seems so. A trial in vain delays the
    /// next trial. After a busy time, the next message starts a trial, so that one late answer does
    /// not end the busy time.
    fn return_to_one(&mut self) {
        if self.streak >= BUSY {
            self.trial = Trial::After(1);
        } else if let Trial::Runs = self.trial {
            self.trial_after = (2 * self.trial_after).min(LAST_TRIAL);
            self.trial = Trial::After(self.trial_after);
        }
        self.streak = 1;
        self.patience = self.least_patience;
    }

    /// The number of messages wanted beyond those in flight.
    pub(super) fn want(&self) -> u32 {
        let room = match self.streak {
            _ if self.is_beyond_rdy() => 0,
            0 | 1 => 1,
            BUSY.. => u32::MAX,
            streak => 1 << streak.ilog2(),
        };
        room.min(self.max_rdy.saturating_sub(self.in_flight))
    }

    /// Sets RDY for `room` more messages; true if RDY changes. With `closed`, RDY is 0 whatever is
    /// answered.
    pub(super) fn grant(&mut self, room: u32, closed: bool, now: Instant) -> bool {
        let rdy = match room {
            _ if closed => 0,
            // no message can arrive while RDY is not above the number in flight, so RDY may stay
            0 => self.rdy.min(self.in_flight),
            room => self.in_flight + room,
        };
        self.covered = self.covered.max(rdy);
        let has_room = rdy > self.in_flight;
        self.waiting_since = has_room.then(|| self.waiting_since.unwrap_or(now));
        std::mem::replace(&mut self.rdy, rdy) != rdy
    }

    /// The wait without a message after which nsqd's queue counts as empty.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting_since.filter(|_| self.streak > 1).map(|since| since + self.patience)
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.return_to_one();
        }
    }
}

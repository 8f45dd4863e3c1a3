//! The schedule of generated events.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::event::GeneratedEvent;

/// Generates events at an interval. Events missed during a pause are not made up for.
#[derive(Debug)]
pub(super) struct Generator {
    rng: fastrand::Rng,
    pace: Interval,
    epoch: u64,
    sequence: u64,
}

impl Generator {
    /// Creates a generator with this interval.
    pub(super) fn new(every: Duration, rng: fastrand::Rng) -> Self {
        let mut pace = interval(every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { rng, pace, epoch: 0, sequence: 0 }
    }

    /// Begins an epoch; its first event is due at once.
    pub(super) fn begin(&mut self, epoch: u64) {
        (self.epoch, self.sequence) = (epoch, 0);
        self.pace.reset_immediately();
    }

    /// Returns the number of events of this epoch so far.
    pub(super) fn events(&self) -> u64 {
        self.sequence
    }

    /// Waits until the next event is due. Cancel-safe.
    pub(super) async fn due(&mut self) {
        self.pace.tick().await;
    }

    /// Returns the next event.
    pub(super) fn event(&mut self, epoch: u64) -> String {
        if self.epoch != epoch {
            self.begin(epoch);
        }
        self.sequence += 1;
        GeneratedEvent::new(&mut self.rng, epoch, self.sequence).to_string()
    }
}

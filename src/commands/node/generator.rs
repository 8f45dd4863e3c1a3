//! The schedule of generated events, and the command that publishes each.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::event::GeneratedEvent;
use mqueue::proto::{Command, TopicName};

/// Generates events at an interval. Events missed during a pause are not made up for.
#[derive(Debug)]
pub(super) struct Generator {
    stream: TopicName,
    rng: fastrand::Rng,
    pace: Interval,
    epoch: u64,
    sequence: u64,
}

impl Generator {
    /// Creates a generator for this stream.
    pub(super) fn new(stream: TopicName, every: Duration, rng: fastrand::Rng) -> Self {
        let mut pace = interval(every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { stream, rng, pace, epoch: 0, sequence: 0 }
    }

    pub(super) fn stream(&self) -> &TopicName {
        &self.stream
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

    /// Returns the command that publishes the next event: with its epoch (FPUB) if the broker
    /// checks it.
    pub(super) fn event(&mut self, epoch: u64, fenced: bool) -> Command {
        if self.epoch != epoch {
            self.begin(epoch);
        }
        self.sequence += 1;
        let body = Bytes::from(GeneratedEvent::new(&mut self.rng, epoch, self.sequence).to_string());
        let topic = self.stream.clone();
        if fenced { Command::Fpub { topic, epoch, body } } else { Command::Pub { topic, body } }
    }
}

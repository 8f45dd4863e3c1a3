//! TOUCH: keeping the messages of a connection in flight while their handlers run.
//!
//! nsqd requeues a message after its timeout. Each message gets a TOUCH when a third of the timeout
//! has passed since its delivery or its last TOUCH; all are checked together, at most once in that
//! time.

use std::time::Duration;

use tokio::time::Instant;

use super::in_flight::InFlightMessages;
use crate::proto::MessageId;

/// The divisor of the message timeout that gives the TOUCH interval.
const TOUCH_PART: u32 = 3;
/// The shortest TOUCH interval, for any msg_timeout that nsqd grants.
const MIN_TOUCH_INTERVAL: Duration = Duration::from_millis(100);

/// The time of the next check.
#[derive(Debug)]
pub(super) struct TouchTimer {
    checked: Instant,
    interval: Duration,
}

impl TouchTimer {
    /// Starts a timer for the message timeout that nsqd granted, in milliseconds.
    pub(super) fn new(msg_timeout: u64, now: Instant) -> Self {
        let interval = (Duration::from_millis(msg_timeout) / TOUCH_PART).max(MIN_TOUCH_INTERVAL);
        Self { checked: now, interval }
    }

    /// Returns the time of the next check; `None` while nothing is in flight.
    pub(super) fn due(&self, in_flight: &InFlightMessages) -> Option<Instant> {
        (!in_flight.is_empty()).then(|| self.checked + self.interval)
    }

    /// Returns the messages to touch, if the time of the check has come. They count as touched now.
    pub(super) fn take_due(&mut self, in_flight: &mut InFlightMessages, now: Instant) -> Vec<MessageId> {
        if now < self.checked + self.interval {
            return Vec::new();
        }
        self.checked = now;
        in_flight.take_stale(self.interval, now)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::Message;

    #[test]
    fn a_message_is_touched_after_a_third_of_its_timeout() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (mut timer, mut in_flight) = (TouchTimer::new(60_000, start), InFlightMessages::default());
        assert_eq!(timer.due(&in_flight), None);
        let message = Message { timestamp: 0, attempts: 1, id: MessageId(*b"0123456789abcdef"), body: Bytes::new() };
        in_flight.arrived(&message, start);
        assert_eq!(timer.due(&in_flight), Some(start + 20 * second));
        assert!(timer.take_due(&mut in_flight, start + 19 * second).is_empty());
        assert_eq!(timer.take_due(&mut in_flight, start + 20 * second), [MessageId(*b"0123456789abcdef")]);
        assert_eq!(timer.due(&in_flight), Some(start + 40 * second));
    }

    #[test]
    fn a_tiny_timeout_causes_no_flood() {
        let timer = TouchTimer::new(1, Instant::now());
        assert_eq!(timer.interval, MIN_TOUCH_INTERVAL);
    }
}

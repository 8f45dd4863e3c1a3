//! Schedule of an open loop, pure: messages are due at a fixed rate from the start, whether or not
//! earlier ones were acknowledged.

use std::time::{Duration, Instant};

/// A schedule on which message `n` (from 0) is due `n / rate` after the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    start: Instant,
    /// Messages a second, above 0.
    rate: f64,
}

impl Schedule {
    /// Makes a schedule of `rate` messages a second from `start` on.
    pub(crate) fn new(start: Instant, rate: f64) -> Self {
        Self { start, rate }
    }

    /// Returns the time at which message `n` is due.
    pub(crate) fn at(&self, n: u64) -> Instant {
        self.start + Duration::try_from_secs_f64(n as f64 / self.rate).unwrap_or(Duration::from_secs(1 << 40))
    }

    /// Returns the number of messages due by `now`.
    pub(crate) fn due(&self, now: Instant) -> u64 {
        match now.checked_duration_since(self.start) {
            None => 0,
            Some(passed) => {
                // rounding may be off by one; `at` decides
                let least = ((passed.as_secs_f64() * self.rate) as u64).saturating_sub(1);
                least + (least..).take_while(|n| self.at(*n) <= now).count() as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_fall_due_at_the_rate() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 100.0);
        assert_eq!(schedule.at(0), start);
        assert_eq!(schedule.at(250), start + Duration::from_millis(2500));
        assert_eq!(schedule.due(start), 1);
        assert_eq!(schedule.due(start + Duration::from_millis(9)), 1);
        assert_eq!(schedule.due(start + Duration::from_millis(2500)), 251);
        assert_eq!(schedule.due(start - Duration::from_millis(1)), 0);
    }

    #[test]
    fn a_message_is_due_at_its_scheduled_time() {
        let start = Instant::now();
        for rate in [0.3, 7.0, 1000.0, 333_333.3] {
            let schedule = Schedule::new(start, rate);
            for n in (0..5000).step_by(7) {
                let due = schedule.due(schedule.at(n));
                assert!(due > n && schedule.at(due - 1) <= schedule.at(n), "{n} at {rate}/s: {due}");
            }
        }
    }
}

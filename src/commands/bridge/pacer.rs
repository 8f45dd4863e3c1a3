//! `--rate`, pure: at most so many messages a second, and few at once after a pause.

use std::time::{Duration, Instant};

/// The time whose messages may pass at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// The pace of messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pacer {
    /// Messages a second, above 0.
    rate: f64,
    /// The time from which on nothing has passed.
    since: Instant,
}

impl Pacer {
    /// Makes a pacer; the first message is due after `1 / rate`.
    pub(super) fn new(rate: f64, now: Instant) -> Self {
        Self { rate, since: now }
    }

    /// Returns the number of messages that may pass at `now`.
    pub(super) fn room(&mut self, now: Instant) -> u64 {
        self.forget_pause(now);
        (now.saturating_duration_since(self.since).as_secs_f64() * self.rate) as u64
    }

    /// Notes messages that pass; returns the time at which they are due.
    pub(super) fn pass(&mut self, messages: u64, now: Instant) -> Instant {
        self.forget_pause(now);
        self.since += Duration::try_from_secs_f64(messages as f64 / self.rate).unwrap_or(Duration::from_secs(1 << 30));
        self.since
    }

    fn forget_pause(&mut self, now: Instant) {
        let window = BURST.max(Duration::from_secs_f64(1.0 / self.rate));
        if let Some(earliest) = now.checked_sub(window) {
            self.since = self.since.max(earliest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_pass_at_the_rate_and_a_pause_allows_only_a_few_at_once() {
        let start = Instant::now();
        let after = |millis: u64| start + Duration::from_millis(millis);
        let mut pacer = Pacer::new(200.0, start);
        assert_eq!((pacer.room(start), pacer.room(after(51))), (0, 10));
        assert_eq!(pacer.pass(10, after(51)), after(50));
        assert_eq!(pacer.room(after(60)), 2);
        assert_eq!(pacer.pass(200, after(60)), after(1050), "they have to wait");
        assert_eq!(pacer.room(after(1000)), 0);
        assert_eq!(pacer.room(after(60_000)), 20, "after a minute's pause");
        let mut slow = Pacer::new(0.1, start);
        assert_eq!((slow.room(after(9_900)), slow.room(after(10_100)), slow.room(after(99_000))), (0, 1, 1));
    }
}

//! The idle timeout of a worker: pure.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest interval between checks of a busy worker, even with an idle timeout of zero.
const MIN_RECHECK: Duration = Duration::from_millis(10);

/// The idle timeout, and the time since which the worker is idle.
#[derive(Debug, Clone, Copy)]
pub struct IdleTimer {
    allowed: Duration,
    since: Instant,
}

impl IdleTimer {
    /// Starts the idle time now.
    pub fn new(allowed: Duration, now: Instant) -> Self {
        Self { allowed, since: now }
    }

    /// Restarts the idle time: a message was received or answered, or a poke arrived.
    pub fn reset(&mut self, now: Instant) {
        self.since = now;
    }

    /// The time of the next check; `None` if the idle timeout has passed.
    pub fn check(&mut self, busy: bool, now: Instant) -> Option<Instant> {
        if busy {
            self.since = now;
            return Some(now + self.allowed.max(MIN_RECHECK));
        }
        Some(self.deadline()).filter(|deadline| *deadline > now)
    }

    /// The time left until the timeout.
    pub fn left(&self, now: Instant) -> Duration {
        self.deadline().saturating_duration_since(now)
    }

    fn deadline(&self) -> Instant {
        self.since + self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_is_idle_after_the_whole_timeout_without_messages() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut idle = IdleTimer::new(Duration::from_secs(5), start);
        assert_eq!(idle.check(false, second(4)), Some(second(5)));
        assert_eq!(idle.left(second(4)), Duration::from_secs(1));
        idle.reset(second(4));
        assert_eq!(idle.check(false, second(5)), Some(second(9)));
        assert_eq!(idle.check(true, second(9)), Some(second(14)), "what is in flight keeps it awake");
        assert_eq!(idle.check(false, second(14)), None);
        assert_eq!(idle.left(second(15)), Duration::ZERO);
    }

    #[test]
    fn a_timeout_of_zero_ends_at_once_unless_busy() {
        let now = Instant::now();
        let mut idle = IdleTimer::new(Duration::ZERO, now);
        assert_eq!(idle.check(true, now), Some(now + MIN_RECHECK));
        assert_eq!(idle.check(false, now), None);
    }
}

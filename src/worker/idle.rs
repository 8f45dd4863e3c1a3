//! When a worker has been idle for long enough: pure.

use std::time::Duration;

use tokio::time::Instant;

/// The least time between two looks at a worker that is busy, though it may not be idle at all.
const MIN_RECHECK: Duration = Duration::from_millis(10);

/// How long nothing may be received nor be in flight, and since when that is so.
#[derive(Debug, Clone, Copy)]
pub struct IdleTimer {
    allowed: Duration,
    since: Instant,
}

impl IdleTimer {
    /// Idle from now on.
    pub fn new(allowed: Duration, now: Instant) -> Self {
        Self { allowed, since: now }
    }

    /// Something was received, answered, or poked for.
    pub fn reset(&mut self, now: Instant) {
        self.since = now;
    }

    /// When to look again; `None` if it has been idle for long enough.
    pub fn check(&mut self, busy: bool, now: Instant) -> Option<Instant> {
        if busy {
            self.since = now;
            return Some(now + self.allowed.max(MIN_RECHECK));
        }
        Some(self.over()).filter(|over| *over > now)
    }

    /// How long it is until the end, if nothing comes.
    pub fn left(&self, now: Instant) -> Duration {
        self.over().saturating_duration_since(now)
    }

    fn over(&self) -> Instant {
        self.since + self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_nothing_came_for_the_whole_time() {
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
    fn no_time_allowed_is_over_at_once_but_not_while_busy() {
        let now = Instant::now();
        let mut idle = IdleTimer::new(Duration::ZERO, now);
        assert_eq!(idle.check(true, now), Some(now + MIN_RECHECK));
        assert_eq!(idle.check(false, now), None);
    }
}

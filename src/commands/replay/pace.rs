//! The time at which each message is due, pure.

use std::time::{Duration, Instant};

use crate::commands::replay::args::ReplaySpeed;

/// The schedule of a replay: the first message is due at its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplaySchedule {
    start: Instant,
    /// The publish time of the first message.
    first: i64,
    speed: ReplaySpeed,
}

impl ReplaySchedule {
    /// Makes a schedule whose first message was published at `first`.
    pub(super) fn new(start: Instant, first: i64, speed: ReplaySpeed) -> Self {
        Self { start, first, speed }
    }

    /// Returns the time at which the message is due that was published at `time`. One that was
    /// published before the first is due at once.
    pub(super) fn due(&self, time: i64) -> Instant {
        let ReplaySpeed::Times(speed) = self.speed else { return self.start };
        let after = u64::try_from(time.saturating_sub(self.first)).unwrap_or(0);
        // years from now is never
        let wait = Duration::try_from_secs_f64(after as f64 / 1e9 / speed).unwrap_or(Duration::MAX);
        self.start.checked_add(wait).unwrap_or(self.start + Duration::from_secs(1 << 32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_their_distances_divided_by_the_speed() {
        let start = Instant::now();
        let due = |speed, time| ReplaySchedule::new(start, 1_000, speed).due(time) - start;
        assert_eq!(due(ReplaySpeed::Times(1.0), 1_000), Duration::ZERO);
        assert_eq!(due(ReplaySpeed::Times(1.0), 3_000_001_000), Duration::from_secs(3));
        assert_eq!(due(ReplaySpeed::Times(10.0), 3_000_001_000), Duration::from_millis(300));
        assert_eq!(due(ReplaySpeed::Times(0.5), 3_000_001_000), Duration::from_secs(6));
        assert_eq!(due(ReplaySpeed::Times(1.0), 0), Duration::ZERO, "it was published before the first");
        assert_eq!(due(ReplaySpeed::Max, i64::MAX), Duration::ZERO);
        assert!(due(ReplaySpeed::Times(0.001), i64::MAX) >= Duration::from_secs(1 << 32));
    }
}

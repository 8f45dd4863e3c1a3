//! Time as the state sees it: passed in, never read from a clock.

use super::super::log::UnixMillis;

/// Microseconds on a monotonic clock.
pub type Micros = u64;

/// The time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic time, for timeouts and delays.
    pub at: Micros,
    /// Wall-clock time in nanoseconds since 1970, for display and for the log.
    pub unix_nanos: i64,
}

impl Now {
    /// The wall-clock time `delay` milliseconds from now.
    pub(super) fn due_in(self, delay: u64) -> UnixMillis {
        self.unix_millis().saturating_add(delay)
    }

    /// The monotonic time at which `due` is reached; now if it has passed.
    pub(super) fn until(self, due: UnixMillis) -> Micros {
        self.at.saturating_add(due.saturating_sub(self.unix_millis()).saturating_mul(1000))
    }

    /// The monotonic time `millis` milliseconds from now.
    pub(super) fn after(self, millis: u64) -> Micros {
        self.at.saturating_add(millis.saturating_mul(1000))
    }

    fn unix_millis(self) -> UnixMillis {
        u64::try_from(self.unix_nanos / 1_000_000).unwrap_or(0)
    }
}

//! Time as the state sees it: handed in, never looked up.

use super::super::log::UnixMillis;

/// Microseconds on a clock that never goes back.
pub type Micros = u64;

/// The time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// For what is measured: timeouts and delays.
    pub at: Micros,
    /// For what people and logs are told: nanoseconds since 1970.
    pub unix_nanos: i64,
}

impl Now {
    /// When `delay` milliseconds from now are over, by the calendar.
    pub(super) fn due_in(self, delay: u64) -> UnixMillis {
        self.unix_millis().saturating_add(delay)
    }

    /// When `due` comes; at once if it has passed.
    pub(super) fn until(self, due: UnixMillis) -> Micros {
        self.at.saturating_add(due.saturating_sub(self.unix_millis()).saturating_mul(1000))
    }

    /// Milliseconds from now.
    pub(super) fn after(self, millis: u64) -> Micros {
        self.at.saturating_add(millis.saturating_mul(1000))
    }

    fn unix_millis(self) -> UnixMillis {
        u64::try_from(self.unix_nanos / 1_000_000).unwrap_or(0)
    }
}

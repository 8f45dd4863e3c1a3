//! Time as the state sees it: passed in, never read from a clock.
//!
//! Wall-clock times ([`UnixMillis`]) and delays ([`Millis`]) are types of their own, so that
//! neither is taken for a time on the monotonic clock ([`Micros`]), in which everything here is
//! counted.

use super::super::log::UnixMillis;

/// Microseconds on a monotonic clock.
pub type Micros = u64;

/// A delay in milliseconds, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Millis(pub(super) u64);

impl Millis {
    /// The delay in microseconds.
    pub(super) fn micros(self) -> Micros {
        self.0.saturating_mul(1000)
    }
}

/// The time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic time, for timeouts and delays.
    pub at: Micros,
    /// Wall-clock time in nanoseconds since 1970, for display and for the log.
    pub unix_nanos: i64,
}

impl Now {
    /// The wall-clock time `delay` from now.
    pub(super) fn due_in(self, delay: Millis) -> UnixMillis {
        UnixMillis(self.unix_millis().saturating_add(delay.0))
    }

    /// The monotonic time at which `due` is reached; now if it has passed.
    pub(super) fn until(self, due: UnixMillis) -> Micros {
        self.after(Millis(due.0.saturating_sub(self.unix_millis())))
    }

    /// The monotonic time `delay` from now.
    pub(super) fn after(self, delay: Millis) -> Micros {
        self.at.saturating_add(delay.micros())
    }

    fn unix_millis(self) -> u64 {
        u64::try_from(self.unix_nanos / 1_000_000).unwrap_or(0)
    }
}

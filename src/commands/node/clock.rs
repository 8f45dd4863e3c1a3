//! The clock that leases are counted by: it is never set, and goes on while the machine sleeps.

use nix::time::{ClockId, clock_gettime};

use super::lease::Time;

/// The time since the machine was started.
pub(super) fn now() -> Time {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock").into()
}

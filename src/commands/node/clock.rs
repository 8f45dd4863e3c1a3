//! The clock of leases: it is never set, and runs while the machine is suspended.

use nix::time::{ClockId, clock_gettime};

use super::lease::Time;

/// Returns the time since the machine booted.
pub(super) fn now() -> Time {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock").into()
}

//! Conditions that are logged once when they begin and once when they end.

use std::sync::atomic::{AtomicBool, Ordering};

/// A condition, such as an unreachable peer, that may be reported any number of times.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    holds: AtomicBool,
}

impl Notice {
    /// Records that the condition holds; returns true if it did not hold before.
    pub(crate) fn begins(&self) -> bool {
        !self.holds.swap(true, Ordering::Relaxed)
    }

    /// Records that the condition does not hold; returns true if it held before.
    pub(crate) fn ends(&self) -> bool {
        self.holds.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_begins_once_and_ends_once() {
        let notice = Notice::default();
        assert!(!notice.ends());
        for _ in 0..2 {
            assert_eq!([notice.begins(), notice.begins()], [true, false]);
            assert_eq!([notice.ends(), notice.ends()], [true, false]);
        }
    }
}

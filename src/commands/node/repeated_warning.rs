//! Rate limit for a warning about messages of others, which may come at any rate.

use super::lease::Time;

/// Time without another occurrence after which the count starts again.
const QUIET_PERIOD: Time = Time::from_secs(60);

/// The count of occurrences. A warning is due at the first, and whenever the count is ten times as
/// high.
#[derive(Debug, Default)]
pub(super) struct RepeatedWarning {
    count: u64,
    last: Time,
}

impl RepeatedWarning {
    /// Counts an occurrence. Returns the count if a warning is due.
    pub(super) fn record(&mut self, now: Time) -> Option<u64> {
        if now >= self.last + QUIET_PERIOD {
            self.count = 0;
        }
        (self.count, self.last) = (self.count.saturating_add(1), now);
        (10u64.pow(self.count.ilog10()) == self.count).then_some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_at_the_first_occurrence_and_at_each_tenfold() {
        let mut warning = RepeatedWarning::default();
        let begin = Time::from_secs(1000);
        let warned: Vec<u64> = (0..5000).filter_map(|n| warning.record(begin + n * QUIET_PERIOD / 100)).collect();
        assert_eq!(warned, [1, 10, 100, 1000], "occurrences without a pause");
        let later = begin + 5000 * QUIET_PERIOD / 100 + QUIET_PERIOD;
        assert_eq!((warning.record(later), warning.record(later)), (Some(1), None), "after a quiet period");
    }
}

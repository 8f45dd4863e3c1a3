//! The pause after failed jobs, so that one broken worker does not use up the attempts of all jobs.
//! Pure.

use std::time::{Duration, Instant};

use mqueue::backoff::Backoff;
use mqueue::handler::Verdict;

/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Consecutive failures from which on the worker pauses. A single failed job causes no pause.
const MIN_FAILURES: u32 = 2;

/// Counts consecutive failures, and computes the pause.
#[derive(Debug)]
pub(super) struct FailureBackoff {
    failures: u32,
    /// `None`: no pauses.
    backoff: Option<Backoff>,
    /// The end of the last pause. Jobs that fail before it began before the pause, and do not
    /// lengthen it.
    until: Option<Instant>,
}

impl FailureBackoff {
    pub(super) fn new(longest: Duration) -> Self {
        let backoff = || Backoff::new(FIRST_PAUSE.min(longest), longest, fastrand::Rng::new());
        Self { failures: 0, backoff: (!longest.is_zero()).then(backoff), until: None }
    }

    /// Returns how long to pause after these verdicts.
    pub(super) fn after(&mut self, verdicts: &[Verdict], now: Instant) -> Option<Duration> {
        let backoff = self.backoff.as_mut()?;
        if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Done(_) | Verdict::Drop { .. })) {
            self.failures = 0;
            self.until = None;
            backoff.reset();
            return None;
        }
        let failed = verdicts
            .iter()
            .filter(|verdict| {
                matches!(verdict, Verdict::Retry { .. } | Verdict::Unanswered { .. } | Verdict::Unavailable { .. })
            })
            .count();
        self.failures = self.failures.saturating_add(u32::try_from(failed).unwrap_or(u32::MAX));
        if failed == 0 || self.failures < MIN_FAILURES {
            return None;
        }
        match self.until.filter(|until| *until > now) {
            Some(until) => Some(until - now),
            None => {
                let pause = backoff.next()?;
                self.until = Some(now + pause);
                Some(pause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_consecutive_failures_cause_a_pause() {
        let (mut failure_backoff, failed, done) =
            (FailureBackoff::new(4 * FIRST_PAUSE), [Verdict::retry("no")], [Verdict::Done(None)]);
        let mut now = Instant::now();
        assert_eq!(failure_backoff.after(&failed, now), None);
        for full in [1, 2, 4, 4] {
            let pause = failure_backoff.after(&failed, now).unwrap();
            assert!(pause >= full * FIRST_PAUSE / 2 && pause <= full * FIRST_PAUSE, "{pause:?}");
            // jobs that failed together share one pause
            assert_eq!(failure_backoff.after(&failed, now + pause / 2), Some(pause - pause / 2));
            now += pause;
        }
        assert_eq!((failure_backoff.after(&done, now), failure_backoff.after(&failed, now)), (None, None));
        assert!(failure_backoff.after(&failed, now).unwrap() <= FIRST_PAUSE, "the backoff is reset");
        assert_eq!(failure_backoff.after(&[Verdict::retry("no"), Verdict::Done(None)], now), None);
        let mut none = FailureBackoff::new(Duration::ZERO);
        assert!((0..9).all(|_| none.after(&failed, now).is_none()));
    }
}

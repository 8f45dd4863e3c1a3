//! How long to pause when jobs fail, so that one broken worker does not spend the attempts of a whole queue. Pure.

use std::time::{Duration, Instant};

use mqueue::backoff::Backoff;
use mqueue::handler::Verdict;

/// The first pause.
const FIRST: Duration = Duration::from_secs(1);
/// Failures without a success between them from which on there are pauses. A single job that fails stops nobody.
const FAILURES: u32 = 2;

/// Counts failures.
#[derive(Debug)]
pub(super) struct Patience {
    failures: u32,
    /// `None`: no pauses.
    backoff: Option<Backoff>,
    /// The end of the last pause: who fails before it failed for the same reason.
    until: Option<Instant>,
}

impl Patience {
    pub(super) fn new(longest: Duration) -> Self {
        let backoff = || Backoff::new(FIRST.min(longest), longest, fastrand::Rng::new());
        Self { failures: 0, backoff: (!longest.is_zero()).then(backoff), until: None }
    }

    /// How long to pause after these verdicts.
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
        if failed == 0 || self.failures < FAILURES {
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
    fn only_failures_one_after_the_other_are_waited_for() {
        let (mut patience, failed, done) = (Patience::new(4 * FIRST), [Verdict::retry("no")], [Verdict::Done(None)]);
        let mut now = Instant::now();
        assert_eq!(patience.after(&failed, now), None);
        for full in [1, 2, 4, 4] {
            let pause = patience.after(&failed, now).unwrap();
            assert!(pause >= full * FIRST / 2 && pause <= full * FIRST, "{pause:?}");
            // those that failed together wait together
            assert_eq!(patience.after(&failed, now + pause / 2), Some(pause - pause / 2));
            now += pause;
        }
        assert_eq!((patience.after(&done, now), patience.after(&failed, now)), (None, None));
        assert!(patience.after(&failed, now).unwrap() <= FIRST, "it begins anew");
        assert_eq!(patience.after(&[Verdict::retry("no"), Verdict::Done(None)], now), None);
        let mut none = Patience::new(Duration::ZERO);
        assert!((0..9).all(|_| none.after(&failed, now).is_none()));
    }
}

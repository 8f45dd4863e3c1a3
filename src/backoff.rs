//! Delays between retries: exponential, with jitter, without a clock.

use std::time::Duration;

/// Delays that double from `first` up to `most`, each shortened at random by up to a half, so that
/// clients of the same failed server do not reconnect in step. Endless.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Starts at `first` and ends at `most`; `rng` decides the jitter.
    pub fn new(first: Duration, most: Duration, rng: fastrand::Rng) -> Self {
        Self { first, most, next: first, rng }
    }

    /// Restarts at `first`, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let full = self.next.min(self.most);
        self.next = full.saturating_mul(2);
        Some(full.mul_f64(0.5 + self.rng.f64() / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_within_their_bounds_and_restart() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 5 * second, fastrand::Rng::with_seed(7));
        for full in [1, 2, 4, 5, 5] {
            let delay = backoff.next().unwrap();
            assert!(delay >= full * second / 2 && delay <= full * second, "{delay:?} for {full} s");
        }
        backoff.reset();
        assert!(backoff.next().unwrap() <= second);
    }
}

//! A histogram of durations without a lock: counts in fixed buckets, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts of durations in buckets with fixed upper bounds. Recording is a search in the bounds and
/// two additions; threads never wait for each other.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use mqueue::duration_histogram::DurationHistogram;
///
/// static BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];
/// let histogram = DurationHistogram::new(&BOUNDS);
/// histogram.record(Duration::from_millis(500));
/// histogram.record_times(Duration::from_secs(2), 3);
/// let counts = histogram.counts();
/// assert_eq!(counts.buckets, [(0.001, 0), (1.0, 1), (f64::INFINITY, 3)]);
/// assert_eq!((counts.count(), counts.seconds), (4, 6.5));
/// ```
#[derive(Debug)]
pub struct DurationHistogram {
    bounds: &'static [Duration],
    /// One for each bound, and one for longer durations.
    buckets: Box<[AtomicU64]>,
    /// The sum in microseconds: in nanoseconds, a few million messages of an hour would overflow
    /// it.
    micros: AtomicU64,
}

/// The counts of a [`DurationHistogram`] at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct DurationCounts {
    /// Upper bounds in seconds, ascending, the last one infinite, each with the number of durations
    /// above the bound before it.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all durations in seconds.
    pub seconds: f64,
}

impl DurationCounts {
    /// The number of all durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

impl DurationHistogram {
    /// An empty histogram with these upper bounds, ascending.
    pub fn new(bounds: &'static [Duration]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, micros: AtomicU64::new(0) }
    }

    /// Counts a duration.
    pub fn record(&self, took: Duration) {
        self.record_times(took, 1);
    }

    /// Counts a duration `times` times.
    pub fn record_times(&self, took: Duration, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < took);
        self.buckets[bucket].fetch_add(times, Ordering::Relaxed);
        let micros = u64::try_from((took.as_nanos() + 500) / 1000).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros.saturating_mul(times), Ordering::Relaxed);
    }

    /// The counts so far.
    pub fn counts(&self) -> DurationCounts {
        let bounds = self.bounds.iter().map(Duration::as_secs_f64).chain(std::iter::once(f64::INFINITY));
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        DurationCounts {
            buckets: bounds.zip(counts).collect(),
            seconds: self.micros.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        static BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];
        let histogram = DurationHistogram::new(&BOUNDS);
        for (micros, bucket) in [(0, 0), (1000, 0), (1001, 1), (10_000, 1), (10_001, 2), (1 << 40, 2)] {
            let before = histogram.counts();
            histogram.record(Duration::from_micros(micros));
            let after = histogram.counts();
            let grown: Vec<usize> = (0..3).filter(|at| before.buckets[*at] != after.buckets[*at]).collect();
            assert_eq!(grown, [bucket], "{micros} µs");
            assert!((after.seconds - before.seconds - micros as f64 / 1e6).abs() < 1e-6, "{micros} µs");
        }
        assert_eq!(histogram.counts().count(), 6);
    }

    #[test]
    fn durations_below_a_microsecond_are_rounded() {
        let histogram = DurationHistogram::new(&[]);
        histogram.record_times(Duration::from_nanos(600), 10);
        histogram.record_times(Duration::from_nanos(400), 10);
        assert_eq!(histogram.counts(), DurationCounts { buckets: vec![(f64::INFINITY, 20)], seconds: 1e-5 });
    }
}

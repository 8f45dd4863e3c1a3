//! Latencies, collected in constant memory and shown as one line or as JSON.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency recorded, an hour, in nanoseconds. Longer ones count as an hour.
const MAX_NANOS: u64 = 3_600_000_000_000;

/// Histogram of latencies from 1 ns to an hour, exact to 0.1 %, in some 300 KB whatever the number
/// of latencies.
#[derive(Debug, Clone)]
pub(crate) struct LatencyHistogram(Histogram<u64>);

/// The quantiles of some latencies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub(crate) struct Quantiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    /// The 99.9th percentile; 0 in a report of version 0.2.0 or older.
    #[serde(default)]
    pub p999: f64,
    pub max: f64,
}

impl LatencyHistogram {
    /// Makes an empty histogram.
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_NANOS, 3).expect("valid bounds"))
    }

    /// Records one latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.record_times(latency, 1);
    }

    /// Records the same latency `times` times.
    pub(crate) fn record_times(&mut self, latency: Duration, times: u64) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(MAX_NANOS);
        self.0.saturating_record_n(nanos.clamp(1, MAX_NANOS), times);
    }

    /// Returns the mean; `None` if nothing was recorded.
    pub(crate) fn mean(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.mean() as u64))
    }

    /// Returns the quantiles; `None` if nothing was recorded.
    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        // rounded to 0.1 µs
        let millis = |nanos: u64| (nanos as f64 / 100.0).round() / 10_000.0;
        let at = |quantile| millis(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Quantiles {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: millis(self.0.max()),
        })
    }
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p95, p99, max, .. } = *self;
        write!(f, "p50 {}, p95 {}, p99 {}, max {}", InMillis(p50), InMillis(p95), InMillis(p99), InMillis(max))
    }
}

/// Milliseconds, with the digits that matter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct InMillis(pub f64);

impl fmt::Display for InMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms < 1.0 => write!(f, "{ms:.3} ms"),
            ms if ms < 100.0 => write!(f, "{ms:.1} ms"),
            ms if ms < 10_000.0 => write!(f, "{ms:.0} ms"),
            ms => write!(f, "{:.1} s", ms / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_match_the_recorded_latencies() {
        let mut latency = LatencyHistogram::new();
        assert_eq!(latency.quantiles(), None);
        latency.record_times(Duration::from_micros(60), 98);
        latency.record(Duration::from_millis(5));
        latency.record(Duration::from_secs(20_000));
        let Quantiles { p50, p95, p99, p999, max } = latency.quantiles().unwrap();
        assert_eq!((p50, p95), (0.06, 0.06));
        assert!((p99 - 5.0).abs() < 0.01, "{p99}");
        assert!((p999 - max).abs() < 0.01, "{p999}");
        assert!((max - 3.6e6).abs() < 3.6e3, "what is beyond the longest counts as the longest: {max}");
    }

    #[test]
    fn latencies_are_shown_with_three_or_four_digits() {
        let quantiles = Quantiles { p50: 0.0614, p95: 12.34, p99: 456.7, p999: 457.0, max: 30_000.0 };
        assert_eq!(quantiles.to_string(), "p50 0.061 ms, p95 12.3 ms, p99 457 ms, max 30.0 s");
    }
}

//! Measurements over time, for the plot.

use std::time::{Duration, Instant};

use super::stats::{BenchStats, FlowStats};

/// Points of a run whose length is known.
const POINTS: u32 = 40;

/// Measurements between two readings of the meters.
#[derive(Debug, Clone, Copy)]
pub(super) struct BenchPoint {
    /// Seconds since measuring started, halfway between the two readings.
    pub(super) at: f64,
    pub(super) published: FlowPoint,
    pub(super) handled: FlowPoint,
    /// Processors in use on average.
    pub(super) client: f64,
    pub(super) broker: f64,
}

/// Messages in one direction between two readings.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlowPoint {
    /// Messages a second.
    pub(super) rate: f64,
    /// Milliseconds.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// The points of a run, in order.
#[derive(Debug, Default)]
pub(super) struct BenchSeries {
    pub(super) points: Vec<BenchPoint>,
    /// Time of the last reading.
    last_read: Option<Instant>,
}

impl BenchSeries {
    /// The interval between two readings.
    pub(super) fn step(duration: Option<Duration>) -> Duration {
        let of_known = |duration: Duration| (duration / POINTS).max(Duration::from_millis(250));
        duration.map_or(Duration::from_secs(1), of_known)
    }

    /// Starts the series; discards the counts of the warm-up.
    pub(super) fn begin(&mut self, stats: &mut BenchStats, now: Instant) {
        FlowPoint::take(&mut stats.published, 1.0);
        FlowPoint::take(&mut stats.handled, 1.0);
        self.last_read = Some(now);
    }

    /// Adds the point since the last reading, with the processor time used since.
    pub(super) fn push(&mut self, stats: &mut BenchStats, client: Duration, broker: Duration, now: Instant) {
        let Some(last_read) = self.last_read.replace(now) else { return };
        let seconds = now.saturating_duration_since(last_read).as_secs_f64();
        let end = now.saturating_duration_since(stats.window.from).as_secs_f64();
        // too short for a rate
        if seconds < 0.02 {
            return;
        }
        self.points.push(BenchPoint {
            at: (end - seconds / 2.0).max(0.0),
            published: FlowPoint::take(&mut stats.published, seconds),
            handled: FlowPoint::take(&mut stats.handled, seconds),
            client: client.as_secs_f64() / seconds,
            broker: broker.as_secs_f64() / seconds,
        });
    }
}

impl FlowPoint {
    fn take(way: &mut FlowStats, seconds: f64) -> Self {
        let (count, latency) = (std::mem::take(&mut way.recent), std::mem::take(&mut way.recent_latency).quantiles());
        Self { rate: count as f64 / seconds, p50: latency.map(|ms| ms.p50), p99: latency.map(|ms| ms.p99) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stats::Window;
    use super::*;

    #[test]
    fn each_point_has_the_messages_since_the_point_before() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut stats = BenchStats::new(Window { from: at(1000), until: Some(at(2000)) });
        let mut series = BenchSeries::default();
        stats.published(7, at(500), at(600));
        series.begin(&mut stats, at(1000));
        for (n, messages) in [(1, 10), (2, 20)] {
            stats.published(messages, at(1000 + n * 100), at(1010 + n * 100));
            series.push(&mut stats, Duration::from_millis(250), Duration::ZERO, at(1000 + n * 500));
        }
        let points: Vec<(f64, f64, f64)> =
            series.points.iter().map(|point| (point.at, point.published.rate, point.client)).collect();
        assert_eq!(points, [(0.25, 20.0, 0.5), (0.75, 40.0, 0.5)]);
        assert!(series.points[1].published.p99.is_some_and(|p99| (p99 - 10.0).abs() < 0.1));
    }
}

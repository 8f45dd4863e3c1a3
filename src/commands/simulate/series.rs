//! Measurements over time, in constant memory: when there are too many points, neighbours are
//! merged in pairs.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Limit on the points of a series.
const MAX_POINTS: usize = 240;
/// The longest latency recorded, ten minutes, in microseconds.
const MAX_MICROS: u64 = 600_000_000;

/// Measurements of some seconds.
#[derive(Debug, Clone)]
pub(super) struct SimulationPoint {
    pub(super) seconds: f64,
    pub(super) processed: u64,
    pub(super) dropped: u64,
    /// Latencies in microseconds, to 1 %.
    latency: Histogram<u32>,
}

impl SimulationPoint {
    pub(super) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, MAX_MICROS, 2).expect("valid bounds");
        Self { seconds: 0.0, processed: 0, dropped: 0, latency }
    }

    pub(super) fn record(&mut self, latency: Duration) {
        self.processed += 1;
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS).clamp(1, MAX_MICROS));
    }

    /// Returns a quantile in milliseconds; `None` if nothing was processed.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        (!self.latency.is_empty()).then(|| self.latency.value_at_quantile(quantile) as f64 / 1000.0)
    }

    fn join(&mut self, next: &Self) {
        self.seconds += next.seconds;
        self.processed += next.processed;
        self.dropped += next.dropped;
        self.latency.add(&next.latency).expect("they have the same bounds");
    }
}

/// The points of a run, in order.
#[derive(Debug)]
pub(super) struct SimulationSeries {
    pub(super) points: Vec<SimulationPoint>,
    /// Length of a point in seconds; the last may be shorter.
    step: f64,
}

impl SimulationSeries {
    pub(super) fn new() -> Self {
        Self { points: Vec::new(), step: 0.0 }
    }

    /// Appends a point, or merges it with the last.
    pub(super) fn push(&mut self, point: SimulationPoint) {
        match self.points.last_mut() {
            Some(last) if last.seconds + point.seconds / 2.0 < self.step => last.join(&point),
            _ => self.points.push(point),
        }
        if self.points.len() > MAX_POINTS {
            self.points = self.points.chunks(2).map(join).collect();
            self.step = self.points[0].seconds;
        }
    }
}

fn join(points: &[SimulationPoint]) -> SimulationPoint {
    let mut all = points[0].clone();
    points[1..].iter().for_each(|point| all.join(point));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_seconds_fits_and_nothing_is_lost() {
        let mut series = SimulationSeries::new();
        for second in 0..100_000_u64 {
            let mut point = SimulationPoint { seconds: 1.0, dropped: 1, ..SimulationPoint::new() };
            point.record(Duration::from_millis(1 + second / 50_000 * 9));
            series.push(point);
        }
        assert!((MAX_POINTS / 2..=MAX_POINTS).contains(&series.points.len()), "{}", series.points.len());
        let sum = |of: fn(&SimulationPoint) -> f64| series.points.iter().map(of).sum::<f64>();
        assert_eq!(sum(|point| point.seconds), 100_000.0);
        assert_eq!((sum(|point| point.processed as f64), sum(|point| point.dropped as f64)), (100_000.0, 100_000.0));
        let at = |at: usize| series.points[at].quantile(0.5).unwrap();
        assert!((at(0) - 1.0).abs() < 0.02 && (at(series.points.len() - 1) - 10.0).abs() < 0.2);
        let step = series.points[0].seconds;
        assert!(series.points[..series.points.len() - 1].iter().all(|point| (point.seconds - step).abs() < 1.0));
    }
}

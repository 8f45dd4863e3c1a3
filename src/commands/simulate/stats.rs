//! Counts of a simulation.

use std::time::{Duration, Instant};

use super::series::{SimulationPoint, SimulationSeries};
use crate::commands::common::latency::LatencyHistogram;

/// The counts of a run.
#[derive(Debug)]
pub(super) struct SimulationStats {
    pub(super) generated: u64,
    /// Chunks that found the buffer full.
    pub(super) dropped: u64,
    pub(super) processed: u64,
    /// Chunks delivered and processed again: NSQ promises at least once.
    pub(super) again: u64,
    /// Chunks that wait for a worker, as far as known.
    pub(super) waiting: u64,
    /// Time from a chunk's creation to the end of its work.
    pub(super) latency: LatencyHistogram,
    /// Delay between a chunk's due time and its creation.
    pub(super) lateness: LatencyHistogram,
    /// Latencies of the last second.
    pub(super) recent: LatencyHistogram,
    point: SimulationPoint,
    since: Instant,
    pub(super) series: SimulationSeries,
}

impl SimulationStats {
    pub(super) fn new() -> Self {
        Self {
            generated: 0,
            dropped: 0,
            processed: 0,
            again: 0,
            waiting: 0,
            latency: LatencyHistogram::new(),
            lateness: LatencyHistogram::new(),
            recent: LatencyHistogram::new(),
            point: SimulationPoint::new(),
            since: Instant::now(),
            series: SimulationSeries::new(),
        }
    }

    /// Counts a chunk, with its delay.
    pub(super) fn generated(&mut self, late: Duration) {
        self.generated += 1;
        self.lateness.record(late);
    }

    pub(super) fn dropped(&mut self) {
        self.dropped += 1;
        self.point.dropped += 1;
    }

    pub(super) fn processed(&mut self, latency: Duration) {
        self.processed += 1;
        self.latency.record(latency);
        self.recent.record(latency);
        self.point.record(latency);
    }

    /// Ends a second: adds its point to the series.
    pub(super) fn turn(&mut self, now: Instant) {
        let mut point = std::mem::replace(&mut self.point, SimulationPoint::new());
        point.seconds = (now - self.since).as_secs_f64();
        self.since = now;
        self.series.push(point);
        self.recent = LatencyHistogram::new();
    }
}

//! What is counted.

use std::time::{Duration, Instant};

use super::series::{Point, Series};
use crate::commands::common::latency::Latency;

/// The counts of a run.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) generated: u64,
    /// Found the buffer full.
    pub(super) dropped: u64,
    pub(super) processed: u64,
    /// Came again and were processed once more: at least once is what NSQ promises.
    pub(super) again: u64,
    /// Chunks that wait for a worker, as far as that is known.
    pub(super) waiting: u64,
    /// From a chunk's creation to the end of its work.
    pub(super) latency: Latency,
    /// How late chunks were made.
    pub(super) lateness: Latency,
    /// The last second.
    pub(super) recent: Latency,
    point: Point,
    since: Instant,
    pub(super) series: Series,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            generated: 0,
            dropped: 0,
            processed: 0,
            again: 0,
            waiting: 0,
            latency: Latency::new(),
            lateness: Latency::new(),
            recent: Latency::new(),
            point: Point::new(),
            since: Instant::now(),
            series: Series::new(),
        }
    }

    /// A chunk was made, so long after it was due.
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

    /// A second is over.
    pub(super) fn turn(&mut self, now: Instant) {
        let mut point = std::mem::replace(&mut self.point, Point::new());
        point.seconds = (now - self.since).as_secs_f64();
        self.since = now;
        self.series.push(point);
        self.recent = Latency::new();
    }
}

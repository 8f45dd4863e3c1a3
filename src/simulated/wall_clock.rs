//! A wall clock that can be stepped.
#![cfg(feature = "broker")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// 2026-01-01, in seconds since 1970.
const START: Duration = Duration::from_secs(1_767_225_600);

/// A wall clock, which runs with the virtual time but for its steps.
#[derive(Debug, Clone)]
pub(crate) struct WallClock {
    begun: Instant,
    /// The sum of all steps, in milliseconds.
    stepped: Arc<AtomicI64>,
}

impl WallClock {
    pub(super) fn start() -> Self {
        Self { begun: Instant::now(), stepped: Arc::default() }
    }

    pub(super) fn since_1970(&self) -> Duration {
        let unstepped = START + self.begun.elapsed();
        let stepped = self.stepped.load(Ordering::Relaxed);
        let by = Duration::from_millis(stepped.unsigned_abs());
        if stepped < 0 { unstepped - by } else { unstepped + by }
    }

    pub(super) fn step(&self, millis: i64) {
        self.stepped.fetch_add(millis, Ordering::Relaxed);
    }
}

//! Metrics of a worker: those of its group, and whether it has a stream of jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::commands::common::metrics::Metrics;
use crate::commands::common::metrics::families::Labels;
use crate::commands::common::metrics::group_meter::{self, GroupFigures};
use crate::commands::common::metrics::status_server::StatusPages;
use crate::commands::worker::args::Args;
use mqueue::worker::WorkMeter;

/// The meter of a worker's jobs.
#[derive(Debug)]
pub(super) struct JobMeter {
    labels: Labels,
    pub(super) work: Arc<WorkMeter>,
    held: AtomicU64,
    is_connected: AtomicBool,
}

impl JobMeter {
    pub(super) fn new(args: &Args) -> Arc<Self> {
        Arc::new(Self {
            labels: group_meter::labels(&args.stream, &args.group),
            work: Arc::default(),
            held: AtomicU64::new(0),
            is_connected: AtomicBool::new(false),
        })
    }

    /// Sets the number of jobs that the gateway has handed out to this worker.
    pub(super) fn holds(&self, jobs: usize) {
        self.held.store(jobs as u64, Ordering::Relaxed);
    }

    /// Sets whether the gateway sends jobs.
    pub(super) fn connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Relaxed);
    }

    /// Returns the pages of the worker.
    pub(super) fn pages(self: &Arc<Self>) -> StatusPages {
        let (shown, checked) = (self.clone(), self.clone());
        let metrics = Metrics::new(|registry| group_meter::register(registry, move || vec![shown.figures()]));
        StatusPages::new(metrics, move || match checked.is_connected.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("no stream of jobs from the gateway".to_owned()),
        })
    }

    fn figures(&self) -> GroupFigures {
        GroupFigures {
            labels: self.labels.clone(),
            work: self.work.clone(),
            stats: self.work.stats(),
            is_open: true,
            in_flight: self.held.load(Ordering::Relaxed),
            connections: usize::from(self.is_connected.load(Ordering::Relaxed)),
            oldest: self.work.oldest().unwrap_or_default(),
        }
    }
}

//! Counts and latencies of a stage, and its reports.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::commands::common::latency::{LatencyHistogram, Quantiles};
use crate::commands::stage::args::Args;
use mqueue::plural::count;
use mqueue::worker::{Snapshot, WorkerStats};

/// The counts of a stage, updated while messages pass. No lock is held across an await.
#[derive(Debug)]
pub(super) struct StageStats {
    from: String,
    to: String,
    inner: Mutex<StageCounts>,
}

#[derive(Debug, Default)]
struct StageCounts {
    /// Messages that the next hop has.
    passed: u64,
    /// Messages that did not fit the schema.
    unfit: u64,
    /// Latencies since the last line of the report.
    recent: LatencyHistogram,
    all: LatencyHistogram,
}

/// A line of the report.
#[derive(Debug, Serialize)]
pub(super) struct StageReportLine<'a> {
    from: &'a str,
    to: &'a str,
    /// Messages that the next hop has.
    passed: u64,
    /// Dead letters that did not fit the schema.
    unfit: u64,
    dead: u64,
    retried: u64,
    released: u64,
    in_flight: u32,
    /// True on the last line, whose latencies are of the whole run.
    ended: bool,
    /// Time from publishing to the next hop's OK, since the line before.
    latency_ms: Option<Quantiles>,
}

impl StageStats {
    pub(super) fn new(args: &Args) -> Self {
        Self { from: args.from.to_string(), to: args.to.to_string(), inner: Mutex::default() }
    }

    /// Counts a message that does not fit the schema.
    pub(super) fn unfit(&self) {
        self.inner().unfit += 1;
    }

    /// Counts a message, published at `timestamp` (ns since 1970), that the next hop has now.
    pub(super) fn passed(&self, timestamp: i64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let took = now.saturating_sub(Duration::from_nanos(u64::try_from(timestamp).unwrap_or(0)));
        let mut inner = self.inner();
        inner.passed += 1;
        inner.recent.record(took);
        inner.all.record(took);
    }

    /// Returns a line of the report, with the latencies since the line before.
    pub(super) fn now(&self, snapshot: Snapshot) -> StageReportLine<'_> {
        let recent = std::mem::take(&mut self.inner().recent);
        self.line(snapshot.stats, snapshot.in_flight, false, recent.quantiles())
    }

    /// Returns the report's last line.
    pub(super) fn last(&self, tally: WorkerStats) -> StageReportLine<'_> {
        let latency = self.inner().all.quantiles();
        self.line(tally, 0, true, latency)
    }

    fn line(
        &self,
        tally: WorkerStats,
        in_flight: u32,
        ended: bool,
        latency_ms: Option<Quantiles>,
    ) -> StageReportLine<'_> {
        let WorkerStats { dead, retried, released, .. } = tally;
        let inner = self.inner();
        let (passed, unfit) = (inner.passed, inner.unfit);
        StageReportLine {
            from: &self.from,
            to: &self.to,
            passed,
            unfit,
            dead,
            retried,
            released,
            in_flight,
            ended,
            latency_ms,
        }
    }

    /// Formats the line for `systemctl status`.
    pub(super) fn status(&self, snapshot: Snapshot) -> String {
        let Snapshot { in_flight, stats, stopping, .. } = snapshot;
        let stopping = if stopping { ", stopping" } else { "" };
        let dead = count(stats.dead, "dead letter");
        format!("{in_flight} in flight, {} passed on, {dead}{stopping}", self.inner().passed)
    }

    /// Formats the summary at the end, for people.
    pub(super) fn summary(&self, tally: WorkerStats, took: Duration) -> String {
        let inner = self.inner();
        let WorkerStats { dead, retried, released, .. } = tally;
        let dead = count(dead, "dead letter");
        let mut text = format!(
            "{} passed on, {retried} to retry, {dead} ({} unfit), {released} given back, in {:.1} s",
            inner.passed,
            inner.unfit,
            took.as_secs_f64()
        );
        if let Some(latency) = inner.all.quantiles() {
            text += &format!("; published→passed on {latency}");
        }
        text
    }

    fn inner(&self) -> MutexGuard<'_, StageCounts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

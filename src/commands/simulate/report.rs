//! Report of a run: the seed's text, and JSON.

use std::time::Duration;

use serde::Serialize;

use super::settings::SimulationSettings;
use super::stats::SimulationStats;
use crate::commands::common::latency::{LatencyHistogram, Quantiles};
use mqueue::plural::count;

/// Formats the lines before a run.
pub(super) fn configuration(settings: &SimulationSettings, via: &str) -> String {
    let SimulationSettings { workers, streams, interval, chunk_size, buffer, seed } = settings;
    format!(
        "Starting the application...

=== Configuration ===
Workers Count:    {workers}
Streams Count:    {streams}
Stream Interval:  {interval} ms
Chunk Size:       {chunk_size} bytes
Buffer Size:      {buffer}
Seed:             {seed}
Via:              {via}
====================
Application is running...
{} started
{} started",
        count(*workers, "worker"),
        count(*streams, "stream"),
    )
}

/// The final report. Latencies are in milliseconds, from a chunk's creation to the end of its work.
#[derive(Debug, Serialize)]
pub(super) struct FinalReport {
    configuration: SimulationSettings,
    /// Counts of chunks.
    pub(super) generated: u64,
    pub(super) processed: u64,
    pub(super) dropped: u64,
    /// Chunks processed again, because NSQ delivered them again.
    pub(super) again: u64,
    /// Chunks left in the buffer, or in NSQ, by a second Ctrl-C.
    pub(super) given_up: u64,
    elapsed_s: f64,
    /// Chunks a second.
    throughput: f64,
    avg_latency_ms: Option<f64>,
    latency_ms: Option<Quantiles>,
    /// Delay between a chunk's due time and its creation.
    scheduling_error_ms: Option<Quantiles>,
    /// Peak memory of the process in bytes.
    memory_bytes: u64,
    /// Digest of the workload: equal for the same chunks at the same times.
    workload: String,
}

impl FinalReport {
    pub(super) fn new(settings: SimulationSettings, stats: &SimulationStats, elapsed: Duration, digest: u32) -> Self {
        Self {
            configuration: settings,
            generated: stats.generated,
            processed: stats.processed,
            dropped: stats.dropped,
            again: stats.again,
            given_up: stats.generated - stats.processed - stats.dropped,
            elapsed_s: elapsed.as_secs_f64(),
            throughput: stats.processed as f64 / elapsed.as_secs_f64(),
            avg_latency_ms: stats.latency.mean().map(|mean| mean.as_secs_f64() * 1e3),
            latency_ms: stats.latency.quantiles(),
            scheduling_error_ms: stats.lateness.quantiles(),
            memory_bytes: peak_memory(),
            workload: format!("{digest:08x}"),
        }
    }

    /// Formats the report as plain text.
    pub(super) fn text(&self) -> String {
        let Self { processed, dropped, generated, throughput, workload, .. } = self;
        let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.3}ms"));
        let at = |of: fn(&Quantiles) -> f64| ms(self.latency_ms.as_ref().map(of));
        let [p50, p95, p99, max] = [at(|q| q.p50), at(|q| q.p95), at(|q| q.p99), at(|q| q.max)];
        let mut text = format!(
            "
=== Final Statistics ===
Processed: {processed} chunks
Dropped: {dropped} chunks
Elapsed: {}
Throughput: {throughput:.2} chunks/sec
Avg Latency: {}
P50 Latency: {p50}
P95 Latency: {p95}
P99 Latency: {p99}
Max Latency: {max}
Generated: {generated} chunks (workload {workload})
",
            seconds(self.elapsed_s),
            ms(self.avg_latency_ms),
        );
        if self.given_up > 0 {
            text += &format!("Given up: {} chunks\n", self.given_up);
        }
        if self.again > 0 {
            text += &format!("Processed again: {} chunks\n", self.again);
        }
        let late = self.scheduling_error_ms.map_or("-".to_owned(), |late| late.to_string());
        text + &format!(
            "Scheduling Error: {late}\nMemory: {:.1} MB\nApplication exited.",
            self.memory_bytes as f64 / 1e6
        )
    }
}

/// The report of one second, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct SecondReport {
    elapsed_s: f64,
    generated: u64,
    processed: u64,
    dropped: u64,
    waiting: u64,
    /// Latencies of the last second.
    latency_ms: Option<Quantiles>,
}

impl SecondReport {
    pub(super) fn new(stats: &SimulationStats, elapsed: Duration) -> Self {
        let SimulationStats { generated, processed, dropped, waiting, ref recent, .. } = *stats;
        let latency_ms = LatencyHistogram::quantiles(recent);
        Self { elapsed_s: elapsed.as_secs_f64(), generated, processed, dropped, waiting, latency_ms }
    }
}

/// Formats a duration as `1m23s`, with tenths below a minute.
fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Reads the kernel's count of peak memory, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_minutes_and_seconds() {
        let all = [5.04, 59.4, 83.0, 3723.2].map(seconds);
        assert_eq!(all, ["5.0s", "59.4s", "1m23s", "1h2m3s"]);
    }
}

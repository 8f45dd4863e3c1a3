//! Counts of messages received, published, refused and dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde::Serialize;

use super::stream::MAX_CONNECTIONS;
use crate::commands::common::exit::Exit;
use crate::commands::common::latency::{LatencyHistogram, Quantiles};
use crate::commands::common::metrics::families::{self, Labels};
use mqueue::client::PublishError;
use mqueue::plural::count;

/// The counts. The lock is held for a few lines only.
#[derive(Debug, Default)]
pub(super) struct IngestStats(Mutex<StatsState>);

#[derive(Debug, Default)]
struct StatsState {
    counts: IngestCounts,
    /// The counts at the last warning.
    warned: IngestCounts,
    last_refusal: Option<String>,
    recent: LatencyHistogram,
    all: LatencyHistogram,
}

/// Counts in messages, unless noted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct IngestCounts {
    read: u64,
    published: u64,
    /// Longer than allowed.
    too_long: u64,
    /// Refused by nsqd for good.
    refused: u64,
    /// Dropped by the kernel before they could be received.
    dropped: u64,
    /// Unfinished lines of senders that ended or broke off.
    cut_off: u64,
    /// Silent connections closed to make room for others.
    made_way: u64,
    empty: u64,
    connections: u64,
}

/// A line of the report.
#[derive(Debug, Serialize)]
pub(super) struct IngestReportLine {
    #[serde(flatten)]
    counts: IngestCounts,
    /// True on the last line, whose latencies are of the whole run.
    ended: bool,
    /// From reading to nsqd's OK, since the previous line.
    latency_ms: Option<Quantiles>,
}

impl IngestStats {
    /// Registers the metrics of the sockets.
    pub(super) fn register(self: Arc<Self>, registry: &mut Registry) {
        let none = Labels::new();
        families::register(registry, move |writer| {
            let counts = self.state().counts;
            for (name, help, count) in [
                ("received", "Lines and packets received, without those that are too long", counts.read),
                ("too_long", "Lines and packets refused, because they are longer than --max-line", counts.too_long),
                ("dropped", "Packets that the kernel dropped", counts.dropped),
                ("cut_off", "Unfinished lines of senders that ended", counts.cut_off),
            ] {
                writer.counters(&format!("ingest_{name}"), help, [(&none, count)])?;
            }
            writer.gauges("ingest_senders", "Connected senders", [(&none, counts.connections as f64)])
        });
    }

    /// Counts messages received.
    pub(super) fn read(&self, count: u64) {
        self.state().counts.read += count;
    }

    /// Counts messages published, with the time since they were received.
    pub(super) fn published(&self, count: u64, took: Duration) {
        let mut state = self.state();
        state.counts.published += count;
        state.recent.record_times(took, count);
        state.all.record_times(took, count);
    }

    /// Counts a message that nsqd refused.
    pub(super) fn refused_by_nsqd(&self, why: &PublishError) {
        let mut state = self.state();
        state.counts.refused += 1;
        state.last_refusal = Some(why.to_string());
    }

    /// Counts empty messages, and messages that are too long.
    pub(super) fn unusable(&self, empty: u64, too_long: u64) {
        let mut state = self.state();
        state.counts.empty += empty;
        state.counts.too_long += too_long;
    }

    /// Counts packets that the kernel dropped.
    pub(super) fn dropped(&self, count: u64) {
        self.state().counts.dropped += count;
    }

    /// Counts a silent connection that made way for another.
    pub(super) fn made_way(&self) {
        self.state().counts.made_way += 1;
    }

    /// Counts a sender that ended or broke off within a line.
    pub(super) fn cut_off(&self) {
        self.state().counts.cut_off += 1;
    }

    pub(super) fn connected(&self) {
        self.state().counts.connections += 1;
    }

    pub(super) fn disconnected(&self) {
        self.state().counts.connections -= 1;
    }

    /// Logs what was dropped, refused or cut off since the last call.
    pub(super) fn warn(&self) {
        let mut state = self.state();
        let (now, warned) = (state.counts, state.warned);
        state.warned = now;
        let refusal = state.last_refusal.take().unwrap_or_default();
        drop(state);
        if now.dropped > warned.dropped {
            let new = now.dropped - warned.dropped;
            tracing::warn!("{} dropped by the kernel: the sender is faster than nsqd takes them", count(new, "packet"));
        }
        if now.too_long > warned.too_long {
            tracing::warn!("{} refused: longer than --max-line", now.too_long - warned.too_long);
        }
        if now.refused > warned.refused {
            tracing::warn!("{} refused by nsqd: {refusal}", now.refused - warned.refused);
        }
        if now.cut_off > warned.cut_off {
            let new = now.cut_off - warned.cut_off;
            tracing::warn!("{new} unfinished at the end of a stream, not published: a line ends with a newline");
        }
        if now.made_way > warned.made_way {
            let new = now.made_way - warned.made_way;
            tracing::warn!(
                "{} ended to make room for others: no socket has more than {MAX_CONNECTIONS}",
                count(new, "silent connection")
            );
        }
    }

    /// Makes a line of the report; the last one covers the whole run.
    pub(super) fn line(&self, ended: bool) -> IngestReportLine {
        let mut state = self.state();
        let recent = std::mem::take(&mut state.recent);
        let latency_ms = if ended { state.all.quantiles() } else { recent.quantiles() };
        IngestReportLine { counts: state.counts, ended, latency_ms }
    }

    /// Returns the code of a run that ended by itself.
    pub(super) fn exit(&self) -> Exit {
        let IngestCounts { read, published, too_long, dropped, .. } = self.state().counts;
        Exit::of_work(published, read.saturating_sub(published) + too_long + dropped)
    }

    /// Formats the line for `systemctl status`.
    pub(super) fn status(&self) -> String {
        let counts = self.state().counts;
        format!("{} published, {} senders, {} dropped", counts.published, counts.connections, counts.dropped)
    }

    /// Formats the summary at the end.
    pub(super) fn summary(&self, took: Duration) -> String {
        let state = self.state();
        let IngestCounts { read, published, too_long, refused, dropped, cut_off, .. } = state.counts;
        let mut text = format!("{read} read, {published} published");
        for (count, what) in [
            (too_long, "too long"),
            (refused, "refused by nsqd"),
            (dropped, "dropped by the kernel"),
            (cut_off, "cut off"),
            (read.saturating_sub(published + refused), "given up"),
        ] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text += &format!(", in {:.1} s", took.as_secs_f64());
        if let Some(latency) = state.all.quantiles() {
            text += &format!("; read→published {latency}");
        }
        text
    }

    fn state(&self) -> MutexGuard<'_, StatsState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What was taken in, and what became of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::stream::CONNECTIONS;
use crate::commands::common::latency::{Latency, Quantiles};
use mqueue::client::PublishError;
use mqueue::plural::count;

/// The counts. The lock covers a few lines.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: Counts,
    /// As they were when trouble was last said.
    said: Counts,
    last_refusal: Option<String>,
    recent: Latency,
    all: Latency,
}

/// In messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Counts {
    read: u64,
    published: u64,
    /// Longer than allowed.
    too_long: u64,
    /// nsqd refused them for good.
    refused: u64,
    /// Lost by the kernel, before they could be received.
    dropped: u64,
    /// Half lines of senders that ended or broke off.
    cut_off: u64,
    /// Silent connections that were ended to make room for others.
    made_way: u64,
    empty: u64,
    connections: u64,
}

/// A line of the report.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    #[serde(flatten)]
    counts: Counts,
    /// True on the last line, whose latencies are of the whole run.
    ended: bool,
    /// From reading to nsqd's OK, since the line before.
    latency_ms: Option<Quantiles>,
}

impl Tally {
    /// Messages came in.
    pub(super) fn read(&self, count: u64) {
        self.inner().counts.read += count;
    }

    /// They were published, so long after they came in.
    pub(super) fn published(&self, count: u64, took: Duration) {
        let mut inner = self.inner();
        inner.counts.published += count;
        inner.recent.record_times(took, count);
        inner.all.record_times(took, count);
    }

    /// nsqd refused one.
    pub(super) fn refused_by_nsqd(&self, why: &PublishError) {
        let mut inner = self.inner();
        inner.counts.refused += 1;
        inner.last_refusal = Some(why.to_string());
    }

    /// Nothing to publish came in, or too much of one.
    pub(super) fn unusable(&self, empty: u64, too_long: u64) {
        let mut inner = self.inner();
        inner.counts.empty += empty;
        inner.counts.too_long += too_long;
    }

    /// The kernel dropped some.
    pub(super) fn dropped(&self, count: u64) {
        self.inner().counts.dropped += count;
    }

    /// A silent sender made way for another.
    pub(super) fn made_way(&self) {
        self.inner().counts.made_way += 1;
    }

    /// A sender ended or broke off within a line.
    pub(super) fn cut_off(&self) {
        self.inner().counts.cut_off += 1;
    }

    pub(super) fn connected(&self) {
        self.inner().counts.connections += 1;
    }

    pub(super) fn disconnected(&self) {
        self.inner().counts.connections -= 1;
    }

    /// Says what did not come through since this was called last.
    pub(super) fn warn(&self) {
        let mut inner = self.inner();
        let (now, said) = (inner.counts, inner.said);
        inner.said = now;
        let refusal = inner.last_refusal.take().unwrap_or_default();
        drop(inner);
        if now.dropped > said.dropped {
            let new = now.dropped - said.dropped;
            tracing::warn!("{} dropped by the kernel: the sender is faster than nsqd takes them", count(new, "packet"));
        }
        if now.too_long > said.too_long {
            tracing::warn!("{} refused: longer than --max-line", now.too_long - said.too_long);
        }
        if now.refused > said.refused {
            tracing::warn!("{} refused by nsqd: {refusal}", now.refused - said.refused);
        }
        if now.cut_off > said.cut_off {
            let new = now.cut_off - said.cut_off;
            tracing::warn!("{new} unfinished at the end of a stream, not published: a line ends with a newline");
        }
        if now.made_way > said.made_way {
            let new = now.made_way - said.made_way;
            tracing::warn!(
                "{new} silent connections ended to make room for others: no socket has more than {CONNECTIONS}"
            );
        }
    }

    /// The report's line; the last one is about the whole run.
    pub(super) fn line(&self, ended: bool) -> Line {
        let mut inner = self.inner();
        let recent = std::mem::take(&mut inner.recent);
        let latency_ms = if ended { inner.all.quantiles() } else { recent.quantiles() };
        Line { counts: inner.counts, ended, latency_ms }
    }

    /// The line for `systemctl status`.
    pub(super) fn status(&self) -> String {
        let counts = self.inner().counts;
        format!("{} published, {} senders, {} dropped", counts.published, counts.connections, counts.dropped)
    }

    /// The last words for people.
    pub(super) fn summary(&self, took: Duration) -> String {
        let inner = self.inner();
        let Counts { read, published, too_long, refused, dropped, cut_off, .. } = inner.counts;
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
        if let Some(latency) = inner.all.quantiles() {
            text += &format!("; read→published {latency}");
        }
        text
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

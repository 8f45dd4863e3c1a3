//! The counts of a run: in total, and within the measured time. Pure.
//!
//! A message counts for the rate if it was acknowledged (or handled) within the window. It counts
//! for the latency if it was due within the window, however long it took: slow messages are not
//! left out.

use std::time::{Duration, Instant};

use crate::commands::common::latency::LatencyHistogram;

/// The measured time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) from: Instant,
    /// `None` while the end is open.
    pub(super) until: Option<Instant>,
}

impl Window {
    pub(super) fn has(&self, moment: Instant) -> bool {
        self.from <= moment && self.until.is_none_or(|until| moment <= until)
    }

    /// The length of the window, up to `now` if its end is open.
    pub(super) fn length(&self, now: Instant) -> Duration {
        self.until.unwrap_or(now).saturating_duration_since(self.from)
    }
}

/// Counts and latencies of messages in one direction: to the broker, or from it.
#[derive(Debug, Default)]
pub(super) struct FlowStats {
    /// Messages since the run began.
    pub(super) total: u64,
    /// Messages within the window.
    pub(super) measured: u64,
    pub(super) latency: LatencyHistogram,
    /// Time of the last message.
    pub(super) last: Option<Instant>,
    /// Messages since the last reading.
    pub(super) recent: u64,
    pub(super) recent_latency: LatencyHistogram,
}

impl FlowStats {
    /// Counts messages completed at `now`, and their latency if they were due at `due`.
    pub(super) fn count(&mut self, window: &Window, messages: u64, due: Option<Instant>, now: Instant) {
        self.total += messages;
        self.recent += messages;
        self.last = Some(now);
        if window.has(now) {
            self.measured += messages;
        }
        if let Some(due) = due {
            self.time(window, messages, due, now);
        }
    }

    /// Records only the latency. For messages that never complete, the time waited so far is a
    /// lower bound.
    pub(super) fn time(&mut self, window: &Window, messages: u64, due: Instant, now: Instant) {
        if window.has(due) {
            let latency = now.saturating_duration_since(due);
            self.latency.record_times(latency, messages);
            self.recent_latency.record_times(latency, messages);
        }
    }
}

/// The counts of a run.
#[derive(Debug)]
pub(super) struct BenchStats {
    pub(super) window: Window,
    pub(super) published: FlowStats,
    pub(super) handled: FlowStats,
    /// Delays between due time and sending in an open loop.
    pub(super) late: LatencyHistogram,
    /// Messages that were due but not sent before the end.
    pub(super) unsent: u64,
}

impl BenchStats {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            published: FlowStats::default(),
            handled: FlowStats::default(),
            late: LatencyHistogram::new(),
            unsent: 0,
        }
    }

    pub(super) fn published(&mut self, messages: u64, due: Instant, now: Instant) {
        self.published.count(&self.window, messages, Some(due), now);
    }

    /// Counts a handled message; `due` is `None` where the time in the queue says nothing.
    pub(super) fn handled(&mut self, due: Option<Instant>, now: Instant) {
        self.handled.count(&self.window, 1, due, now);
    }

    /// Records how much later than due messages were sent.
    pub(super) fn sent_late(&mut self, messages: u64, due: Instant, now: Instant) {
        if self.window.has(due) {
            self.late.record_times(now.saturating_duration_since(due), messages);
        }
    }

    /// Counts due messages that will not be sent; their latency is the time that they waited.
    pub(super) fn unsent(&mut self, messages: u64, due: Instant, now: Instant) {
        if self.window.has(due) {
            self.unsent += messages;
        }
        self.sent_late(messages, due, now);
        self.published.time(&self.window, messages, due, now);
        self.handled.time(&self.window, messages, due, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_by_completion_time_and_latencies_by_due_time() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut stats = BenchStats::new(Window { from: at(100), until: Some(at(200)) });
        stats.published(1, at(50), at(90));
        stats.published(2, at(90), at(110));
        stats.published(4, at(150), at(300));
        stats.published(8, at(250), at(260));
        assert_eq!((stats.published.total, stats.published.measured), (15, 2));
        let latency = stats.published.latency.quantiles().unwrap();
        assert!((latency.p50 - 150.0).abs() < 1.0 && (latency.max - 150.0).abs() < 1.0, "{latency}");
    }

    #[test]
    fn unsent_messages_count_for_the_latency() {
        let start = Instant::now();
        let mut stats = BenchStats::new(Window { from: start, until: None });
        stats.unsent(3, start, start + Duration::from_secs(2));
        let latency = stats.published.latency.quantiles().unwrap();
        assert!((latency.p50 - 2000.0).abs() < 3.0, "{latency}");
        assert_eq!((stats.unsent, stats.published.total), (3, 0));
    }
}

//! Counts of a run, and log lines about failures: the first of a kind at once, repetitions now and
//! then.
//!
//! Invariant, at the end of a run: sent = acknowledged + failed.

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::unpublished::Unpublished;
use crate::commands::common::latency::LatencyHistogram;
use crate::commands::common::metrics::publish_meter::PublishMeter;
use mqueue::client::PublishError;
use mqueue::plural::count;

/// Shortest time between two log lines about failures of the same kind.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A message handed over later than this after it was due counts as late.
const LATE_AFTER: Duration = Duration::from_millis(10);

/// The kind of a failure; failures are logged per kind, so that a thousand of them are not a
/// thousand lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FailureKind {
    /// Over nsqd's limit.
    TooLarge,
    /// Over `--max-record`.
    TooLong,
    /// Refused by nsqd for another reason.
    Refused,
    /// Not acknowledged in time.
    TimedOut,
    /// Given up at the second signal.
    GivenUp,
}

impl FailureKind {
    /// Returns the kind's name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "larger than nsqd takes",
            Self::TooLong => "longer than --max-record",
            Self::Refused => "refused by nsqd",
            Self::TimedOut => "not acknowledged in time",
            Self::GivenUp => "given up",
        }
    }
}

/// The counts.
#[derive(Debug, Default)]
pub(super) struct ProducerCounts {
    /// Messages to be published.
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) failures: BTreeMap<FailureKind, FailureCount>,
    /// Empty records, which are not sent.
    pub(super) skipped: u64,
    /// Inputs that could not be read to their end.
    pub(super) unreadable: u64,
    /// Messages due but never made, because the run was over.
    pub(super) unsent: u64,
    /// Bytes acknowledged.
    pub(super) bytes: u64,
    /// Bytes read.
    pub(super) bytes_read: u64,
    /// Time from when a message was due, or sent, to its acknowledgement.
    pub(super) latency: LatencyHistogram,
    /// Time from when a message was due to when it was sent.
    pub(super) lateness: LatencyHistogram,
    /// Messages sent late.
    pub(super) late: u64,
}

/// Failures of one kind.
#[derive(Debug)]
pub(super) struct FailureCount {
    pub(super) count: u64,
    logged: u64,
    logged_at: Option<Instant>,
}

/// The counts of a run, shared by senders and progress output. No borrow outlives a call.
#[derive(Debug, Default)]
pub(super) struct ProducerStats {
    counts: RefCell<ProducerCounts>,
    /// `None` if no metrics are served.
    meter: Option<Arc<PublishMeter>>,
}

impl ProducerStats {
    /// Makes counts that `meter`, if there is one, counts as well.
    pub(super) fn new(meter: Option<Arc<PublishMeter>>) -> Self {
        Self { counts: RefCell::default(), meter }
    }

    /// Returns the current counts.
    pub(super) fn counts(&self) -> Ref<'_, ProducerCounts> {
        self.counts.borrow()
    }

    /// Counts messages sent.
    pub(super) fn sent(&self, count: usize) {
        self.counts.borrow_mut().sent += count as u64;
        self.meter.iter().for_each(|meter| meter.sent(count as u64));
    }

    /// Records how long after its due time a message was sent.
    pub(super) fn sent_after(&self, lateness: Duration) {
        let mut counts = self.counts.borrow_mut();
        counts.lateness.record(lateness);
        counts.late += u64::from(lateness > LATE_AFTER);
    }

    /// Counts acknowledged messages, with their total bytes and their common latency.
    pub(super) fn acknowledged(&self, count: u64, bytes: usize, latency: Duration) {
        let mut counts = self.counts.borrow_mut();
        counts.acknowledged += count;
        counts.bytes += bytes as u64;
        counts.latency.record_times(latency, count);
        self.meter.iter().for_each(|meter| meter.published(count, latency));
    }

    /// Counts a message of `size` bytes that was not published.
    pub(super) fn failed(&self, size: usize, why: &Unpublished) {
        self.note(1, size, why);
    }

    /// Logs why a message of `size` bytes fails, before it is counted with the others of its batch.
    pub(super) fn log_early(&self, size: usize, why: &Unpublished) {
        self.note(0, size, why);
    }

    fn note(&self, count: u64, size: usize, why: &Unpublished) {
        let kind = match why {
            Unpublished::TooLarge { .. } => FailureKind::TooLarge,
            Unpublished::Failed(PublishError::Refused(_) | PublishError::Empty | PublishError::TooLarge(_)) => {
                FailureKind::Refused
            }
            Unpublished::Failed(PublishError::TimedOut { .. }) => FailureKind::TimedOut,
            Unpublished::Failed(_) => FailureKind::GivenUp,
        };
        self.count_and_log(kind, count, || match why {
            Unpublished::TooLarge { limit } => {
                let enough = size.next_power_of_two();
                format!(
                    "message of {size} bytes refused: nsqd's limit is {limit}: start nsqd with --max-msg-size={enough} \
                     (and a --max-body-size above it)"
                )
            }
            Unpublished::Failed(PublishError::Refused(error)) => {
                let deferred = error.text.starts_with(b"E_INVALID DPUB timeout");
                let hint = if deferred { " ms: --defer is more than nsqd's --max-req-timeout" } else { "" };
                format!("message of {} refused: {error}{hint}", mqueue::plural::count(size as u64, "byte"))
            }
            Unpublished::Failed(error) => format!("message of {} {error}", mqueue::plural::count(size as u64, "byte")),
        });
    }

    /// Returns the number of messages in flight.
    pub(super) fn open(&self) -> u64 {
        let counts = self.counts();
        counts.sent - counts.acknowledged - counts.failed
    }

    /// Counts all messages in flight as given up.
    pub(super) fn give_up(&self) {
        let open = self.open();
        if open > 0 {
            self.count_and_log(FailureKind::GivenUp, open, || {
                format!("{} given up, not acknowledged yet", count(open, "message"))
            });
        }
    }

    /// Counts the bytes of a read, and its records that are not published.
    pub(super) fn read(&self, bytes: u64, empty: u64, too_long: u64) {
        {
            let mut counts = self.counts.borrow_mut();
            counts.bytes_read += bytes;
            counts.skipped += empty;
            counts.sent += too_long;
        }
        self.meter.iter().for_each(|meter| meter.sent(too_long));
        if too_long > 0 {
            self.count_and_log(FailureKind::TooLong, too_long, || {
                "a message is longer than --max-record, and was passed over: is --delimiter right?".to_owned()
            });
        }
    }

    /// Counts and logs an input that could not be read to its end.
    pub(super) fn unreadable(&self, why: &str) {
        self.counts.borrow_mut().unreadable += 1;
        tracing::error!("{why}");
    }

    /// Counts due messages that were never made, because the run was over.
    pub(super) fn unsent(&self, count: u64) {
        self.counts.borrow_mut().unsent += count;
    }

    fn count_and_log(&self, kind: FailureKind, count: u64, line: impl FnOnce() -> String) {
        let mut counts = self.counts.borrow_mut();
        counts.failed += count;
        self.meter.iter().for_each(|meter| meter.failed(count));
        let failures = counts.failures.entry(kind).or_insert(FailureCount { count: 0, logged: 0, logged_at: None });
        if let Some(unlogged) = failures.add(count, Instant::now()) {
            let more = if unlogged > 1 { format!(" ({unlogged} such since the last line)") } else { String::new() };
            let more = if kind == FailureKind::GivenUp { String::new() } else { more };
            tracing::error!("{}{more}", line());
        }
    }
}

impl FailureCount {
    /// Adds failures; returns the number not logged yet, if it is time to log them.
    fn add(&mut self, count: u64, now: Instant) -> Option<u64> {
        self.count += count;
        let is_due = self.logged_at.is_none_or(|logged| now.duration_since(logged) >= MIN_LOG_INTERVAL);
        is_due.then(|| {
            self.logged_at = Some(now);
            self.count - std::mem::replace(&mut self.logged, self.count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_logged_at_once_and_later_ones_together() {
        let mut failures = FailureCount { count: 0, logged: 0, logged_at: None };
        let start = Instant::now();
        assert_eq!(failures.add(1, start), Some(1));
        assert_eq!((1..1000).find_map(|ms| failures.add(1, start + Duration::from_millis(ms))), None);
        assert_eq!(failures.add(1, start + MIN_LOG_INTERVAL), Some(1000));
        assert_eq!(failures.count, 1001);
    }

    #[test]
    fn every_sent_message_is_acknowledged_failed_or_given_up() {
        let stats = ProducerStats::default();
        stats.sent(10);
        stats.read(100, 2, 1);
        stats.acknowledged(4, 400, Duration::from_millis(1));
        stats.failed(5, &PublishError::TimedOut { after: Duration::from_secs(1), last: None }.into());
        stats.give_up();
        let counts = stats.counts();
        assert_eq!((counts.sent, counts.acknowledged, counts.failed, counts.skipped), (11, 4, 7, 2));
        assert_eq!(counts.failures[&FailureKind::GivenUp].count, 5);
    }
}

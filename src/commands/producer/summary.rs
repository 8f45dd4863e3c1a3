//! Summary at the end: three lines for people, or one JSON object.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::stats::{FailureCount, FailureKind, ProducerCounts};
use crate::commands::common::latency::Quantiles;

/// The summary of a run.
#[derive(Debug, Serialize)]
pub(super) struct ProducerSummary {
    stream: String,
    /// Id of the run in generated events; `None` for input.
    run: Option<String>,
    sent: u64,
    acknowledged: u64,
    resent: u64,
    failed: u64,
    failures: Vec<FailureSummary>,
    /// Empty records.
    skipped: u64,
    /// Inputs that could not be read to their end.
    unreadable: u64,
    /// Bytes acknowledged.
    bytes: u64,
    seconds: f64,
    messages_per_second: f64,
    megabytes_per_second: f64,
    /// Time from publish, or from when a message was due, to nsqd's OK.
    latency_ms: Option<Quantiles>,
    /// Figures of a schedule; `None` for other paces.
    schedule: Option<ScheduleSummary>,
}

#[derive(Debug, Serialize)]
struct FailureSummary {
    kind: &'static str,
    count: u64,
}

impl FailureSummary {
    fn of((kind, failures): (&FailureKind, &FailureCount)) -> Option<Self> {
        (failures.count > 0).then(|| Self { kind: kind.name(), count: failures.count })
    }
}

/// Figures on how well a schedule was kept.
#[derive(Debug, Serialize)]
struct ScheduleSummary {
    /// Time from when a message was due to when it was sent.
    lateness_ms: Option<Quantiles>,
    /// Messages sent late.
    late: u64,
    /// Messages due but not sent when the time was over.
    unsent: u64,
}

impl ProducerSummary {
    /// Makes the summary of a run that took `time`.
    pub(super) fn new(
        stream: String,
        run: Option<String>,
        counts: &ProducerCounts,
        resent: u64,
        time: Duration,
        scheduled: bool,
    ) -> Self {
        let seconds = time.as_secs_f64().max(1e-9);
        let round = |number: f64| (number * 1000.0).round() / 1000.0;
        let kept =
            || ScheduleSummary { lateness_ms: counts.lateness.quantiles(), late: counts.late, unsent: counts.unsent };
        Self {
            stream,
            run,
            sent: counts.sent,
            acknowledged: counts.acknowledged,
            resent,
            failed: counts.failed,
            failures: counts.failures.iter().filter_map(FailureSummary::of).collect(),
            skipped: counts.skipped,
            unreadable: counts.unreadable,
            bytes: counts.bytes,
            seconds: round(seconds),
            messages_per_second: round(counts.acknowledged as f64 / seconds),
            megabytes_per_second: round(counts.bytes as f64 / 1e6 / seconds),
            latency_ms: counts.latency.quantiles(),
            schedule: scheduled.then(kept),
        }
    }

    /// Returns true if all messages were published and all inputs read.
    pub(super) fn is_success(&self) -> bool {
        self.failed == 0 && self.unreadable == 0
    }
}

impl fmt::Display for ProducerSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, acknowledged, resent, failed, skipped, .. } = self;
        write!(f, "{sent} sent, {acknowledged} acknowledged, {resent} resent, {failed} failed")?;
        if *skipped > 0 {
            write!(f, ", {skipped} empty skipped")?;
        }
        for FailureSummary { kind, count } in &self.failures {
            write!(f, "\nfailed: {count} {kind}")?;
        }
        let Self { seconds, messages_per_second, megabytes_per_second, .. } = self;
        write!(f, "\n{seconds:.2} s, {messages_per_second:.0} messages/s, {megabytes_per_second:.2} MB/s")?;
        if let Some(latency) = &self.latency_ms {
            write!(f, "\npublish→OK {latency}")?;
        }
        if let Some(ScheduleSummary { lateness_ms, late, unsent }) = &self.schedule {
            if let Some(lateness) = lateness_ms {
                write!(f, "\nlateness   {lateness}; {late} sent more than 10 ms late")?;
            }
            if *unsent > 0 {
                write!(f, "\n{unsent} were due and not sent when the time was over")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_have_the_same_figures() {
        let mut counts = ProducerCounts {
            sent: 3,
            acknowledged: 2,
            failed: 1,
            skipped: 4,
            bytes: 1_000_000,
            ..ProducerCounts::default()
        };
        counts.latency.record_times(Duration::from_millis(2), 2);
        let summary = ProducerSummary::new("foo".to_owned(), None, &counts, 0, Duration::from_secs(2), false);
        let text = summary.to_string();
        assert!(text.starts_with("3 sent, 2 acknowledged, 0 resent, 1 failed, 4 empty skipped\n"), "{text}");
        assert!(text.contains("2.00 s, 1 messages/s, 0.50 MB/s\npublish→OK p50 2.0 ms"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&summary).unwrap()).unwrap();
        assert_eq!((&json["acknowledged"], &json["megabytes_per_second"]), (&2.into(), &0.5.into()));
        assert!(!summary.is_success());
    }
}

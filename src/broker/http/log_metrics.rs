//! Metrics of the log's disk: what is not synced, how long syncs take, and refused publishes.

use std::fmt::Write;

use super::metrics::head;
use crate::broker::log::LogUsage;
use crate::duration_histogram::DurationCounts;

/// Writes the metrics. Those of syncs are left out where the log is never synced.
pub(super) fn write(out: &mut String, usage: &LogUsage, syncs: Option<&DurationCounts>, refused: u64) {
    head(out, "publishes_refused_total", "counter", "Publishes refused because the log or the memory is full or fails");
    let _ = writeln!(out, "mqueue_broker_publishes_refused_total {refused}");
    if let Some(bytes) = usage.unsynced_bytes {
        head(out, "log_unsynced_bytes", "gauge", "Bytes written to the log that are not yet synced to the disk");
        let _ = writeln!(out, "mqueue_broker_log_unsynced_bytes {bytes}");
    }
    if let Some(syncs) = syncs {
        head(out, "log_sync_seconds", "histogram", "Time of a sync of the log to the disk");
        write_histogram(out, "mqueue_broker_log_sync_seconds", syncs);
    }
}

fn write_histogram(out: &mut String, name: &str, times: &DurationCounts) {
    let mut cumulative = 0;
    for (bound, count) in &times.buckets {
        cumulative += count;
        let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
        let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {cumulative}");
    }
    let _ = writeln!(out, "{name}_sum {}\n{name}_count {cumulative}", times.seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_a_log_without_syncs_has_none() {
        let times = DurationCounts { buckets: vec![(0.001, 2), (0.5, 0), (f64::INFINITY, 1)], seconds: 1.25 };
        let mut out = String::new();
        write(&mut out, &LogUsage { unsynced_bytes: Some(7), ..LogUsage::default() }, Some(&times), 3);
        for line in [
            "mqueue_broker_publishes_refused_total 3",
            "mqueue_broker_log_unsynced_bytes 7",
            "mqueue_broker_log_sync_seconds_bucket{le=\"0.001\"} 2",
            "mqueue_broker_log_sync_seconds_bucket{le=\"0.5\"} 2",
            "mqueue_broker_log_sync_seconds_bucket{le=\"+Inf\"} 3",
            "mqueue_broker_log_sync_seconds_sum 1.25",
            "mqueue_broker_log_sync_seconds_count 3",
        ] {
            assert!(out.lines().any(|written| written == line), "no {line} in:\n{out}");
        }
        let mut out = String::new();
        write(&mut out, &LogUsage::default(), None, 0);
        assert!(!out.contains("sync"), "{out}");
    }
}

//! Counts of the producer's events: lost ones and duplicates.

use std::collections::HashMap;

use nix::sys::signal::Signal;

use super::{Mqueue, Nsqd};

/// The number of times that each event, named by task and sequence number, was seen.
#[derive(Debug, Default)]
pub struct Sequences {
    seen: HashMap<(u64, u64), u64>,
}

impl Sequences {
    /// Adds a consumer's output: `--output body` or json, one event a line. A line cut off by a
    /// kill is left out.
    pub fn read(&mut self, lines: &str) {
        for line in lines.lines() {
            let Ok(mut event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            if let Some(body) = event.get("body").and_then(|body| body.as_str()) {
                event = serde_json::from_str(body).expect("the producer's events are JSON");
            }
            let number = |field: &str| event[field].as_u64().expect("the producer's events have task and seq");
            *self.seen.entry((number("task"), number("seq"))).or_default() += 1;
        }
    }

    /// Returns the number of distinct events.
    pub fn distinct(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Returns the number of duplicates.
    pub fn duplicates(&self) -> u64 {
        self.seen.values().map(|times| times - 1).sum()
    }
}

/// The outcome of events that were published and consumed while their broker ended and started.
pub struct EventsOutcome {
    pub handled: u64,
    pub twice: u64,
    pub resent: u64,
}

impl EventsOutcome {
    /// Waits for the end of a producer that reports JSON, and until group 1 of foo is empty; then
    /// ends its consumer, which prints bodies. Fails unless `count` events were acknowledged.
    pub fn of(producer: Mqueue, consumer: Mqueue, broker: &Nsqd, count: u64, about: &str) -> Self {
        let report = producer.finish();
        assert_eq!(report.code, Some(0), "{about}: {}", report.stderr);
        let report: serde_json::Value = serde_json::from_str(&report.stdout).expect("JSON");
        assert_eq!(report["acknowledged"], count, "{about}: {report}");
        broker.wait_for_empty("foo", "1");
        consumer.signal(Signal::SIGTERM);
        let last = consumer.finish();
        assert_eq!(last.code, Some(0), "{about}: {}", last.stderr);
        let mut seen = Sequences::default();
        seen.read(&last.stdout);
        let resent = report["resent"].as_u64().expect("a number");
        Self { handled: seen.distinct(), twice: seen.duplicates(), resent }
    }
}

//! Counts of the producer's events: lost ones and duplicates.

use std::collections::HashMap;

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

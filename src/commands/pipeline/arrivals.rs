//! Account of the messages that arrived at the end, by id.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::commands::common::latency::LatencyHistogram;
use mqueue::handler::{Handler, Verdict};
use mqueue::proto::Message;

/// The account of a run. Ids count from 1 up to the number of messages.
#[derive(Debug)]
pub(super) struct Arrivals {
    seen: Vec<bool>,
    /// Number of distinct messages that arrived.
    pub(super) received: u64,
    /// Arrivals of messages that had arrived before.
    pub(super) duplicates: u64,
    /// Arrivals of messages that do not belong to this run.
    pub(super) foreign: u64,
    /// Time from when a message was due at the sender to its arrival here.
    pub(super) latency: LatencyHistogram,
    pub(super) recent: LatencyHistogram,
    begun: Instant,
    last: Instant,
}

#[derive(Deserialize)]
struct ArrivedMessage<'a> {
    id: u64,
    /// Due time in nanoseconds since 1970.
    tag: &'a str,
}

impl Arrivals {
    /// Makes an account for `count` messages.
    pub(super) fn new(count: u64) -> Self {
        let now = Instant::now();
        Self {
            seen: vec![false; usize::try_from(count).unwrap_or(usize::MAX)],
            received: 0,
            duplicates: 0,
            foreign: 0,
            latency: LatencyHistogram::new(),
            recent: LatencyHistogram::new(),
            begun: now,
            last: now,
        }
    }

    /// Returns how many of the first `sent` messages have not arrived.
    pub(super) fn lost(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.received)
    }

    /// Returns the time since the last arrival.
    pub(super) fn since_last(&self) -> Duration {
        self.last.elapsed()
    }

    /// Returns the time from the first arrival to the last.
    pub(super) fn time(&self) -> Duration {
        self.last.saturating_duration_since(self.begun)
    }

    fn record(&mut self, body: &[u8], now: Duration) {
        let arrived = serde_json::from_slice::<ArrivedMessage<'_>>(body).ok();
        let Some((seen, due)) = arrived.and_then(|ArrivedMessage { id, tag }| {
            let seen = self.seen.get_mut(usize::try_from(id.checked_sub(1)?).ok()?)?;
            Some((seen, Duration::from_nanos(tag.parse().ok()?)))
        }) else {
            self.foreign += 1;
            return;
        };
        if std::mem::replace(seen, true) {
            self.duplicates += 1;
            return;
        }
        self.last = Instant::now();
        if self.received == 0 {
            self.begun = self.last;
        }
        self.received += 1;
        let took = now.saturating_sub(due);
        self.latency.record(took);
        self.recent.record(took);
    }
}

/// The handler that records arrivals.
#[derive(Debug)]
pub(super) struct FinalHandler(pub(super) Arc<Mutex<Arrivals>>);

impl Handler for FinalHandler {
    async fn handle(&self, message: Message) -> Verdict {
        let mut verdicts = self.handle_batch(vec![message]).await;
        verdicts.pop().expect("one verdict a message")
    }

    fn batch_size(&self) -> usize {
        1000
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut arrivals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        messages.iter().for_each(|message| arrivals.record(&message.body, now));
        vec![Verdict::Done(None); messages.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_counted_once() {
        let mut arrivals = Arrivals::new(3);
        for body in [
            r#"{"id":1,"tag":"1000"}"#,
            r#"{"id":3,"tag":"1000"}"#,
            r#"{"id":3,"tag":"1000"}"#,
            r#"{"id":4,"tag":"1000"}"#,
            r#"{"id":0,"tag":"1000"}"#,
            "junk",
        ] {
            arrivals.record(body.as_bytes(), Duration::from_nanos(3000));
        }
        assert_eq!((arrivals.received, arrivals.duplicates, arrivals.foreign), (2, 1, 3));
        assert_eq!((arrivals.lost(3), arrivals.lost(1)), (1, 0));
    }
}

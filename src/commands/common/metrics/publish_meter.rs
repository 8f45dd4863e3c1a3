//! Metrics of publishing: the same names in producer, ingest and node.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::registry::Registry;

use super::Metrics;
use super::families::{self, FamilyWriter, Labels};
use super::status_server::StatusPages;
use mqueue::client::Publisher;
use mqueue::duration_histogram::DurationHistogram;
use mqueue::proto::TopicName;

/// Upper bounds of the time from publishing to OK, by default limited to 30 s.
static BOUNDS: [Duration; 13] = [
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// Counts and times of messages published to one stream. Each call counts a batch.
#[derive(Debug)]
pub(crate) struct PublishMeter {
    labels: Labels,
    sent: AtomicU64,
    published: AtomicU64,
    failed: AtomicU64,
    times: DurationHistogram,
    /// Set once it is connected.
    publisher: OnceLock<Publisher>,
}

impl PublishMeter {
    pub(crate) fn new(stream: &TopicName) -> Arc<Self> {
        Arc::new(Self {
            labels: vec![("stream", stream.to_string())],
            sent: AtomicU64::new(0),
            published: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            times: DurationHistogram::new(&BOUNDS),
            publisher: OnceLock::new(),
        })
    }

    /// Counts messages that are sent, each of which is published or fails later.
    pub(crate) fn sent(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts messages that nsqd has acknowledged, and their common time.
    pub(crate) fn published(&self, count: u64, took: Duration) {
        if count > 0 {
            self.published.fetch_add(count, Ordering::Relaxed);
            self.times.record_times(took, count);
        }
    }

    /// Counts messages that were not published.
    pub(crate) fn failed(&self, count: u64) {
        self.failed.fetch_add(count, Ordering::Relaxed);
    }

    /// Sets the publisher, whose connections count.
    pub(crate) fn follow(&self, publisher: Publisher) {
        // set once by each command
        let _ = self.publisher.set(publisher);
    }

    /// Returns the pages of a command that publishes to this one stream; `more` adds metrics of its
    /// own.
    pub(crate) fn pages(self: &Arc<Self>, more: impl FnOnce(&mut Registry)) -> StatusPages {
        let (shown, checked) = (self.clone(), self.clone());
        let metrics = Metrics::new(|registry| {
            families::register(registry, move |writer| shown.write(writer));
            more(registry);
        });
        StatusPages::new(metrics, move || checked.health())
    }

    /// Returns why nothing can be published; `Ok` if an nsqd is connected.
    fn health(&self) -> Result<(), String> {
        match self.publisher.get().map(Publisher::connected) {
            None => Err("not connected yet".to_owned()),
            Some(0) => Err("no connection to nsqd".to_owned()),
            Some(_) => Ok(()),
        }
    }

    fn write(&self, writer: &mut FamilyWriter<'_>) -> fmt::Result {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (labels, published, failed) = (&self.labels, of(&self.published), of(&self.failed));
        let unacknowledged = of(&self.sent).saturating_sub(published + failed);
        let connections = self.publisher.get().map_or(0, Publisher::connected);
        write_published(writer, labels, published)?;
        writer.counters("publish_failures", "Messages that were not published", [(labels, failed)])?;
        let resent = self.publisher.get().map_or(0, |publisher| publisher.counts().resent);
        let help = "Messages sent again, because a connection was lost before the answer";
        writer.counters("messages_resent", help, [(labels, resent)])?;
        let help = "Messages sent and not yet acknowledged";
        writer.gauges("messages_unacknowledged", help, [(labels, unacknowledged as f64)])?;
        let help = "Time from sending a message, or from when it was due, to its OK";
        writer.histograms("publish_seconds", help, [(labels, self.times.counts())])?;
        writer.gauges("connections", "Connections", [(labels, connections as f64)])
    }
}

/// Writes the counts of messages published to a stream.
pub(crate) fn write_published(writer: &mut FamilyWriter<'_>, labels: &Labels, published: u64) -> fmt::Result {
    writer.counters("messages_published", "Messages that nsqd has acknowledged", [(labels, published)])
}

//! Metrics of the messages of groups: the same names in consumer, stage, node, gateway and worker.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;

use super::Metrics;
use super::families::{self, FamilyWriter, Labels};
use super::status_server::StatusPages;
use mqueue::client::Control;
use mqueue::duration_histogram::DurationCounts;
use mqueue::handler::Handler;
use mqueue::proto::{ChannelName, TopicName};
use mqueue::worker::{WorkMeter, Worker, WorkerStats};

/// A group's meter, and its current consumer.
#[derive(Debug)]
pub(crate) struct GroupMeter {
    labels: Labels,
    pub(crate) work: Arc<WorkMeter>,
    control: Mutex<Option<Control>>,
}

/// The figures of a group at one moment.
pub(crate) struct GroupFigures {
    pub(crate) labels: Labels,
    pub(crate) work: Arc<WorkMeter>,
    /// The counts, all of one moment.
    pub(crate) stats: WorkerStats,
    /// False for a group that was closed: it has counts, and no connections to miss.
    pub(crate) is_open: bool,
    pub(crate) in_flight: u64,
    pub(crate) connections: usize,
    /// The age of the oldest message in hand; zero if there is none.
    pub(crate) oldest: Duration,
}

impl GroupFigures {
    /// Adds connections besides those of the consumer.
    pub(crate) fn with_connections(self, more: usize) -> Self {
        Self { connections: self.connections + more, ..self }
    }
}

impl GroupMeter {
    /// Makes a meter of a group without a consumer.
    pub(crate) fn new(stream: &TopicName, group: &ChannelName) -> Arc<Self> {
        Arc::new(Self { labels: labels(stream, group), work: Arc::default(), control: Mutex::default() })
    }

    /// Sets the current consumer.
    fn follow(&self, control: Control) {
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
    }

    /// Returns why no message can arrive; `Ok` if a connection is subscribed.
    pub(crate) fn health(&self) -> Result<(), String> {
        match self.connections_and_in_flight() {
            None => Err("not subscribed yet".to_owned()),
            Some((0, _)) => Err("no connection to nsqd".to_owned()),
            Some(_) => Ok(()),
        }
    }

    /// Returns the pages of a command that has this one group.
    pub(crate) fn pages(self: &Arc<Self>) -> StatusPages {
        let (shown, checked) = (self.clone(), self.clone());
        StatusPages::new(Metrics::new(|registry| register(registry, move || vec![shown.figures()])), move || {
            checked.health()
        })
    }

    /// Returns the current figures.
    pub(crate) fn figures(&self) -> GroupFigures {
        let (connections, in_flight) = self.connections_and_in_flight().unwrap_or_default();
        let oldest = self.work.oldest().unwrap_or_default();
        let (labels, work, stats) = (self.labels.clone(), self.work.clone(), self.work.stats());
        GroupFigures { labels, work, stats, is_open: true, in_flight, connections, oldest }
    }

    fn connections_and_in_flight(&self) -> Option<(usize, u64)> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let health = control.as_ref()?.health();
        Some((health.connected, health.in_flight.into()))
    }
}

/// Lets `meter`, if there is one, measure a worker, whose consumer has this control.
pub(crate) fn measured<H: Handler>(worker: Worker<H>, control: Control, meter: Option<&GroupMeter>) -> Worker<H> {
    match meter {
        Some(meter) => {
            meter.follow(control);
            worker.with_meter(meter.work.clone())
        }
        None => worker,
    }
}

/// Returns the labels of a group.
pub(crate) fn labels(stream: &TopicName, group: &ChannelName) -> Labels {
    vec![("stream", stream.to_string()), ("group", group.to_string())]
}

/// Registers the metrics of groups.
pub(crate) fn register(registry: &mut Registry, groups: impl Fn() -> Vec<GroupFigures> + Send + Sync + 'static) {
    families::register(registry, move |writer| write(writer, &groups()));
}

type Count = fn(&GroupFigures) -> u64;
type Level = fn(&GroupFigures) -> f64;
type Times = fn(&GroupFigures) -> DurationCounts;

const COUNTERS: [(&str, &str, Count); 6] = [
    ("messages_handled", "Messages handled successfully", |group| group.stats.done),
    ("messages_failed", "Tries without success: those of retried messages and of dead letters", |group| {
        group.stats.retried + group.stats.dead
    }),
    ("messages_retried", "Messages requeued to be tried again", |group| group.stats.retried),
    ("messages_dead", "Messages that became dead letters", |group| group.stats.dead),
    ("messages_given_back", "Messages requeued without a try", |group| group.stats.released),
    ("messages_redelivered", "Messages received that had been delivered before", |group| group.work.redelivered()),
];

const GAUGES: [(&str, &str, Level); 3] = [
    ("messages_in_flight", "Messages in flight", |group| group.in_flight as f64),
    ("connections", "Connections", |group| group.connections as f64),
    ("oldest_age_seconds", "Time since the oldest message in hand was published; 0 without one", |group| {
        group.oldest.as_secs_f64()
    }),
];

const HISTOGRAMS: [(&str, &str, Times); 2] = [
    ("handler_seconds", "Time of a run of the handler", |group| group.work.handler_times()),
    ("end_to_end_seconds", "Time from publishing a message to its FIN, of messages handled successfully", |group| {
        group.work.end_to_end_times()
    }),
];

fn write(writer: &mut FamilyWriter<'_>, groups: &[GroupFigures]) -> fmt::Result {
    for (name, help, count) in COUNTERS {
        writer.counters(name, help, groups.iter().map(|group| (&group.labels, count(group))))?;
    }
    for (name, help, level) in GAUGES {
        let open = groups.iter().filter(|group| group.is_open);
        writer.gauges(name, help, open.map(|group| (&group.labels, level(group))))?;
    }
    for (name, help, times) in HISTOGRAMS {
        writer.histograms(name, help, groups.iter().map(|group| (&group.labels, times(group))))?;
    }
    Ok(())
}

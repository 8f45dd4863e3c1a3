//! `/metrics`: the statistics for Prometheus.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;

use super::response::text;
use super::{HttpApi, log_metrics};
use crate::broker::memory::resident_bytes;
use crate::broker::state::StatsSelection;
use crate::proto::List;
use crate::proto::stats::{ChannelStats, Latency, TopicStats};

type TopicValue = fn(&TopicStats) -> i128;
type ChannelValue = fn(&ChannelStats) -> i128;

const TOPICS: [(&str, &str, &str, TopicValue); 4] = [
    ("topic_depth", "gauge", "Messages held by the topic", |t| t.depth.into()),
    ("topic_messages_total", "counter", "Messages published", |t| t.message_count.into()),
    ("topic_bytes_total", "counter", "Bytes of the published messages' bodies", |t| t.message_bytes.into()),
    ("topic_paused", "gauge", "1 if the topic is paused", |t| t.paused.into()),
];

const CHANNELS: [(&str, &str, &str, ChannelValue); 8] = [
    ("channel_depth", "gauge", "Queued messages", |c| c.depth.into()),
    ("channel_in_flight", "gauge", "Messages in flight", |c| c.in_flight_count.into()),
    ("channel_deferred", "gauge", "Deferred messages", |c| c.deferred_count.into()),
    ("channel_clients", "gauge", "Consumers", |c| c.client_count.into()),
    ("channel_messages_total", "counter", "Messages received", |c| c.message_count.into()),
    ("channel_requeued_total", "counter", "Messages requeued by consumers", |c| c.requeue_count.into()),
    ("channel_timeouts_total", "counter", "Messages that timed out", |c| c.timeout_count.into()),
    ("channel_paused", "gauge", "1 if the channel is paused", |c| c.paused.into()),
];

pub(super) async fn metrics(State(api): State<Arc<HttpApi>>) -> Response {
    let now = api.broker.now();
    let look = |state: &crate::broker::state::BrokerState| {
        let topics = state.topic_stats(&StatsSelection::default(), now);
        (topics, state.log_usage(), state.index_memory(), state.sync_times())
    };
    let (topics, usage, index, syncs) = api.broker.with_state(look);
    let mut out = String::new();
    let version = env!("CARGO_PKG_VERSION");
    let healthy = i128::from(api.broker.health() == "OK");
    let mut one = |name, help, labels: &str, value: i128| {
        head(&mut out, name, "gauge", help);
        let _ = writeln!(out, "mqueue_broker_{name}{labels} {value}");
    };
    one("info", "Version of the program", &format!("{{version=\"{version}\"}}"), 1);
    one("healthy", "1 if publishing works", "", healthy);
    one("resident_bytes", "Resident memory of the process", "", resident_bytes().into());
    let index = i128::try_from(index).unwrap_or(i128::MAX);
    one("index_bytes", "Approximate memory of messages besides their bodies", "", index);
    one("log_bytes", "Size of the log in bytes", "", usage.bytes.into());
    one("log_live_bytes", "Bytes of the log that live messages need", "", usage.live_bytes.into());
    one("log_segments", "Segments of the log", "", usage.segments.into());
    one(
        "log_reserve_bytes",
        "Bytes of disk space reserved for finishing and deleting messages",
        "",
        usage.reserve_bytes.into(),
    );
    one("disk_bytes", "Size of the disk of the log in bytes; 0 without a log", "", usage.disk.bytes.into());
    one("disk_free_bytes", "Free bytes on the disk of the log", "", usage.disk.free_bytes.into());
    let step = api.broker.longest_compaction_step().as_secs_f64();
    head(&mut out, "compaction_step_max_seconds", "gauge", "Longest time that a step of compaction held the lock");
    let _ = writeln!(out, "mqueue_broker_compaction_step_max_seconds {step}");
    log_metrics::write(&mut out, &usage, syncs.as_ref(), api.broker.refused_publishes());
    for (name, kind, help, value) in TOPICS {
        head(&mut out, name, kind, help);
        for topic in &topics {
            let _ = writeln!(out, "mqueue_broker_{name}{{topic=\"{}\"}} {}", topic.topic_name, value(topic));
        }
    }
    for (name, kind, help, value) in CHANNELS {
        head(&mut out, name, kind, help);
        for (topic, channel) in topics.iter().flat_map(|topic| topic.channels.iter().map(move |c| (topic, c))) {
            let (topic, name_of) = (&topic.topic_name, &channel.channel_name);
            let _ = writeln!(out, "mqueue_broker_{name}{{topic=\"{topic}\",channel=\"{name_of}\"}} {}", value(channel));
        }
    }
    write_ages(&mut out, &topics);
    write_latencies(&mut out, &topics);
    text(out)
}

/// Ages of the oldest messages, in seconds; 0 where there are none.
fn write_ages(out: &mut String, topics: &List<TopicStats>) {
    let seconds = |oldest_ms: Option<u64>| Duration::from_millis(oldest_ms.unwrap_or(0)).as_secs_f64();
    head(out, "topic_oldest_age_seconds", "gauge", "Age of the oldest message held by the topic");
    for TopicStats { topic_name, oldest_ms, .. } in topics {
        let age = seconds(*oldest_ms);
        let _ = writeln!(out, "mqueue_broker_topic_oldest_age_seconds{{topic=\"{topic_name}\"}} {age}");
    }
    head(
        out,
        "channel_oldest_age_seconds",
        "gauge",
        "Age of the oldest message: in flight, deferred or next in the queue",
    );
    for (topic, channel) in topics.iter().flat_map(|topic| topic.channels.iter().map(move |c| (topic, c))) {
        let labels = format!("topic=\"{}\",channel=\"{}\"", topic.topic_name, channel.channel_name);
        let age = seconds(channel.oldest_ms);
        let _ = writeln!(out, "mqueue_broker_channel_oldest_age_seconds{{{labels}}} {age}");
    }
}

/// Quantiles of latencies, if they are measured.
fn write_latencies(out: &mut String, topics: &List<TopicStats>) {
    if topics.iter().all(|topic| topic.e2e_processing_latency.percentiles.is_empty()) {
        return;
    }
    let write = |out: &mut String, name: &str, labels: &str, latency: &Latency| {
        for quantile in &latency.percentiles {
            let (quantile, seconds) = (quantile.quantile, quantile.value / 1e9);
            let _ = writeln!(out, "mqueue_broker_{name}{{{labels},quantile=\"{quantile}\"}} {seconds}");
        }
    };
    let help = "Time from publishing to FIN, over --e2e-processing-latency-window-time";
    head(out, "topic_e2e_latency_seconds", "summary", help);
    for topic in topics {
        let labels = format!("topic=\"{}\"", topic.topic_name);
        write(out, "topic_e2e_latency_seconds", &labels, &topic.e2e_processing_latency);
    }
    head(out, "channel_e2e_latency_seconds", "summary", help);
    for (topic, channel) in topics.iter().flat_map(|topic| topic.channels.iter().map(move |c| (topic, c))) {
        let labels = format!("topic=\"{}\",channel=\"{}\"", topic.topic_name, channel.channel_name);
        write(out, "channel_e2e_latency_seconds", &labels, &channel.e2e_processing_latency);
    }
}

pub(super) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP mqueue_broker_{name} {help}\n# TYPE mqueue_broker_{name} {kind}");
}

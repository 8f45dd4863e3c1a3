//! `/stats`, as JSON and as text.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::Api;
use super::answer::{self, text};
use super::query::Query;
use crate::broker::VERSION;
use crate::broker::state::StatsOf;
use crate::proto::stats::{ChannelStats, ClientStats, Stats, TopicStats};

pub(super) async fn stats(State(api): State<Arc<Api>>, query: Query) -> Response {
    let given = |name| query.get(name).filter(|value: &&str| !value.is_empty());
    let of = StatsOf {
        topic: given("topic"),
        channel: given("channel"),
        clients: query.flag("include_clients").unwrap_or(true),
    };
    let (topics, producers) = api.broker.look(|state| (state.topic_stats(&of), state.producer_stats(&of)));
    let stats = Stats {
        version: VERSION.to_owned(),
        health: api.broker.health(),
        start_time: api.identity.start_time(),
        topics,
        memory: query.flag("include_mem").unwrap_or(true).then(memory),
        producers,
    };
    match query.get("format") {
        Some("json") => answer::json(&stats),
        _ => text(as_text(&stats, api.identity.started.elapsed().unwrap_or_default())),
    }
}

/// nsqd's figures of Go's heap. There is no collector here: the memory in use stands for the heap, and the rest is nothing.
fn memory() -> serde_json::Value {
    json!({
        "heap_objects": 0,
        "heap_idle_bytes": 0,
        "heap_in_use_bytes": resident_bytes(),
        "heap_released_bytes": 0,
        "gc_pause_usec_100": 0,
        "gc_pause_usec_99": 0,
        "gc_pause_usec_95": 0,
        "next_gc_bytes": 0,
        "gc_total_runs": 0,
    })
}

/// What the process has in memory, by the kernel's count.
pub(super) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The text that people read (`printStats`).
fn as_text(stats: &Stats, uptime: Duration) -> String {
    let mut out = String::new();
    write_text(&mut out, stats, uptime).expect("a String takes all that is written");
    out
}

fn write_text(out: &mut String, stats: &Stats, uptime: Duration) -> std::fmt::Result {
    let start = std::time::UNIX_EPOCH + Duration::from_secs(stats.start_time.unsigned_abs());
    writeln!(out, "nsqd v{VERSION} (mqueue v{})", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "start_time {}", humantime::format_rfc3339_seconds(start))?;
    writeln!(out, "uptime {}", humantime::format_duration(uptime))?;
    writeln!(out, "\nHealth: {}", stats.health)?;
    if let Some(memory) = stats.memory.as_ref().and_then(|memory| memory.as_object()) {
        writeln!(out, "\nMemory:")?;
        for (name, value) in memory {
            writeln!(out, "   {name:<25}\t{value}")?;
        }
    }
    match stats.topics.is_empty() {
        true => writeln!(out, "\nTopics: None")?,
        false => write!(out, "\nTopics:")?,
    }
    for topic in &stats.topics {
        write_topic(out, topic)?;
    }
    match stats.producers.is_empty() {
        true => writeln!(out, "\nProducers: None")?,
        false => writeln!(out, "\nProducers:")?,
    }
    for producer in &stats.producers {
        write!(out, "   ")?;
        write_client(out, producer)?;
    }
    Ok(())
}

fn write_topic(out: &mut String, topic: &TopicStats) -> std::fmt::Result {
    let pause = if topic.paused { "*P " } else { "   " };
    let TopicStats { topic_name, depth, backend_depth, message_count, .. } = topic;
    writeln!(
        out,
        "\n{pause}[{topic_name:<15}] depth: {depth:<5} be-depth: {backend_depth:<5} msgs: {message_count:<8} e2e%: "
    )?;
    for channel in &topic.channels {
        let ChannelStats { channel_name, depth, backend_depth, in_flight_count, deferred_count, .. } = channel;
        let ChannelStats { requeue_count, timeout_count, message_count, .. } = channel;
        let pause = if channel.paused { "   *P " } else { "      " };
        write!(out, "{pause}[{channel_name:<25}] depth: {depth:<5} be-depth: {backend_depth:<5} ")?;
        write!(out, "inflt: {in_flight_count:<4} def: {deferred_count:<4} re-q: {requeue_count:<5} ")?;
        writeln!(out, "timeout: {timeout_count:<5} msgs: {message_count:<8} e2e%: ")?;
        for client in &channel.clients {
            write!(out, "        ")?;
            write_client(out, client)?;
        }
    }
    Ok(())
}

fn write_client(out: &mut String, client: &ClientStats) -> std::fmt::Result {
    let port = client.remote_address.rsplit_once(':').map_or("", |(_, port)| port);
    let name = format!("{}:{port} {}", client.hostname, client.user_agent);
    let connected = std::time::UNIX_EPOCH + Duration::from_secs(client.connect_ts.unsigned_abs());
    let connected = Duration::from_secs(connected.elapsed().unwrap_or_default().as_secs());
    let connected = humantime::format_duration(connected);
    if client.pub_counts.is_empty() {
        let ClientStats { state, in_flight_count, ready_count, finish_count, requeue_count, message_count, .. } =
            client;
        write!(out, "[V2 {name:<21}] state: {state} inflt: {in_flight_count:<4} rdy: {ready_count:<4} ")?;
        write!(out, "fin: {finish_count:<8} re-q: {requeue_count:<8} msgs: {message_count:<8} ")?;
    } else {
        let total: u64 = client.pub_counts.iter().map(|published| published.count).sum();
        let topics: Vec<_> = client.pub_counts.iter().map(|p| format!("{}={}", p.topic, p.count)).collect();
        write!(out, "[V2 {name:<21}] msgs: {total:<8} topics: {} ", topics.join(","))?;
    }
    writeln!(out, "connected: {connected}")
}

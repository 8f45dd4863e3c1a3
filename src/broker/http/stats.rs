//! `/stats`, as JSON and as text.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;

use super::HttpApi;
use super::query::RequestQuery;
use super::response::{self, text};
use crate::broker::VERSION;
use crate::broker::log::LogUsage;
use crate::broker::memory::resident_bytes;
use crate::broker::state::StatsSelection;
use crate::proto::stats::{ChannelStats, ClientStats, GoMemory, Latency, LogStats, Stats, TopicStats};

pub(super) async fn stats(State(api): State<Arc<HttpApi>>, query: RequestQuery) -> Response {
    let given = |name| query.get(name).filter(|value: &&str| !value.is_empty());
    let of = StatsSelection {
        topic: given("topic"),
        channel: given("channel"),
        clients: query.flag("include_clients").unwrap_or(true),
    };
    let now = api.broker.now();
    let look = |state: &crate::broker::state::BrokerState| {
        (
            state.topic_stats(&of, now),
            state.producer_stats(&of),
            state.log_usage(),
            state.index_memory(),
            state.max_index_memory(),
        )
    };
    let (topics, producers, usage, index, max_index) = api.broker.with_state(look);
    let stats = Stats {
        version: VERSION.to_owned(),
        health: api.broker.health(),
        start_time: api.identity.start_time(),
        topics,
        memory: query.flag("include_mem").unwrap_or(true).then(memory),
        producers,
        log: (usage.segments > 0).then(|| log(usage)),
        index_bytes: Some(u64::try_from(index).unwrap_or(u64::MAX)),
        max_index_bytes: (max_index < usize::MAX).then(|| u64::try_from(max_index).unwrap_or(u64::MAX)),
    };
    match query.get("format") {
        Some("json") => response::json(&stats),
        _ => text(as_text(&stats, api.identity.started.elapsed().unwrap_or_default())),
    }
}

/// nsqd's memory statistics, which describe Go's heap. There is no garbage collector here: resident
/// memory stands for the heap in use, and the rest is 0.
fn memory() -> GoMemory {
    GoMemory { heap_in_use_bytes: resident_bytes(), ..GoMemory::default() }
}

fn log(usage: LogUsage) -> LogStats {
    let LogUsage { bytes, live_bytes, segments, reserve_bytes, disk, .. } = usage;
    let [disk_bytes, disk_free_bytes] = [disk.bytes, disk.free_bytes].map(|size| (disk.bytes > 0).then_some(size));
    LogStats { bytes, live_bytes, segments, reserve_bytes, disk_bytes, disk_free_bytes }
}

/// The text format (`printStats`).
fn as_text(stats: &Stats, uptime: Duration) -> String {
    let mut out = String::new();
    write_text(&mut out, stats, uptime).expect("a String takes all that is written");
    out
}

fn write_text(out: &mut String, stats: &Stats, uptime: Duration) -> std::fmt::Result {
    let start = std::time::UNIX_EPOCH + Duration::from_secs(stats.start_time.unsigned_abs());
    writeln!(out, "nsqd v{VERSION} (mqueue v{})", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "start_time {}", humantime::format_rfc3339_seconds(start))?;
    writeln!(out, "uptime {}", go_duration(uptime))?;
    writeln!(out, "\nHealth: {}", stats.health)?;
    if let Some(memory) = &stats.memory {
        write_memory(out, memory)?;
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

fn write_memory(out: &mut String, memory: &GoMemory) -> std::fmt::Result {
    writeln!(out, "\nMemory:")?;
    for (name, value) in [
        ("heap_objects", memory.heap_objects),
        ("heap_idle_bytes", memory.heap_idle_bytes),
        ("heap_in_use_bytes", memory.heap_in_use_bytes),
        ("heap_released_bytes", memory.heap_released_bytes),
        ("gc_pause_usec_100", memory.gc_pause_usec_100),
        ("gc_pause_usec_99", memory.gc_pause_usec_99),
        ("gc_pause_usec_95", memory.gc_pause_usec_95),
        ("next_gc_bytes", memory.next_gc_bytes),
        ("gc_total_runs", memory.gc_total_runs),
    ] {
        writeln!(out, "   {name:<25}\t{value}")?;
    }
    Ok(())
}

fn write_topic(out: &mut String, topic: &TopicStats) -> std::fmt::Result {
    let pause = if topic.paused { "*P " } else { "   " };
    let TopicStats { topic_name, depth, backend_depth, message_count, .. } = topic;
    writeln!(
        out,
        "\n{pause}[{topic_name:<15}] depth: {depth:<5} be-depth: {backend_depth:<5} msgs: {message_count:<8} e2e%: {}",
        quantiles(&topic.e2e_processing_latency)
    )?;
    for channel in &topic.channels {
        let ChannelStats { channel_name, depth, backend_depth, in_flight_count, deferred_count, .. } = channel;
        let ChannelStats { requeue_count, timeout_count, message_count, .. } = channel;
        let pause = if channel.paused { "   *P " } else { "      " };
        write!(out, "{pause}[{channel_name:<25}] depth: {depth:<5} be-depth: {backend_depth:<5} ")?;
        write!(out, "inflt: {in_flight_count:<4} def: {deferred_count:<4} re-q: {requeue_count:<5} ")?;
        let latency = quantiles(&channel.e2e_processing_latency);
        writeln!(out, "timeout: {timeout_count:<5} msgs: {message_count:<8} e2e%: {latency}")?;
        for client in &channel.clients {
            write!(out, "        ")?;
            write_client(out, client)?;
        }
    }
    Ok(())
}

/// The values of the quantiles, as nsqd writes them.
fn quantiles(latency: &Latency) -> String {
    let all: Vec<String> = latency.percentiles.iter().map(|quantile| nanoseconds(quantile.value)).collect();
    all.join(", ")
}

/// Formats nanoseconds with one decimal, in the largest unit below the value.
fn nanoseconds(nanos: f64) -> String {
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "us")];
    let (size, unit) = units.into_iter().find(|(size, _)| nanos > *size).unwrap_or((1.0, "ns"));
    format!("{:.1}{unit}", nanos / size)
}

fn write_client(out: &mut String, client: &ClientStats) -> std::fmt::Result {
    let port = client.remote_address.rsplit_once(':').map_or("", |(_, port)| port);
    let name = format!("{}:{port} {}", client.hostname, client.user_agent);
    let connected = std::time::UNIX_EPOCH + Duration::from_secs(client.connect_ts.unsigned_abs());
    let connected = Duration::from_secs(connected.elapsed().unwrap_or_default().as_secs());
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
    writeln!(out, "connected: {}", go_duration(connected))
}

/// Formats a duration like Go: `1h2m3.5s`.
fn go_duration(time: Duration) -> String {
    let decimal = |whole: u64, fraction: String| {
        let number = format!("{whole}.{fraction}");
        number.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let (seconds, nanos) = (time.as_secs(), time.subsec_nanos());
    match (seconds, nanos) {
        (0, 0) => "0s".to_owned(),
        (0, ..1_000) => format!("{nanos}ns"),
        (0, ..1_000_000) => decimal(u64::from(nanos / 1_000), format!("{:03}", nanos % 1_000)) + "µs",
        (0, _) => decimal(u64::from(nanos / 1_000_000), format!("{:06}", nanos % 1_000_000)) + "ms",
        _ => {
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = decimal(seconds % 60, format!("{nanos:09}")) + "s";
            match (hours, minutes) {
                (0, 0) => rest,
                (0, minutes) => format!("{minutes}m{rest}"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_formatted_like_nsqd() {
        for (nanos, text) in [
            (0.0, "0.0ns"),
            (1e3, "1000.0ns"),
            (1_500.0, "1.5us"),
            (1e6, "1000.0us"),
            (2e6, "2.0ms"),
            (3.25e10, "32.5s"),
        ] {
            assert_eq!(nanoseconds(nanos), text);
        }
    }

    #[test]
    fn durations_are_formatted_like_go() {
        for (nanos, text) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (1_540_421_862, "1.540421862s"),
            (60_000_000_000, "1m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }
}

//! What can be typed: clap's declarations, a file a subcommand, and nothing else.

pub mod bench;
pub mod broker;
pub mod brokers;
pub mod client;
pub mod consumer;
pub mod demo;
pub mod doctor;
pub mod errors;
pub mod failing;
pub mod files;
pub mod gateway;
pub mod ingest;
pub mod node;
pub mod pipeline;
pub mod producer;
pub mod refusal;
pub mod send;
pub mod simulate;
pub mod sockets;
pub mod stage;
pub mod value;
pub mod wakeup;
pub mod worker;

use clap::{Parser, Subcommand};

/// Producers and consumers for NSQ that lose no message.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What is logged to stderr: error, warn, info, debug, trace or off, or per part as in `mqueue::client=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "MQUEUE_LOG", value_parser = value::log_filter, default_value = "info")]
    pub log: String,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the main job on this machine: publish, consume, sleep and be woken
    Demo(demo::Args),
    /// Run an NSQ broker in this program: an nsqd for one machine
    Broker(broker::Args),
    /// Publish messages: generated events, or what comes from files and stdin
    Producer(producer::Args),
    /// Consume a stream as a group, and handle each message
    Consumer(consumer::Args),
    /// Take a feed from sockets and publish it
    Ingest(ingest::Args),
    /// Send a feed of numbered messages to a socket
    Send(send::Args),
    /// One hop of a pipeline: consume a stream, do the work, pass the result on
    Stage(stage::Args),
    /// Run a whole pipeline on this machine, and count what arrives
    Pipeline(pipeline::Args),
    /// Run many streams against a pool of workers, and see what it does to latency
    Simulate(simulate::Args),
    /// Serve a job queue over HTTP: workers anywhere take jobs with any HTTP client
    Gateway(gateway::Args),
    /// Take jobs from a gateway over HTTP, and do them
    Worker(worker::Args),
    /// One of a fleet: one node generates events, the others handle them and take over when it dies
    Node(node::Args),
    /// Measure publishing and consuming: rates, latencies, processor time and memory
    Bench(bench::Args),
    /// Look at the dead letters of a stream: list them, take them out, put them back, or throw them away
    Errors(errors::Args),
    /// Wake sleeping consumers whose groups have messages
    Wakeup(wakeup::Args),
    /// Look for what usually is wrong, and say what mends it
    Doctor(doctor::Args),
}

/// How a command that runs for long reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Report {
    /// At the end, for people.
    Text,
    /// JSON on stdout: a line each second, and one at the end.
    Json,
}

/// Reads a duration: a bare number of seconds (`30`, `0.5`), or with units (`30s`, `1m 30s`, `250ms`).
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
    match seconds.map_or_else(|| humantime::parse_duration(text), Ok) {
        Ok(duration) => Ok(duration),
        Err(_) => Err("use seconds (30) or a number with a unit (30s, 250ms, 1m)".to_owned()),
    }
}

/// Checks an address to connect to, and keeps it as it is.
pub fn host_port(text: &str) -> Result<String, String> {
    text.parse::<crate::client::Address>().map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// Reads a duration that has to be within `range`.
pub fn duration_in(
    text: &str,
    range: std::ops::RangeInclusive<std::time::Duration>,
) -> Result<std::time::Duration, String> {
    let duration = duration(text)?;
    let shown = |end: &std::time::Duration| humantime::format_duration(*end).to_string();
    let wrong = || format!("use {} to {}", shown(range.start()), shown(range.end()));
    range.contains(&duration).then_some(duration).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declarations_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        use std::time::Duration;
        let read = |text| duration(text).ok();
        assert_eq!(read("30"), Some(Duration::from_secs(30)));
        assert_eq!(read("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(read("1m 30s"), Some(Duration::from_secs(90)));
        for wrong in ["", "soon", "-1", "1e400", "nan"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}

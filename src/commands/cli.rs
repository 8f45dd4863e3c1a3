//! The command line: clap's declarations of the program and its subcommands.

use super::common::values;
use super::{
    bench, broker, consumer, demo, doctor, errors, gateway, ingest, node, pipeline, producer, send, simulate, stage,
    wakeup, worker,
};
use clap::{Parser, Subcommand};

/// Producers and consumers for NSQ that lose no message.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// What is logged to stderr: error, warn, info, debug, trace or off, or per part as in `mqueue::client=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "MQUEUE_LOG", value_parser = values::log_filter, default_value = "info")]
    pub log: String,

    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum CliCommand {
    /// Show the main job on this machine: publish, consume, sleep and be woken
    Demo(demo::args::Args),
    /// Run an NSQ broker in this program: an nsqd for one machine
    Broker(broker::args::Args),
    /// Publish messages: generated events, or what comes from files and stdin
    Producer(producer::args::Args),
    /// Consume a stream as a group, and handle each message
    Consumer(consumer::args::Args),
    /// Take a feed from sockets and publish it
    Ingest(ingest::args::Args),
    /// Send a feed of numbered messages to a socket
    Send(send::args::Args),
    /// One hop of a pipeline: consume a stream, do the work, pass the result on
    Stage(stage::args::Args),
    /// Run a whole pipeline on this machine, and count what arrives
    Pipeline(pipeline::args::Args),
    /// Run many streams against a pool of workers, and see what it does to latency
    Simulate(simulate::args::Args),
    /// Serve a job queue over HTTP: workers anywhere take jobs with any HTTP client
    Gateway(gateway::args::Args),
    /// Take jobs from a gateway over HTTP, and do them
    Worker(worker::args::Args),
    /// One of a fleet: one node generates events, the others handle them and take over when it dies
    Node(node::args::Args),
    /// Measure publishing and consuming: rates, latencies, processor time and memory
    Bench(bench::args::Args),
    /// Look at the dead letters of a stream: list them, take them out, put them back, or throw them away
    Errors(errors::args::Args),
    /// Wake sleeping consumers whose groups have messages
    Wakeup(wakeup::args::Args),
    /// Look for what usually is wrong, and say what mends it
    Doctor(doctor::args::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_valid_for_clap() {
        Cli::command().debug_assert();
    }
}

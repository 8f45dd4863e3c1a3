//! `mqueue bench`.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::client_args;
use crate::commands::common::values::duration;
use crate::commands::common::values::rate;
use crate::commands::common::values::whole;

/// Measure publishing and consuming: rates, latencies, processor time and memory of this program and of the broker.
///
/// With --rate it is an open loop: each message has a time at which it is due, whatever became of the ones before, and its latency counts
/// from then. Without, it is a closed loop: each connection publishes its next batch when the last was acknowledged. consume drains a stream
/// that is filled before. Runs on a `mqueue broker` of its own, with its log in a temporary folder, unless an nsqd is named; the
/// stream is made for the run and deleted after it. Ctrl-C ends it and prints what was measured. Exit status: 0; 1 if a message could
/// not be published or did not come; 69 if there is no broker; 130 after a second Ctrl-C.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// What is measured
    #[arg(value_enum, value_name = "WHAT")]
    pub what: BenchMode,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub showing: ReportArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: client_args::Args,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,

    /// The process whose processor time and memory are the broker's; repeatable [default: who listens on nsqd's port, on this machine]
    #[arg(long, value_name = "PID", value_delimiter = ',', help_heading = "Brokers", value_parser = whole::<u32>(1..=1 << 22))]
    pub broker_pid: Vec<u32>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BenchMode {
    /// Publishing to a stream with one group, which keeps the messages until the end.
    Publish,
    /// Draining a stream that was filled before; nothing is done with the messages.
    Consume,
    /// Publishing, and consuming what is published, in one process.
    Both,
}

/// What is done, how much of it, and for how long.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Messages a second, over all connections, on a fixed schedule [default: as fast as they are acknowledged]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,

    /// Bytes of a message, of which 8 hold when it was published
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = whole::<u32>(8..=100_000_000))]
    pub size: u32,

    /// Messages that are published together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u32>(1..=100_000))]
    pub batch: u32,

    /// Connections that publish, and as many that consume; at least one to each nsqd
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u32>(1..=1000))]
    pub connections: u32,

    /// Batches that each connection has on its way at once, in a closed loop [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = whole::<u32>(1..=10_000))]
    pub window: Option<u32>,

    /// Messages that each consuming connection has in flight
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = whole::<u32>(1..=100_000))]
    pub max_in_flight: u32,

    /// For how long is measured [default: 10s; with --messages, and for consume, until they are done]
    #[arg(long, value_name = "DURATION", value_parser = time)]
    pub duration: Option<Duration>,

    /// Messages that are measured; for consume, those that the stream is filled with [default: no limit; for consume 1000000]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=1_000_000_000))]
    pub messages: Option<u64>,

    /// How long it runs before it is measured [default: 1s; for consume 0s]
    #[arg(long, value_name = "DURATION", value_parser = short)]
    pub warm_up: Option<Duration>,
}

/// How it is shown.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Report")]
pub(crate) struct ReportArgs {
    /// What is printed: a table for people, JSON (which --compare takes), or a table in Markdown
    #[arg(long, value_enum, default_value = "table")]
    pub output: BenchOutput,

    /// The same as --output json
    #[arg(long)]
    pub json: bool,

    /// Draw latency, rate and processor time over time into this SVG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,

    /// Compare with an earlier run, which was written with --json
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
}

impl ReportArgs {
    /// What is printed, whichever flag says it.
    pub(crate) fn output(&self) -> BenchOutput {
        if self.json { BenchOutput::Json } else { self.output }
    }
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BenchOutput {
    /// For people.
    Table,
    /// One JSON object.
    Json,
    /// For a page.
    Markdown,
}

/// A time to measure.
fn time(text: &str) -> Result<Duration, String> {
    match short(text)? {
        Duration::ZERO => Err("must be more than 0".to_owned()),
        time => Ok(time),
    }
}

fn short(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time <= Duration::from_secs(31 * 86_400) => Ok(time),
        _ => Err("a month is the most".to_owned()),
    }
}

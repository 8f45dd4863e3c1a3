//! `mqueue bench`.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::client_args;
use crate::commands::common::values::duration;
use crate::commands::common::values::rate;
use crate::commands::common::values::whole;

/// Measure rates, latencies, processor time and memory
///
/// With --rate it is an open loop: each message is due at a fixed time, whatever became of the ones
/// before, and its latency counts from then. Without, it is a closed loop: each connection
/// publishes its next batch when the last was acknowledged. consume drains a stream that was filled
/// before. Runs on a broker in a process of its own, with its log in a temporary folder, unless an
/// nsqd is named; the stream is created for the run and deleted after it. Ctrl-C ends the run and
/// prints the figures so far.
///
/// Exit code: 0; 1 if a message could not be published or did not arrive; 69 if there is no broker;
/// 130 after a second Ctrl-C.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Direction to measure
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

    /// Process whose processor time and memory are the broker's; repeatable [default: the process
    /// that listens on nsqd's port, on this machine]
    #[arg(long, value_name = "PID", value_delimiter = ',', help_heading = "Brokers", value_parser = whole::<u32>(1..=1 << 22))]
    pub broker_pid: Vec<u32>,
}

/// The direction to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BenchMode {
    /// Publish to a stream with one group, which keeps the messages until the end
    Publish,
    /// Drain a stream that was filled before, without handling its messages
    Consume,
    /// Publish and consume the same messages in one process
    Both,
}

/// The load: its rate, its size and its duration.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Messages a second, over all connections, on a fixed schedule [default: as fast as they are
    /// acknowledged]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,

    /// Size of a message, in bytes, of which 8 hold the time it was published
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = whole::<u32>(8..=100_000_000))]
    pub size: u32,

    /// Messages published together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u32>(1..=100_000))]
    pub batch: u32,

    /// Connections that publish, and as many that consume; at least one to each nsqd
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u32>(1..=1000))]
    pub connections: u32,

    /// Unacknowledged batches of each connection, in a closed loop [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = whole::<u32>(1..=10_000))]
    pub window: Option<u32>,

    /// Messages in flight on each consuming connection
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = whole::<u32>(1..=100_000))]
    pub max_in_flight: u32,

    /// Time to measure [default: 10s; with --messages, and for consume, until they are done]
    #[arg(long, value_name = "DURATION", value_parser = time)]
    pub duration: Option<Duration>,

    /// Messages to measure; for consume, messages to fill the stream with [default: no limit; for
    /// consume 1000000]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=1_000_000_000))]
    pub messages: Option<u64>,

    /// Time to run before measuring [default: 1s; for consume 0s]
    #[arg(long, value_name = "DURATION", value_parser = short)]
    pub warm_up: Option<Duration>,
}

/// The format of the report.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Report")]
pub(crate) struct ReportArgs {
    /// Format of the report: a table for people, json (for --compare) or a table in Markdown
    #[arg(long, value_enum, default_value = "table")]
    pub output: BenchOutput,

    /// The same as --output json
    #[arg(long)]
    pub json: bool,

    /// Draw latency, rate and processor time over time into this SVG file [default: none]
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,

    /// Compare with an earlier run, written with --json [default: none]
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
}

impl ReportArgs {
    /// Returns the format of the report, from either flag.
    pub(crate) fn output(&self) -> BenchOutput {
        if self.json { BenchOutput::Json } else { self.output }
    }
}

/// The format of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BenchOutput {
    /// A table for people
    Table,
    /// One JSON object
    Json,
    /// A table in Markdown
    Markdown,
}

/// Parses the time to measure.
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

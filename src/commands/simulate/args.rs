//! `mqueue simulate`.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::values::ReportFormat;
use crate::commands::common::values::duration;
use crate::commands::common::values::{duration_with_unit, millis, whole};

/// Simulate how many workers a load of many streams needs
///
/// Each stream makes chunks of random bytes at random moments, up to an interval apart; workers
/// take 20 to 50 ms for each. Between them is a bounded buffer: chunks that find it full are
/// dropped and counted. Ctrl-C ends the streams, finishes the chunks in the buffer and prints the
/// statistics.
///
/// Exit code: 0; 130 if the rest was given up by a second Ctrl-C, or a minute after the first.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Workers (10 to 200)
    #[arg(long, env = "WORKERS_COUNT", value_parser = whole::<u32>(..), value_name = "N", default_value_t = 50)]
    pub workers: u32,

    /// Streams (10 to 500)
    #[arg(long, env = "STREAMS_COUNT", value_parser = whole::<u32>(..), value_name = "N", default_value_t = 100)]
    pub streams: u32,

    /// Longest time between two chunks of a stream: 500ms, 2s (100ms to 5s) [default: 1s] [env:
    /// STREAM_INTERVAL, in milliseconds]
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit)]
    pub interval: Option<Duration>,

    /// --interval in milliseconds, for the environment variable, whose number has no unit
    #[arg(long, env = "STREAM_INTERVAL", value_parser = millis, default_value = "1000", hide = true)]
    pub stream_interval: Duration,

    /// Size of a chunk, in bytes (512 to 4096)
    #[arg(long, env = "CHUNK_SIZE", value_parser = whole::<u32>(..), value_name = "BYTES", default_value_t = 1024)]
    pub chunk_size: u32,

    /// Chunks that the buffer holds (100 to 2000)
    #[arg(long, env = "BUFFER_SIZE", value_parser = whole::<u32>(..), value_name = "N", default_value_t = 500)]
    pub buffer: u32,

    /// Accept numbers outside of these ranges [default: false]
    #[arg(long)]
    pub no_range_check: bool,

    /// Random seed: the same seed, streams, interval and size make the same chunks at the same
    /// moments [default: random]
    #[arg(long, env = "MQUEUE_SEED", value_name = "N", value_parser = whole::<u64>(..))]
    pub seed: Option<u64>,

    /// Time for which the streams make chunks: seconds, or 5m [default: until Ctrl-C]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Link between streams and workers: a bounded buffer in memory, or an NSQ stream, which drops
    /// nothing and slows the streams instead
    #[arg(long, value_enum, default_value = "memory")]
    pub via: Via,

    /// Log each chunk that is processed [default: false]
    #[arg(long, help_heading = "Report", short)]
    pub verbose: bool,

    /// Format of the report, on stdout: text, or json (a line every second and one at the end)
    #[arg(long, help_heading = "Report", value_enum, default_value = "text")]
    pub report: ReportFormat,

    /// The same as --report json
    #[arg(long, help_heading = "Report")]
    pub json: bool,

    /// Draw latency, throughput and drops over time into this SVG file [default: none]
    #[arg(long, help_heading = "Report", value_name = "FILE")]
    pub plot: Option<PathBuf>,

    /// Compute instead of running: for many numbers of workers and buffer sizes, where drops begin
    /// and how much each costs
    #[arg(long, conflicts_with_all = ["via", "verbose", "plot", "report", "json"])]
    pub plan: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

impl Args {
    /// Returns the format of the report, from either flag.
    pub(crate) fn report(&self) -> ReportFormat {
        if self.json { ReportFormat::Json } else { self.report }
    }

    /// Returns the longest time between two chunks, in milliseconds; the flag beats the variable.
    pub(crate) fn interval_ms(&self) -> u32 {
        let interval = self.interval.unwrap_or(self.stream_interval);
        u32::try_from(interval.as_millis()).unwrap_or(u32::MAX)
    }
}

/// The link between streams and workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Via {
    /// A bounded buffer in this process; chunks that find it full are dropped
    Memory,
    /// A stream on nsqd, or on a broker in this process unless an nsqd is named
    Broker,
}

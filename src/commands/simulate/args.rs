//! `mqueue simulate`.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::values::ReportFormat;
use crate::commands::common::values::duration;
use crate::commands::common::values::{duration_with_unit, millis, whole};

/// Run many streams against a pool of workers, and see what it does to latency.
///
/// Each stream makes chunks of random bytes at random moments, up to an interval apart; workers take 20 to 50 ms for each. A bounded buffer
/// stands between them: what finds it full is dropped, and counted. Ctrl-C ends the streams, lets what is in the buffer be finished,
/// and prints the statistics. Exit status: 0; 130 if a second Ctrl-C, or a minute after the first,
/// gave up what was left.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Workers (10 to 200)
    #[arg(long, env = "WORKERS_COUNT", value_parser = whole::<u32>(..), value_name = "N", default_value_t = 50, help_heading = "Workload")]
    pub workers: u32,

    /// Streams (10 to 500)
    #[arg(long, env = "STREAMS_COUNT", value_parser = whole::<u32>(..), value_name = "N", default_value_t = 100, help_heading = "Workload")]
    pub streams: u32,

    /// The longest time between two chunks of a stream: 500ms, 2s (100ms to 5s) [default: 1s] [env: STREAM_INTERVAL, in milliseconds]
    #[arg(long, value_name = "DURATION", value_parser = duration_with_unit, help_heading = "Workload")]
    pub interval: Option<Duration>,

    /// --interval in milliseconds, for the environment variable: there a number has no unit
    #[arg(long, env = "STREAM_INTERVAL", value_parser = millis, default_value = "1000", hide = true)]
    pub stream_interval: Duration,

    /// Bytes of a chunk (512 to 4096)
    #[arg(long, env = "CHUNK_SIZE", value_parser = whole::<u32>(..), value_name = "BYTES", default_value_t = 1024, help_heading = "Workload")]
    pub chunk_size: u32,

    /// Chunks that the buffer holds (100 to 2000)
    #[arg(long, env = "BUFFER_SIZE", value_parser = whole::<u32>(..), value_name = "N", default_value_t = 500, help_heading = "Workload")]
    pub buffer: u32,

    /// Take numbers beyond these ranges
    #[arg(long, help_heading = "Workload")]
    pub no_range_check: bool,

    /// Seed of all that is random: the same seed, streams, interval and size make the same chunks at the same moments [default: any]
    #[arg(long, env = "SEED", value_name = "N", value_parser = whole::<u64>(..), help_heading = "Workload")]
    pub seed: Option<u64>,

    /// For how long the streams make chunks (60, 5m) [default: until Ctrl-C]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Workload")]
    pub duration: Option<Duration>,

    /// What stands between streams and workers: a bounded buffer, or an NSQ stream, which drops nothing and slows the streams instead
    #[arg(long, value_enum, default_value = "memory")]
    pub via: Via,

    /// Say each chunk that is processed
    #[arg(long, short)]
    pub verbose: bool,

    /// How to report, on stdout: text, or json (a line each second and one at the end)
    #[arg(long, value_enum, default_value = "text")]
    pub report: ReportFormat,

    /// The same as --report json
    #[arg(long)]
    pub json: bool,

    /// Draw latency, throughput and drops over time into this SVG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,

    /// Do not run: work out for many numbers of workers and sizes of the buffer where drops begin, and what each costs
    #[arg(long, conflicts_with_all = ["via", "verbose", "plot", "report", "json"])]
    pub plan: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

impl Args {
    /// How to report, whichever flag says it.
    pub(crate) fn report(&self) -> ReportFormat {
        if self.json { ReportFormat::Json } else { self.report }
    }

    /// The longest time between two chunks, in milliseconds: the flag counts before the variable.
    pub(crate) fn interval_ms(&self) -> u32 {
        let interval = self.interval.unwrap_or(self.stream_interval);
        u32::try_from(interval.as_millis()).unwrap_or(u32::MAX)
    }
}

/// What stands between streams and workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Via {
    /// A bounded buffer in this process; what finds it full is dropped.
    Memory,
    /// A stream of nsqd, or of a broker in this process where none is named.
    Broker,
}

//! `mqueue record`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::exit_args::ExitArgs;
use crate::commands::common::metrics::listen_args::ListenArgs;
use crate::commands::common::values::{duration, duration_in, duration_with_unit, whole};
use crate::commands::consumer::args::ConsumerTuning;
use mqueue::proto::{ChannelName, TopicName};

/// Record a stream's messages to a folder, to replay or search them
///
/// As a group of its own: other groups receive every message as before. Messages are kept byte for
/// byte with their publish times, ids and attempts, compressed (zstd), and leave the group only when
/// they are synced to disk. `mqueue replay` publishes or counts them, and finds them by time.
///
/// Exit code: 0; 1 if the folder cannot be used; 69 if no nsqd can be reached.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Stream to record (NSQ: topic)
    #[arg(value_name = "STREAM")]
    pub stream: TopicName,

    /// Folder of the recording; one folder has one stream
    #[arg(long, env = "MQUEUE_TO", value_name = "DIR")]
    pub to: PathBuf,

    /// Group to record as (NSQ: channel); a name that ends with #ephemeral: a group that misses what
    /// is published while nothing records
    #[arg(long, visible_alias = "channel", env = "GROUP", value_name = "NAME", default_value = "record")]
    pub group: ChannelName,

    /// Remove the oldest segments: those with messages older than 7d, or those beyond 10GB in all;
    /// repeatable [default: keep all]
    #[arg(long, env = "MQUEUE_KEEP", value_name = "7d|10GB", value_delimiter = ',')]
    pub keep: Vec<KeepLimit>,

    /// Start a new segment at this size, in bytes [default: 128 MiB, or an eighth of --keep]
    #[arg(long, env = "MQUEUE_ROTATE_SIZE", value_name = "BYTES", value_parser = whole::<u64>(1..))]
    pub rotate_size: Option<u64>,

    /// Start a new segment this long after the last was started [default: never]
    #[arg(long, env = "MQUEUE_ROTATE_INTERVAL", value_name = "DURATION", value_parser = interval)]
    pub rotate_interval: Option<Duration>,

    /// Longest time that a message waits for others to be compressed and synced with it
    #[arg(long, env = "MQUEUE_SYNC_INTERVAL", value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub sync_interval: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub exit: ExitArgs,

    /// Messages in flight at once, over all nsqds [default: 2000]
    #[arg(long, help_heading = "Tuning", env = "MQUEUE_MAX_IN_FLIGHT", value_name = "N", value_parser = whole::<u32>(1..))]
    pub max_in_flight: Option<u32>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub tuning: ConsumerTuning,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub metrics: ListenArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// A limit on what a recording keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepLimit {
    /// By the publish times of messages.
    Age(Duration),
    /// By the size of all segments.
    Bytes(u64),
}

/// Units of sizes.
const UNITS: [(&str, u64); 8] = [
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

impl FromStr for KeepLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_lowercase();
        // the longest ending first: "gib" ends with "b", too
        let unit = UNITS.iter().rev().find_map(|(unit, bytes)| Some((lower.strip_suffix(unit)?, *bytes)));
        let limit = match unit {
            Some((number, bytes)) => {
                let bytes = number.trim().parse::<f64>().ok().map(|number| number * bytes as f64);
                bytes.filter(|bytes| (1.0..1e18).contains(bytes)).map(|bytes| Self::Bytes(bytes as u64))
            }
            None => duration_with_unit(&lower).ok().filter(|age| !age.is_zero()).map(Self::Age),
        };
        limit.ok_or_else(|| "use an age (12h, 7d) or a size (500MB, 10GB, 2TiB)".to_owned())
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    duration_in(text, Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_an_age_or_a_size() {
        for (text, limit) in [
            ("7d", KeepLimit::Age(Duration::from_secs(7 * 86_400))),
            ("90m", KeepLimit::Age(Duration::from_secs(5400))),
            ("10GB", KeepLimit::Bytes(10_000_000_000)),
            ("1.5 gb", KeepLimit::Bytes(1_500_000_000)),
            ("2GiB", KeepLimit::Bytes(2 << 30)),
        ] {
            assert_eq!(text.parse(), Ok(limit), "{text}");
        }
        for wrong in ["", "7", "0s", "0GB", "-1GB", "10XB", "many", "1e30GB"] {
            assert!(wrong.parse::<KeepLimit>().is_err(), "{wrong:?}");
        }
    }
}

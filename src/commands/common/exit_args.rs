//! Flags that limit how long a command consumes a stream.

use std::time::Duration;

use super::values::{duration, whole};

/// When a command that consumes a stream exits by itself.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct ExitArgs {
    /// Exit after this long without a message, received or in flight: seconds, or 30s, 5m [default:
    /// never]
    #[arg(long, env = "TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,

    /// Exit after this many messages have left the queue, and take no more [default: no limit]
    #[arg(long, env = "MQUEUE_COUNT", value_name = "N", value_parser = whole::<u64>(1..))]
    pub count: Option<u64>,
}

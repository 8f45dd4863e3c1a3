//! `mqueue demo`.

use std::time::Duration;

use crate::commands::common::values::duration;
use crate::commands::common::values::whole;

/// Show publishing, consuming, sleeping and waking in half a minute
///
/// Runs a broker in this process with two groups: one is awake, the other sleeps and is woken by
/// its socket. At the end another broker and its consumer sleep, and a message starts both.
///
/// Exit code: 0 if both groups handled every message, 1 if one was lost.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Time for which messages are published
    #[arg(long = "for", env = "MQUEUE_FOR", value_name = "DURATION", value_parser = duration, default_value = "20s")]
    pub duration: Duration,

    /// Messages a second
    #[arg(long, env = "MQUEUE_RATE", value_name = "N", default_value_t = 100, value_parser = whole::<u32>(1..=10_000))]
    pub rate: u32,
}

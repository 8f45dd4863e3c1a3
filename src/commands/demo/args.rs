//! `mqueue demo`.

use std::time::Duration;

use crate::commands::common::values::duration;
use crate::commands::common::values::whole;

/// Show the main job on this machine, with nothing else installed: a broker, a group that is awake, and one that sleeps and is woken.
///
/// Exit status: 0 if every message was handled by both groups, 1 if one was lost.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// How long messages are published
    #[arg(long = "for", env = "MQUEUE_FOR", value_name = "DURATION", value_parser = duration, default_value = "20s")]
    pub duration: Duration,

    /// Messages a second, while they are published
    #[arg(long, env = "MQUEUE_RATE", value_name = "N", default_value_t = 100, value_parser = whole::<u32>(1..=10_000))]
    pub rate: u32,
}

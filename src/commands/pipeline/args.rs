//! `mqueue pipeline`.

use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::values::duration;
use crate::commands::common::values::whole;
use crate::commands::send::args::Rate;

/// Run a whole pipeline on this machine, and count every message
///
/// Each hop is a process: a sender feeds `mqueue ingest` over a Unix socket; stages work on each
/// message and pass it on; at the end every message is accounted for. Runs on a broker in this
/// process unless an nsqd is named.
///
/// Exit code: 0 if no message was lost, 1 if one was.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Stages between the sender and the end
    #[arg(long, env = "MQUEUE_STAGES", value_name = "N", default_value_t = 3, value_parser = whole::<u8>(1..=50))]
    pub stages: u8,

    /// Time that each stage works on a message; the last time counts for all further stages; 0: no
    /// work
    #[arg(long, env = "MQUEUE_WORK", value_name = "TIMES", value_parser = work, value_delimiter = ',', default_value = "25ms,100ms")]
    pub work: Vec<Duration>,

    /// Messages a second, or max: as fast as they are taken
    #[arg(long, env = "MQUEUE_RATE", value_name = "N", default_value = "500")]
    pub rate: Rate,

    /// Number of messages
    #[arg(long, env = "MQUEUE_COUNT", value_name = "N", default_value_t = 5000, value_parser = whole::<u64>(1..=100_000_000))]
    pub count: u64,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

fn work(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        work if work <= Duration::from_secs(60) => Ok(work),
        _ => Err("a minute is the most".to_owned()),
    }
}

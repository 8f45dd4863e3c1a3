//! `mqueue doctor`.

use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::socket_args;
use crate::commands::common::values::duration;

/// Find what is wrong, and print the command that fixes it
///
/// Looks at brokers, queues, sockets and systemd units, and prints one line for each finding.
/// Changes nothing and wakes no consumer.
///
/// Exit code: 0 if all is well, 3 if there is a warning, 4 if there is an error, 69 if no broker answers.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sockets: socket_args::Args,

    /// Time between two looks at dead letters, to see whether their number grows; 0: one look
    #[arg(long, env = "MQUEUE_WATCH", value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub watch: Duration,

    /// Time for a broker, or systemd, to answer
    #[arg(long, env = "MQUEUE_DEADLINE", value_name = "DURATION", value_parser = duration, default_value = "3s")]
    pub deadline: Duration,

    /// Print one JSON document [default: false]
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

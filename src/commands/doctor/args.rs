//! `mqueue doctor`.

use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::socket_args;
use crate::commands::common::values::duration;

/// Look for what usually is wrong around sleeping consumers: one line a finding, with the command that mends it.
///
/// Nothing is changed, and nobody is woken.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(after_help = "Exit code, by the worst finding: 0 all is well, 3 a warning, 4 an error, 69 no broker answers")]
pub(crate) struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sockets: socket_args::Args,

    /// How long dead letters are watched for growth, where there are any; 0 does not
    #[arg(long, env = "MQUEUE_WATCH", value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub watch: Duration,

    /// How long a broker, or systemd, may take to answer
    #[arg(long, env = "MQUEUE_DEADLINE", value_name = "DURATION", value_parser = duration, default_value = "3s")]
    pub deadline: Duration,

    /// Print one JSON document [default: false]
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

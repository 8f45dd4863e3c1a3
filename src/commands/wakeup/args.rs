//! `mqueue wakeup`.

use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::socket_args;
use crate::commands::common::values::duration;
use crate::commands::common::values::whole;
use mqueue::proto::HostPort;

/// Wake sleeping consumers whose groups have messages, by poking their sockets.
///
/// Group G is woken through G.sock or G in a socket folder, and, where there are several consumers, through G@1.sock, G@2.sock …
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sockets: socket_args::Args,

    /// How often nsqd is asked for its queues' depths
    #[arg(long, env = "MQUEUE_POLL_INTERVAL", value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub poll_interval: Duration,

    /// How many waiting messages one consumer is for, where a group has numbered sockets
    #[arg(long, env = "MQUEUE_PER_CONSUMER", value_name = "N", default_value_t = 1000, value_parser = whole::<u64>(1..))]
    pub per_consumer: u64,

    /// Only poll: do not subscribe to the streams of sleeping groups, which wakes them within milliseconds [default: false]
    #[arg(long, env = "MQUEUE_NO_EDGE")]
    pub no_edge: bool,

    /// Look once, wake what is to be woken, and end [default: false]
    #[arg(long)]
    pub once: bool,

    /// Print what would be woken and why, and wake nothing [default: false]
    #[arg(long)]
    pub dry_run: bool,

    /// Tell over HTTP, here, how it is doing: /healthz, /state, /metrics (port 0: the log says which) [default: nowhere]
    #[arg(long, env = "MQUEUE_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<HostPort>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

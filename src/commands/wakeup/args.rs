//! `mqueue wakeup`.

use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::http_guard_args::HttpGuardArgs;
use crate::commands::common::socket_args;
use crate::commands::common::values::duration;
use crate::commands::common::values::whole;
use mqueue::proto::{HostPort, is_host};
use mqueue::wake::hosts::MAX_WEIGHT;

/// Wake sleeping groups that have messages, by poking their sockets
///
/// Group G is woken through G.sock or G in a socket folder; a group with several consumers through
/// G@1.sock, G@2.sock ….
///
/// Exit code: 0; 1 with --once if there is no socket to poke; 2 for invalid flags; 69 with --once if no
/// broker answers.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sockets: socket_args::Args,

    /// Time between queries of nsqd for the depths of its queues
    #[arg(long, env = "MQUEUE_POLL_INTERVAL", value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub poll_interval: Duration,

    /// Waiting messages for each consumer of a group with numbered sockets
    #[arg(long, env = "MQUEUE_PER_CONSUMER", value_name = "N", default_value_t = 1000, value_parser = whole::<u64>(1..))]
    pub per_consumer: u64,

    /// Name of this host among several that wake the same groups [default: this machine's]
    #[arg(long, env = "MQUEUE_HOSTNAME", value_name = "NAME", value_parser = host_name)]
    pub hostname: Option<String>,

    /// Share of the groups that this host is the first to wake, beside those of other hosts; 0: only
    /// when no other can
    #[arg(long, env = "MQUEUE_WEIGHT", value_name = "N", default_value_t = 1, value_parser = whole::<u32>(0..=u64::from(MAX_WEIGHT)))]
    pub weight: u32,

    /// Maximum of consumers of one group that are woken on this host [default: one for each socket]
    #[arg(long, env = "MQUEUE_MAX_CONSUMERS", value_name = "N", value_parser = whole::<usize>(1..))]
    pub max_consumers: Option<usize>,

    /// Only poll: do not subscribe to the streams of sleeping groups, which wakes them within
    /// milliseconds [default: false]
    #[arg(long, env = "MQUEUE_NO_EDGE")]
    pub no_edge: bool,

    /// Look once, wake the groups that have messages, and exit [default: false]
    #[arg(long)]
    pub once: bool,

    /// Print what would be woken and why, and wake nothing [default: false]
    #[arg(long)]
    pub dry_run: bool,

    /// Address to serve /healthz, /state and /metrics on over HTTP (port 0: any free port, which
    /// the log names) [default: none]
    #[arg(long, env = "MQUEUE_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<HostPort>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub http_guard: HttpGuardArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// Parses a host's name, which has no spaces.
fn host_name(text: &str) -> Result<String, String> {
    match is_host(text) {
        true => Ok(text.to_owned()),
        false => Err("use letters, digits, dots, dashes and underscores".to_owned()),
    }
}

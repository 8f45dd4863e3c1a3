//! `mqueue ls`.

use std::time::Duration;

use mqueue::proto::TopicName;

use crate::commands::common::values::duration;
use crate::commands::common::{broker_args, socket_args};

/// List streams and groups: messages, rates, consumers
///
/// Sums over all nsqds: messages that wait (DEPTH), in flight and deferred; the age of the oldest
/// message, which only `mqueue broker` tells; messages a second published to a stream (IN/S) and
/// finished by a group (OUT/S); connections of consumers, or `asleep` if a group has none but a
/// socket on this machine; the dead letters of a stream. A stream's own DEPTH are messages that no
/// group has yet.
///
/// Exit code: 0; 1 if an nsqd or nsqlookupd did not answer, or the stream does not exist; 69 if no
/// nsqd answered.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Stream to list alone [default: all]
    #[arg(value_name = "STREAM")]
    pub only: Option<TopicName>,

    /// List streams of dead letters and of redriven messages, too [default: false]
    #[arg(long)]
    pub all: bool,

    /// Time over which rates are measured; 0: no rates
    #[arg(long, env = "MQUEUE_WATCH", value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub watch: Duration,

    /// Print one JSON document with all streams [default: false]
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub sockets: socket_args::Args,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

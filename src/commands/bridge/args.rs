//! `mqueue bridge`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use crate::commands::common::broker_args;
use crate::commands::common::exit_args::ExitArgs;
use crate::commands::common::metrics::listen_args::ListenArgs;
use crate::commands::common::redis::RedisList;
use crate::commands::common::values::{rate, whole};
use crate::commands::consumer::args::ConsumerTuning;
use mqueue::client::{Address, Lookupd};
use mqueue::proto::{ChannelName, TopicName};

/// Move messages between NSQ and Redis, or between two clusters
///
/// From Redis: entries are moved to a list of this bridge, published, and deleted once nsqd has
/// acknowledged them; a bridge that dies is replaced by another within 15 s. To Redis, or to another
/// cluster: a message is finished once it is pushed or published there. While a side is unreachable
/// or full, everything stays on the other. Nothing is lost; after a failure some messages come twice.
///
/// Exit code: 0; 1 if Redis or nsqd refuses the work; 69 if one of them cannot be reached at the
/// start.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Source: redis://HOST:PORT/LIST (rediss:// for TLS), or a stream's name (NSQ: topic)
    #[arg(long, env = "MQUEUE_FROM", value_name = "SOURCE")]
    pub from: BridgeEnd,

    /// Target: a stream's name, or redis://HOST:PORT/LIST
    #[arg(long, env = "MQUEUE_TO", value_name = "TARGET")]
    pub to: BridgeEnd,

    /// Group to consume the source as, if it is a stream (NSQ: channel); bridges of one group share
    /// its messages
    #[arg(long, visible_alias = "channel", env = "GROUP", value_name = "NAME")]
    pub group: Option<ChannelName>,

    /// Entries or messages of a batch
    #[arg(long, env = "MQUEUE_BATCH_SIZE", value_name = "N", value_parser = whole::<u32>(1..=5000), default_value_t = 1000)]
    pub batch_size: u32,

    /// Entries or messages a second at most [default: no limit]
    #[arg(long, env = "MQUEUE_RATE", value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub exit: ExitArgs,

    /// End of the list at which entries are pushed, by this bridge or by others; they are taken from
    /// the other end
    #[arg(long, help_heading = "Redis", env = "MQUEUE_REDIS_PUSH", value_enum, value_name = "left|right", default_value_t = ListEnd::Left)]
    pub redis_push: ListEnd,

    /// File with the password for Redis, or with user and password, on one line [default: no AUTH]
    #[arg(long, help_heading = "Redis", env = "MQUEUE_REDIS_AUTH_FILE", value_name = "PATH")]
    pub redis_auth_file: Option<PathBuf>,

    /// TCP address of an nsqd of the target's cluster, if source and target are streams; repeatable
    #[arg(
        long,
        help_heading = "Two clusters",
        env = "MQUEUE_TO_NSQD_TCP_ADDRESS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub to_nsqd_tcp_address: Vec<Address>,

    /// HTTP address of an nsqlookupd that knows the nsqds of the target's cluster; repeatable
    #[arg(
        long,
        help_heading = "Two clusters",
        env = "MQUEUE_TO_LOOKUPD_HTTP_ADDRESS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub to_lookupd_http_address: Vec<Lookupd>,

    /// Pass on only messages that are a JSON object with this field; others are finished, and bodies
    /// that are no object become dead letters [default: all]
    #[arg(long, help_heading = "Selection of a stream's messages", value_name = "FIELD")]
    pub require_json_field: Option<String>,

    /// Pass on only messages whose field has this value
    #[arg(
        long,
        help_heading = "Selection of a stream's messages",
        value_name = "VALUE",
        requires = "require_json_field"
    )]
    pub require_json_value: Option<String>,

    /// Pass on only this field of each JSON object; repeatable [default: unchanged bodies]
    #[arg(long, help_heading = "Selection of a stream's messages", value_name = "FIELD", value_delimiter = ',')]
    pub whitelist_json_field: Vec<String>,

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

impl Args {
    /// Returns true if Redis is reached with TLS.
    pub(crate) fn uses_tls(&self) -> bool {
        [&self.from, &self.to].into_iter().any(|end| matches!(end, BridgeEnd::Redis(list) if list.tls))
    }
}

/// One end of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BridgeEnd {
    Stream(TopicName),
    Redis(RedisList),
}

/// An end of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListEnd {
    /// LPUSH; taken from the right, as BRPOP does
    Left,
    /// RPUSH; taken from the left, as BLPOP does
    Right,
}

impl FromStr for BridgeEnd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.contains(':') || text.contains('/') {
            true => text.parse().map(Self::Redis),
            false => TopicName::new(text).map(Self::Stream).map_err(|error| error.to_string()),
        }
    }
}

impl fmt::Display for BridgeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(stream) => stream.fmt(f),
            Self::Redis(list) => list.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_stream_or_a_list() {
        assert!(matches!("orders".parse(), Ok(BridgeEnd::Stream(_))));
        assert!(matches!("redis://host/orders".parse(), Ok(BridgeEnd::Redis(_))));
        for wrong in ["", "a b", "http://host/x", "redis://host", "nsq://host/x"] {
            assert!(wrong.parse::<BridgeEnd>().is_err_and(|error| !error.contains('\n')), "{wrong:?}");
        }
    }
}

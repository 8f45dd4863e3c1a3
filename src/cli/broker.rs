//! `mqueue broker`: its flags are named as nsqd's are, and have nsqd's defaults.

use std::path::PathBuf;
use std::time::Duration;

use super::duration;
use super::value::whole;
use crate::broker::BrokerConfig;
use crate::broker::log::SyncMode;
use crate::broker::server::ListenAddress;
use crate::broker::state::StateLimits;
use crate::proto::Limits;

/// An nsqd in this program, for one machine: nothing else has to be installed.
///
/// Messages are in a log on disk before a producer is told OK, so a crash of the broker loses none. nsqd's clients, nsqadmin and
/// nsqlookupd work with it.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Where NSQ's TCP protocol is spoken: HOST:PORT (port 0: any free one) or unix:/PATH; repeatable
    #[arg(long, env = "TCP_ADDRESS", value_name = "ADDRESS", value_delimiter = ',', default_value = "127.0.0.1:4150")]
    pub tcp_address: Vec<ListenAddress>,

    /// Where the HTTP API is served; repeatable
    #[arg(long, env = "HTTP_ADDRESS", value_name = "ADDRESS", value_delimiter = ',', default_value = "127.0.0.1:4151")]
    pub http_address: Vec<ListenAddress>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub storage: Storage,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub discovery: Discovery,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: LimitArgs,
}

/// Where messages are kept.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Storage")]
pub struct Storage {
    /// Where the log is; made if it is missing
    #[arg(long, env = "DATA_PATH", value_name = "PATH", overrides_with = "data_path", default_value = "mqueue-data")]
    pub data_path: PathBuf,

    /// When the log is synced to the disk: always (before OK), interval (each 100 ms: a crash of the broker loses nothing, one of the
    /// machine what came since), never (when the system likes)
    #[arg(long, env = "SYNC", value_name = "WHEN", value_enum, default_value = "interval", conflicts_with = "memory")]
    pub sync: SyncMode,

    /// No log: messages are in memory only, and gone with the process [default: false]
    #[arg(long, env = "MEMORY")]
    pub memory: bool,

    /// Bytes of message bodies in memory. Beyond, they are read back from the log; with --memory, publishing is refused
    /// [default: 8 MiB, with --memory 1 GiB]
    #[arg(long, env = "MAX_MEMORY", value_name = "BYTES", value_parser = whole::<usize>(..))]
    pub max_memory: Option<usize>,

    /// Copies that wait in an ephemeral channel; what comes beyond is dropped
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..), default_value_t = 10_000)]
    pub mem_queue_size: usize,
}

/// How others find it.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Discovery")]
pub struct Discovery {
    /// nsqlookupd's TCP address, to register with; repeatable [default: none]
    #[arg(long, env = "LOOKUPD_TCP_ADDRESS", value_name = "HOST:PORT", value_delimiter = ',')]
    pub lookupd_tcp_address: Vec<String>,

    /// The address that nsqlookupd gives to clients [default: the machine's name]
    #[arg(long, env = "BROADCAST_ADDRESS", value_name = "HOST", overrides_with = "broadcast_address")]
    pub broadcast_address: Option<String>,
}

/// What clients may ask for.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// The largest message, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_msg_size: u32,

    /// The largest body of a command (MPUB, IDENTIFY), in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 5 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_body_size: u32,

    /// How long a client that does not say has for a message
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub msg_timeout: Duration,

    /// The longest that a message may be in flight
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15m")]
    pub max_msg_timeout: Duration,

    /// The longest delay of a message
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub max_req_timeout: Duration,

    /// The longest time between heartbeats that a client may ask for
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub max_heartbeat_interval: Duration,

    /// The highest RDY
    #[arg(long, value_name = "N", value_parser = whole::<u32>(..), default_value_t = 2500)]
    pub max_rdy_count: u32,

    /// Consumers of one channel; 0: any number
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..), default_value_t = 0)]
    pub max_channel_consumers: usize,
}

impl Args {
    /// The settings of the broker itself.
    pub fn config(&self) -> BrokerConfig {
        let (storage, limits) = (&self.storage, &self.limits);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let max_req_timeout = millis(limits.max_req_timeout);
        BrokerConfig {
            limits: Limits {
                max_msg_size: limits.max_msg_size,
                max_body_size: limits.max_body_size,
                max_req_timeout,
                ..Limits::default()
            },
            state: StateLimits {
                max_msg_timeout: millis(limits.max_msg_timeout),
                max_req_timeout,
                mem_queue_size: storage.mem_queue_size,
                max_channel_consumers: limits.max_channel_consumers,
                max_memory: storage.max_memory.unwrap_or(if storage.memory { 1 << 30 } else { 8 << 20 }),
            },
            max_rdy_count: u64::from(limits.max_rdy_count),
            msg_timeout: millis(limits.msg_timeout),
            max_heartbeat_interval: i64::try_from(millis(limits.max_heartbeat_interval)).unwrap_or(i64::MAX),
            ..BrokerConfig::default()
        }
    }
}

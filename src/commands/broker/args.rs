//! `mqueue broker`: flags with nsqd's names and defaults.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::arm_timer::ArmTimerArgs;
pub(super) use super::go_flags::go_duration;
use super::go_flags::{boolean, go_whole, integer};
use super::idle_exit::MIN_IDLE;
use super::ignored_flags::IgnoredArgs;
use super::import::ImportArgs;
use super::inspect::{BackupArgs, VerifyArgs};
use super::nsqd_args::{BroadcastPortArgs, NsqdArgs};
use super::page::PageArgs;
use super::security_args::BrokerSecurityArgs;
use super::statistics_args::StatisticsArgs;
use crate::commands::common::http_guard_args::HttpGuardArgs;
use crate::commands::common::values::{duration, whole};
use mqueue::broker::BrokerConfig;
use mqueue::broker::log::{LogOptions, SyncMode};
use mqueue::broker::server::ListenAddress;
use mqueue::broker::state::StateLimits;
use mqueue::proto::Limits;

/// The time of syncing the log, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SyncWhen {
    /// Before a producer gets OK
    Always,
    /// Every --sync-timeout: a crash of the machine loses messages since the last sync, a crash of
    /// the process none
    Interval,
    /// Left to the system
    Never,
}

impl From<SyncWhen> for SyncMode {
    fn from(when: SyncWhen) -> Self {
        match when {
            SyncWhen::Always => Self::Always,
            SyncWhen::Interval => Self::Interval,
            SyncWhen::Never => Self::Never,
        }
    }
}

/// Commands besides running the broker.
#[derive(Debug, clap::Subcommand)]
#[allow(missing_docs, reason = "a doc comment here would hide the long description of the arguments")]
pub(crate) enum BrokerCommand {
    Import(ImportArgs),
    Verify(VerifyArgs),
    Backup(BackupArgs),
    ArmTimer(ArmTimerArgs),
}

/// Run an nsqd-compatible broker for one machine
///
/// Messages are in a log on disk before a producer gets OK, so a crash of the broker loses none.
/// Clients of nsqd, nsqadmin and nsqlookupd work with it. Flags are named as nsqd's and have its
/// defaults.
///
/// Exit code: 0; 1 if the log cannot be used or an address cannot be listened on; 2 for invalid
/// flags or settings.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(args_override_self = true, args_conflicts_with_subcommands = true)]
#[command(display_name = "nsqd", version = VERSION)]
pub(crate) struct Args {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: Option<BrokerCommand>,

    /// Address of NSQ's TCP protocol: HOST:PORT (port 0: any free port), :PORT (all addresses) or
    /// unix:/PATH; several with commas
    #[arg(
        long,
        env = "MQUEUE_TCP_ADDRESS",
        value_name = "ADDRESS",
        value_delimiter = ',',
        overrides_with = "tcp_address",
        default_value = "127.0.0.1:4150"
    )]
    pub tcp_address: Vec<ListenAddress>,

    /// Address of the HTTP API, in the same forms; empty: no HTTP
    #[arg(
        long,
        env = "MQUEUE_HTTP_ADDRESS",
        value_name = "ADDRESS",
        value_delimiter = ',',
        overrides_with = "http_address",
        default_value = "127.0.0.1:4151",
        value_parser = maybe_address
    )]
    pub http_address: Vec<MaybeAddress>,

    /// Threads that serve connections [default: a quarter of the processors, at least 1]
    #[arg(long, env = "MQUEUE_THREADS", value_name = "N", value_parser = whole::<usize>(1..=1024))]
    pub threads: Option<usize>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub sleep: SleepArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub nsqd: NsqdArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub storage: StorageArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub discovery: DiscoveryArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broadcast_ports: BroadcastPortArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: LimitArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub security: BrokerSecurityArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub statistics: StatisticsArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub page: PageArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub http_guard: HttpGuardArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub ignored: IgnoredArgs,

    /// Warnings about the configuration file.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

/// Version in nsqd's form, `nsqd v1.3.0 (built w/go1.21)`.
const VERSION: &str = concat!("v1.3.0 (built w/mqueue ", env!("CARGO_PKG_VERSION"), ")");

/// Storage of messages.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Storage")]
pub(crate) struct StorageArgs {
    /// Folder of the log; created if missing
    #[arg(
        long,
        env = "MQUEUE_DATA_PATH",
        value_name = "PATH",
        value_parser = folder,
        default_value = "mqueue-data"
    )]
    pub data_path: PathBuf,

    /// When to sync the log to disk: always (before OK), interval (every --sync-timeout: a crash
    /// of the broker loses nothing, a crash of the machine that time), never (left to the system)
    #[arg(
        long,
        env = "MQUEUE_SYNC",
        value_name = "WHEN",
        value_enum,
        default_value = "interval",
        conflicts_with = "memory"
    )]
    pub sync: SyncWhen,

    /// Time between syncs with --sync interval
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "100ms")]
    pub sync_timeout: Duration,

    /// Number of published messages that --sync interval syncs without waiting for --sync-timeout
    /// [default: none]
    #[arg(long, value_name = "N", value_parser = go_whole::<u64>(..))]
    pub sync_every: Option<u64>,

    /// Size at which the log begins a new file, in bytes
    #[arg(long, value_name = "BYTES", value_parser = file_bytes, default_value_t = LogOptions::SEGMENT_BYTES)]
    pub max_bytes_per_file: u32,

    /// Keep messages in memory only, without a log; they are lost when the process ends
    #[arg(
        long,
        env = "MQUEUE_MEMORY",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set,
        default_value_t = false,
        default_missing_value = "true",
        value_parser = boolean
    )]
    pub memory: bool,

    /// Limit on message bodies in memory, in bytes; above it bodies are read back from the log, or
    /// with --memory publishing is refused [default: 8 MiB, with --memory 1 GiB]
    #[arg(long, env = "MQUEUE_MAX_MEMORY", value_name = "BYTES", value_parser = whole::<usize>(..))]
    pub max_memory: Option<usize>,

    /// Limit on memory for messages besides their bodies, in bytes; above it publishing is refused
    /// until messages are finished or deleted [default: half of the memory that is free at the
    /// start]
    #[arg(long, env = "MQUEUE_MAX_INDEX_MEMORY", value_name = "BYTES", value_parser = whole::<usize>(1..))]
    pub max_index_memory: Option<usize>,

    /// Messages that an ephemeral channel holds; further ones are dropped
    #[arg(long, value_name = "N", value_parser = go_whole::<usize>(..), default_value_t = 10_000)]
    pub mem_queue_size: usize,
}

/// Sleeping behind sockets of systemd's.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Sleep")]
pub(crate) struct SleepArgs {
    /// Exit when no client has been connected for this time and nothing is in flight; a connection
    /// to a socket of systemd's starts the broker again, so it has no effect without those; 0: stay
    /// [default: 0]
    #[arg(long, env = "MQUEUE_IDLE_EXIT", value_name = "DURATION", value_parser = idle_time, conflicts_with = "memory")]
    pub idle_exit: Option<Duration>,

    /// Folder with the sockets of sleeping consumers, which the broker pokes itself, as wakeup does:
    /// every socket in it belongs to a sleeping consumer; repeatable [default: none, the broker
    /// wakes nobody]
    ///
    /// A client can give a group any name, and so have any socket of the folder poked: never name a
    /// folder with sockets of other programs, such as /run or /tmp.
    #[arg(long, env = "MQUEUE_SOCKET_DIR", value_name = "PATH", value_delimiter = ',')]
    pub socket_dir: Vec<PathBuf>,

    /// Waiting messages for each consumer of a group with numbered sockets
    #[arg(long, env = "MQUEUE_PER_CONSUMER", value_name = "N", default_value_t = 1000, value_parser = whole::<u64>(1..))]
    pub per_consumer: u64,
}

fn idle_time(text: &str) -> Result<Duration, String> {
    let idle = duration(text)?;
    let is_allowed = idle.is_zero() || idle >= MIN_IDLE;
    is_allowed.then_some(idle).ok_or_else(|| "use at least 100ms, or 0".to_owned())
}

impl SleepArgs {
    /// Returns the time without a client after which the broker exits, if it does.
    pub(crate) fn idle_exit(&self) -> Option<Duration> {
        self.idle_exit.filter(|idle| !idle.is_zero())
    }
}

/// Discovery by nsqlookupd.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Discovery")]
pub(crate) struct DiscoveryArgs {
    /// TCP address of an nsqlookupd to register with; repeatable [default: none]
    #[arg(long, env = "LOOKUPD_TCP_ADDRESS", value_name = "HOST:PORT", value_delimiter = ',', value_parser = crate::commands::common::values::host_port)]
    pub lookupd_tcp_address: Vec<String>,

    /// Address that nsqlookupd gives to clients [default: the host name]
    #[arg(long, env = "MQUEUE_BROADCAST_ADDRESS", value_name = "HOST")]
    pub broadcast_address: Option<String>,
}

/// Limits on clients.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Largest message, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = go_whole::<u32>(1..=1 << 30))]
    pub max_msg_size: u32,

    /// Largest body of a command (MPUB, IDENTIFY), in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 5 << 20, value_parser = go_whole::<u32>(1..=1 << 30))]
    pub max_body_size: u32,

    /// Message timeout of clients that set none
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "60s")]
    pub msg_timeout: Duration,

    /// Longest time that a message may be in flight
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "15m")]
    pub max_msg_timeout: Duration,

    /// Longest delay of a deferred or requeued message
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1h")]
    pub max_req_timeout: Duration,

    /// Longest heartbeat interval that a client may set
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "60s")]
    pub max_heartbeat_interval: Duration,

    /// Largest output buffer that a client may ask for, in bytes
    #[arg(long, value_name = "BYTES", value_parser = go_whole::<u32>(..), default_value_t = 64 << 10)]
    pub max_output_buffer_size: u32,

    /// Longest output buffer timeout that a client may ask for; output is never held back
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "30s")]
    pub max_output_buffer_timeout: Duration,

    /// Shortest output buffer timeout that a client may ask for
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "25ms")]
    pub min_output_buffer_timeout: Duration,

    /// Output buffer timeout that IDENTIFY reports to clients that ask for none
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "250ms")]
    pub output_buffer_timeout: Duration,

    /// Largest RDY count of a connection
    #[arg(long, value_name = "N", value_parser = go_whole::<u32>(..), default_value_t = 2500)]
    pub max_rdy_count: u32,

    /// Largest number of consumers of a channel; 0: no limit; below 0: none, as in nsqd
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = consumers, allow_negative_numbers = true)]
    pub max_channel_consumers: i64,
}

fn consumers(text: &str) -> Result<i64, String> {
    integer(text).ok_or_else(|| "use a whole number".to_owned())
}

/// The log rounds the size of its files to what it can use.
fn file_bytes(text: &str) -> Result<u32, String> {
    let bytes = go_whole::<u64>(1..)(text)?;
    Ok(u32::try_from(bytes).unwrap_or(u32::MAX).clamp(64 << 10, 1 << 30))
}

/// The number of threads on a machine with this many processors: the clients, the system's network
/// and the handlers want most of them.
fn default_threads(processors: usize) -> usize {
    (processors / 4).max(1)
}

/// An address, or none.
pub(crate) type MaybeAddress = Option<ListenAddress>;

pub(super) fn maybe_address(text: &str) -> Result<MaybeAddress, String> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// Reads the folder of the log; as in nsqd, an empty path is the current folder.
fn folder(text: &str) -> Result<PathBuf, Infallible> {
    Ok(PathBuf::from(if text.is_empty() { "." } else { text }))
}

impl Args {
    /// Returns the warnings about flags and the configuration file, before the broker starts.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let hidden = self.is_hidden_from_clients().then(|| {
            "nsqlookupd sends clients of other machines to this broker, which listens on 127.0.0.1 only: \
             nsqd's default is --tcp-address 0.0.0.0:4150"
                .to_owned()
        });
        let may_sleep = self.sleep.idle_exit().is_some();
        let is_forgotten = (may_sleep && !self.discovery.lookupd_tcp_address.is_empty()).then(|| {
            "nsqlookupd forgets this broker while it sleeps (--idle-exit): clients that find it there do not wake it"
                .to_owned()
        });
        let flags = self.warnings.iter().cloned().chain(self.ignored.warnings()).chain(self.security.warnings());
        flags.chain(hidden).chain(is_forgotten)
    }

    /// True if nsqlookupd gives clients an address on which the broker does not listen.
    fn is_hidden_from_clients(&self) -> bool {
        let is_local = |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let listens_locally = |address: &ListenAddress| match address {
            ListenAddress::Tcp(address) => is_local(address.host()),
            ListenAddress::Unix(_) => false,
        };
        let discovery = &self.discovery;
        let is_remote = !discovery.broadcast_address.as_deref().is_some_and(is_local);
        let has_own_port = self.broadcast_ports.broadcast_tcp_port != 0;
        let is_registered = !discovery.lookupd_tcp_address.is_empty();
        is_registered && is_remote && !has_own_port && self.tcp_address.iter().all(listens_locally)
    }

    /// Returns the number of threads that serve connections.
    pub(crate) fn threads(&self) -> usize {
        let default = || std::thread::available_parallelism().map_or(1, |processors| default_threads(processors.get()));
        self.threads.unwrap_or_else(default)
    }

    /// Returns the addresses of the HTTP API.
    pub(crate) fn http_addresses(&self) -> Vec<ListenAddress> {
        self.http_address.iter().flatten().cloned().collect()
    }

    /// Returns the configuration of the broker.
    ///
    /// # Errors
    /// Files for TLS that cannot be used, or flags that make no sense together.
    pub(crate) fn config(&self) -> anyhow::Result<BrokerConfig> {
        let (storage, limits) = (&self.storage, &self.limits);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let signed = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let max_req_timeout = millis(limits.max_req_timeout);
        let mut config = BrokerConfig {
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
                max_index_memory: storage
                    .max_index_memory
                    .unwrap_or_else(mqueue::broker::memory::half_of_available_memory),
                node_id: self.nsqd.node_id(),
            },
            max_rdy_count: u64::from(limits.max_rdy_count),
            msg_timeout: millis(limits.msg_timeout),
            max_heartbeat_interval: signed(limits.max_heartbeat_interval),
            max_output_buffer_size: limits.max_output_buffer_size.into(),
            output_buffer_timeout: (signed(limits.min_output_buffer_timeout), signed(limits.max_output_buffer_timeout)),
            default_output_buffer_timeout: signed(limits.output_buffer_timeout),
            log_level: self.nsqd.log_level.unwrap_or_default(),
            ..BrokerConfig::default()
        };
        self.security.apply(&mut config)?;
        self.statistics.apply(&mut config);
        Ok(config)
    }
}

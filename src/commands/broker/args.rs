//! `mqueue broker`: flags with nsqd's names and defaults.

use std::path::PathBuf;
use std::time::Duration;

use super::import::ImportArgs;
use super::security_args::BrokerSecurityArgs;
use crate::commands::common::values::whole;
use mqueue::broker::BrokerConfig;
use mqueue::broker::log::SyncMode;
use mqueue::broker::server::ListenAddress;
use mqueue::broker::state::StateLimits;
use mqueue::proto::Limits;

/// The time of syncing the log, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SyncWhen {
    /// Before a producer gets OK
    Always,
    /// Every 100 ms: a crash of the machine loses messages since the last sync, a crash of the process none
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
}

/// Run an nsqd-compatible broker for one machine
///
/// Messages are in a log on disk before a producer gets OK, so a crash of the broker loses none.
/// Clients of nsqd, nsqadmin and nsqlookupd work with it. Flags are named as nsqd's and have its
/// defaults.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: Option<BrokerCommand>,

    /// Address of NSQ's TCP protocol: HOST:PORT (port 0: any free port), :PORT (all addresses) or
    /// unix:/PATH; repeatable
    #[arg(
        long,
        env = "MQUEUE_TCP_ADDRESS",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1:4150"
    )]
    pub tcp_address: Vec<ListenAddress>,

    /// Address of the HTTP API, in the same forms; repeatable; empty: no HTTP
    #[arg(
        long,
        env = "MQUEUE_HTTP_ADDRESS",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1:4151",
        value_parser = maybe_address
    )]
    pub http_address: Vec<MaybeAddress>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub storage: StorageArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub discovery: DiscoveryArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: LimitArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub security: BrokerSecurityArgs,
}

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
        overrides_with = "data_path",
        default_value = "mqueue-data"
    )]
    pub data_path: PathBuf,

    /// When to sync the log to disk: always (before OK), interval (every 100 ms: a crash of the
    /// broker loses nothing, a crash of the machine up to 100 ms), never (left to the system)
    #[arg(
        long,
        env = "MQUEUE_SYNC",
        value_name = "WHEN",
        value_enum,
        default_value = "interval",
        conflicts_with = "memory"
    )]
    pub sync: SyncWhen,

    /// Keep messages in memory only, without a log; they are lost when the process ends [default:
    /// false]
    #[arg(long, env = "MQUEUE_MEMORY")]
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
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..), default_value_t = 10_000)]
    pub mem_queue_size: usize,
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
    #[arg(long, env = "MQUEUE_BROADCAST_ADDRESS", value_name = "HOST", overrides_with = "broadcast_address")]
    pub broadcast_address: Option<String>,
}

/// Limits on clients.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Largest message, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_msg_size: u32,

    /// Largest body of a command (MPUB, IDENTIFY), in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 5 << 20, value_parser = whole::<u32>(1..=1 << 30))]
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

    /// Largest RDY count of a connection
    #[arg(long, value_name = "N", value_parser = whole::<u32>(..), default_value_t = 2500)]
    pub max_rdy_count: u32,

    /// Largest number of consumers of a channel; 0: no limit; below 0: none, as in nsqd
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = consumers, allow_negative_numbers = true)]
    pub max_channel_consumers: i64,
}

fn consumers(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "use a whole number".to_owned())
}

/// An address, or none.
pub(crate) type MaybeAddress = Option<ListenAddress>;

fn maybe_address(text: &str) -> Result<MaybeAddress, String> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// Parses a duration as nsqd does (Go's `time.ParseDuration`). A bare number is refused, because it could mean seconds or
/// milliseconds.
pub(super) fn go_duration(text: &str) -> Result<Duration, String> {
    let wrong = || match text.parse::<f64>() {
        Ok(_) => format!("say the unit: {text}s, {text}ms"),
        Err(_) => "use numbers with units: ns, us, ms, s, m, h (60s, 1m30s, 1.5h)".to_owned(),
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut sum) = (text, Duration::ZERO);
    loop {
        let unit = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(unit);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        match after {
            "" => return Ok(sum),
            more => rest = more,
        }
    }
}

impl Args {
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
            },
            max_rdy_count: u64::from(limits.max_rdy_count),
            msg_timeout: millis(limits.msg_timeout),
            max_heartbeat_interval: i64::try_from(millis(limits.max_heartbeat_interval)).unwrap_or(i64::MAX),
            ..BrokerConfig::default()
        };
        self.security.apply(&mut config)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_nsqd() {
        for (text, millis) in
            [("0", 0), ("60s", 60_000), ("1m30s", 90_000), ("1.5h", 5_400_000), (".5s", 500), ("1500us", 1), ("0s", 0)]
        {
            assert_eq!(go_duration(text).map(|duration| duration.as_millis()), Ok(millis), "{text}");
        }
        for wrong in ["60000", "", "s", "1d", "1M", "1m 30s", "-1s", "1.2.3s", "5m1", "1e3s", "999999999999999999999h"]
        {
            go_duration(wrong).expect_err(wrong);
        }
        assert_eq!(go_duration("60000").unwrap_err(), "say the unit: 60000s, 60000ms");
    }
}

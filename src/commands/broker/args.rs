//! `mqueue broker`: its flags are named as nsqd's are, and have nsqd's defaults.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::common::values::whole;
use mqueue::broker::BrokerConfig;
use mqueue::broker::log::SyncMode;
use mqueue::broker::server::ListenAddress;
use mqueue::broker::state::StateLimits;
use mqueue::proto::Limits;

/// When the log is synced to the disk, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SyncWhen {
    /// Before a producer is told OK
    Always,
    /// At intervals: a crash of the machine loses what came since, one of the process nothing
    Interval,
    /// When the system likes
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

/// An nsqd in this program, for one machine: nothing else has to be installed.
///
/// Messages are in a log on disk before a producer is told OK, so a crash of the broker loses none. nsqd's clients, nsqadmin and
/// nsqlookupd work with it.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Where NSQ's TCP protocol is spoken: HOST:PORT (port 0: any free one), :PORT (every address) or unix:/PATH; repeatable
    #[arg(long, env = "TCP_ADDRESS", value_name = "ADDRESS", value_delimiter = ',', default_value = "127.0.0.1:4150")]
    pub tcp_address: Vec<ListenAddress>,

    /// Where the HTTP API is served; repeatable. Empty: nowhere
    #[arg(
        long,
        env = "HTTP_ADDRESS",
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
}

/// Where messages are kept.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Storage")]
pub(crate) struct StorageArgs {
    /// Where the log is; made if it is missing
    #[arg(long, env = "DATA_PATH", value_name = "PATH", overrides_with = "data_path", default_value = "mqueue-data")]
    pub data_path: PathBuf,

    /// When the log is synced to the disk: always (before OK), interval (each 100 ms: a crash of the broker loses nothing, one of the
    /// machine what came since), never (when the system likes)
    #[arg(long, env = "SYNC", value_name = "WHEN", value_enum, default_value = "interval", conflicts_with = "memory")]
    pub sync: SyncWhen,

    /// No log: messages are in memory only, and gone with the process [default: false]
    #[arg(long, env = "MEMORY")]
    pub memory: bool,

    /// Bytes of message bodies in memory. Beyond, they are read back from the log; with --memory, publishing is refused
    /// [default: 8 MiB, with --memory 1 GiB]
    #[arg(long, env = "MAX_MEMORY", value_name = "BYTES", value_parser = whole::<usize>(..))]
    pub max_memory: Option<usize>,

    /// Bytes of memory that messages take besides their bodies. Beyond, publishing is refused until some are finished or deleted
    /// [default: half of what the machine, or the control group, has left at the start]
    #[arg(long, env = "MAX_INDEX_MEMORY", value_name = "BYTES", value_parser = whole::<usize>(1..))]
    pub max_index_memory: Option<usize>,

    /// Copies that wait in an ephemeral channel; what comes beyond is dropped
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..), default_value_t = 10_000)]
    pub mem_queue_size: usize,
}

/// How others find it.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Discovery")]
pub(crate) struct DiscoveryArgs {
    /// nsqlookupd's TCP address, to register with; repeatable [default: none]
    #[arg(long, env = "LOOKUPD_TCP_ADDRESS", value_name = "HOST:PORT", value_delimiter = ',', value_parser = crate::commands::common::values::host_port)]
    pub lookupd_tcp_address: Vec<String>,

    /// The address that nsqlookupd gives to clients [default: the machine's name]
    #[arg(long, env = "BROADCAST_ADDRESS", value_name = "HOST", overrides_with = "broadcast_address")]
    pub broadcast_address: Option<String>,
}

/// What clients may ask for.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// The largest message, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_msg_size: u32,

    /// The largest body of a command (MPUB, IDENTIFY), in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 5 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_body_size: u32,

    /// How long a client that does not say has for a message
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "60s")]
    pub msg_timeout: Duration,

    /// The longest that a message may be in flight
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "15m")]
    pub max_msg_timeout: Duration,

    /// The longest delay of a message
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1h")]
    pub max_req_timeout: Duration,

    /// The longest time between heartbeats that a client may ask for
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "60s")]
    pub max_heartbeat_interval: Duration,

    /// The highest RDY
    #[arg(long, value_name = "N", value_parser = whole::<u32>(..), default_value_t = 2500)]
    pub max_rdy_count: u32,

    /// Consumers of one channel; 0: any number; below, as in nsqd: none
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

/// Reads a duration as nsqd does (Go's `time.ParseDuration`): a bare number is none, for it would be seconds to one and milliseconds
/// to another.
fn go_duration(text: &str) -> Result<Duration, String> {
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
    /// Where the HTTP API is served.
    pub(crate) fn http_addresses(&self) -> Vec<ListenAddress> {
        self.http_address.iter().flatten().cloned().collect()
    }

    /// The settings of the broker itself.
    pub(crate) fn config(&self) -> BrokerConfig {
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
                max_index_memory: storage.max_index_memory.unwrap_or_else(mqueue::broker::memory::half_of_what_is_left),
            },
            max_rdy_count: u64::from(limits.max_rdy_count),
            msg_timeout: millis(limits.msg_timeout),
            max_heartbeat_interval: i64::try_from(millis(limits.max_heartbeat_interval)).unwrap_or(i64::MAX),
            ..BrokerConfig::default()
        }
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

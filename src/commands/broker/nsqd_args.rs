//! Flags that exist for nsqd's users: the configuration file, the log level, the broker's names and
//! numbers.

use mqueue::broker::LogLevel;
use mqueue::broker::http::Identity;

use super::go_flags::go_whole;
use crate::commands::common::values::{MaybePath, maybe_path};

/// The configuration file, and the log level.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct NsqdArgs {
    /// nsqd's configuration file (TOML); flags and environment variables take precedence [default:
    /// none]
    #[arg(long, value_name = "PATH", value_parser = maybe_path, default_value = "", hide_default_value = true)]
    pub config: MaybePath,

    /// Log level, in nsqd's words: debug, info, warn, error or fatal; --log is finer [default:
    /// info]
    #[arg(long, value_name = "LEVEL", value_parser = str::parse::<LogLevel>)]
    pub log_level: Option<LogLevel>,

    /// Number of the broker in message ids, 0 to 1023; different for each broker of a cluster
    /// [default: a hash of the host name]
    #[arg(long, value_name = "N", value_parser = go_whole::<u16>(0..=1023))]
    pub node_id: Option<u16>,
}

impl NsqdArgs {
    /// Returns `--node-id`, or a hash of the host name.
    pub(crate) fn node_id(&self) -> u16 {
        self.node_id.unwrap_or_else(default_node_id)
    }
}

/// Returns the number of a broker on this host that was given none: a hash of the host name.
pub(super) fn default_node_id() -> u16 {
    let name = nix::unistd::gethostname().unwrap_or_default();
    (crc32fast::hash(name.as_encoded_bytes()) % 1024) as u16
}

/// Ports that nsqlookupd gives to clients.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Discovery")]
pub(crate) struct BroadcastPortArgs {
    /// TCP port that nsqlookupd gives to clients; 0: the first of --tcp-address
    #[arg(long, value_name = "N", value_parser = go_whole::<u16>(..), default_value_t = 0)]
    pub broadcast_tcp_port: u16,

    /// HTTP port that nsqlookupd gives to clients; 0: the first of --http-address
    #[arg(long, value_name = "N", value_parser = go_whole::<u16>(..), default_value_t = 0)]
    pub broadcast_http_port: u16,
}

impl BroadcastPortArgs {
    /// Sets the ports that were given.
    pub(crate) fn apply(&self, identity: &mut Identity) {
        let set = |port: &mut u16, given: u16| *port = if given == 0 { *port } else { given };
        set(&mut identity.broadcast_tcp_port, self.broadcast_tcp_port);
        set(&mut identity.broadcast_http_port, self.broadcast_http_port);
    }
}

//! Configuration of a broker, with nsqd's defaults (`nsqd/options.go`).

use std::sync::Arc;

use super::auth::AuthServers;
use super::log_level::LogLevel;
use super::state::{LatencySettings, StateLimits};
use super::statsd::StatsdSettings;
use crate::net::tls::TlsServer;
use crate::proto::Limits;

/// Settings of connections and requests, and of the state.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Limits of commands' parameters and sizes.
    pub limits: Limits,
    /// Limits that the state enforces.
    pub state: StateLimits,
    /// Maximum RDY count.
    pub max_rdy_count: u64,
    /// Default message timeout in milliseconds.
    pub msg_timeout: u64,
    /// Maximum heartbeat interval that a client may request, in milliseconds.
    pub max_heartbeat_interval: i64,
    /// Maximum output buffer size that a client may request, in bytes.
    pub max_output_buffer_size: i64,
    /// Output buffer timeout of clients that request none, in milliseconds. Output is never held
    /// back, whatever is requested.
    pub default_output_buffer_timeout: i64,
    /// Minimum and maximum output buffer timeout that a client may request, in milliseconds.
    pub output_buffer_timeout: (i64, i64),
    /// The log level at the start, as reported; the program sets it.
    pub log_level: LogLevel,
    /// TLS, for clients that ask for it.
    pub tls: Option<Arc<TlsServer>>,
    /// Refusal of clients without TLS.
    pub tls_required: TlsRequired,
    /// True if clients may ask for deflate.
    pub deflate: bool,
    /// Maximum level of deflate that a client may request: 1 to 9.
    pub max_deflate_level: u32,
    /// True if clients may ask for snappy.
    pub snappy: bool,
    /// AUTH, which clients then need before SUB and PUB.
    pub auth: Option<AuthServers>,
    /// Export of statistics to statsd.
    pub statsd: StatsdSettings,
    /// Quantiles of end-to-end latencies.
    pub latency: LatencySettings,
}

/// Refusal of connections without TLS (`--tls-required`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsRequired {
    /// No connection is refused.
    #[default]
    No,
    /// NSQ's TCP protocol needs TLS, HTTP does not: `tcp-https`.
    TcpOnly,
    /// Everything needs TLS: `true`.
    Yes,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            state: StateLimits::default(),
            max_rdy_count: 2500,
            msg_timeout: 60_000,
            max_heartbeat_interval: 60_000,
            max_output_buffer_size: 64 * 1024,
            default_output_buffer_timeout: 250,
            output_buffer_timeout: (25, 30_000),
            log_level: LogLevel::Info,
            tls: None,
            tls_required: TlsRequired::No,
            deflate: true,
            max_deflate_level: 6,
            snappy: true,
            auth: None,
            statsd: StatsdSettings::default(),
            latency: LatencySettings::default(),
        }
    }
}

//! Configuration of a broker, with nsqd's defaults (`nsqd/options.go`).

use super::state::StateLimits;
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
    /// Minimum and maximum output buffer timeout that a client may request, in milliseconds. Output
    /// is never held back, whatever is requested.
    pub output_buffer_timeout: (i64, i64),
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
            output_buffer_timeout: (25, 30_000),
        }
    }
}

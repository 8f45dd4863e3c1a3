//! What a broker can be told, with nsqd's defaults (`nsqd/options.go`).

use super::state::StateLimits;
use crate::proto::Limits;

/// The settings that connections and requests see.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// What commands may ask for.
    pub limits: Limits,
    /// What the state heeds.
    pub state: StateLimits,
    /// The highest RDY.
    pub max_rdy_count: u64,
    /// How long a client that does not say has for a message, in milliseconds.
    pub msg_timeout: u64,
    /// The longest time between heartbeats that a client may ask for, in milliseconds.
    pub max_heartbeat_interval: i64,
    /// The largest output buffer that a client may ask for, in bytes.
    pub max_output_buffer_size: i64,
    /// The shortest and the longest time that output may be held back, in milliseconds. None is: it goes out at once.
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

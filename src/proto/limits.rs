//! Limits on a peer's commands, checked before memory is allocated.

/// Limits above which a command is refused, in bytes unless stated otherwise. The defaults are nsqd
/// 1.3.0's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest message body (nsqd's `--max-msg-size`).
    pub max_msg_size: u32,
    /// The largest command body: MPUB, IDENTIFY, AUTH (nsqd's `--max-body-size`).
    pub max_body_size: u32,
    /// The longest delay of a DPUB or REQ in milliseconds (nsqd's `--max-req-timeout`).
    pub max_req_timeout: u64,
    /// The longest command line, without its body. nsqd's limit is its read buffer of 16 KiB.
    pub max_line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_msg_size: 1 << 20, max_body_size: 5 << 20, max_req_timeout: 3_600_000, max_line: 16 * 1024 }
    }
}

//! What a peer may ask for, checked before anything is allocated.

/// Sizes in bytes above which a command or frame is refused. The defaults are nsqd 1.3.0's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// One message's body (nsqd's `--max-msg-size`).
    pub max_msg_size: u32,
    /// A command's whole body: MPUB, IDENTIFY, AUTH (nsqd's `--max-body-size`).
    pub max_body_size: u32,
    /// How far a DPUB or REQ may put a message off, in milliseconds (nsqd's `--max-req-timeout`).
    pub max_req_timeout: u64,
    /// A command's line, without its body. nsqd's is the size of its read buffer.
    pub max_line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_msg_size: 1 << 20, max_body_size: 5 << 20, max_req_timeout: 3_600_000, max_line: 16 * 1024 }
    }
}

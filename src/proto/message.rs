//! Messages as nsqd sends them to a consumer.
//!
//! ```text
//!  ┌────────────────────────┬──────────────┬──────────────┬──────┐
//!  │ publish time, ns  (8)  │ attempts (2) │ id, hex (16) │ body │   integers big-endian
//!  └────────────────────────┴──────────────┴──────────────┴──────┘
//! ```

use std::fmt;

use bytes::{Buf, Bytes};

/// A message's id: 16 bytes, opaque to clients (lower-case hex in practice).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub [u8; MessageId::LENGTH]);

impl MessageId {
    /// Bytes in an id.
    pub const LENGTH: usize = 16;

    /// The id in `bytes`; `None` unless there are exactly [`LENGTH`](Self::LENGTH) bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A message as delivered by nsqd. Cheap to clone: the body is shared.
///
/// nsqd limits a body to `--max-msg-size`: 1 MiB by default.
///
/// # Examples
/// ```
/// use mqueue::proto::{Message, MessageId};
///
/// let id = MessageId(*b"0123456789abcdef");
/// let message = Message { timestamp: 0, attempts: 2, id, body: "hello".into() };
/// assert!(message.attempts > 1); // redelivered
/// assert_eq!(&message.body[..], b"hello");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Publish time in nanoseconds since 1970 by nsqd's clock.
    pub timestamp: i64,
    /// Number of deliveries, this one included: the first delivery has 1.
    pub attempts: u16,
    /// The id, the same in every channel of the topic and at every attempt.
    pub id: MessageId,
    /// The published body.
    pub body: Bytes,
}

impl Message {
    /// Bytes before the body.
    pub const HEADER: usize = 8 + 2 + MessageId::LENGTH;

    /// Parses a message frame's data; `None` if it is shorter than [`HEADER`](Self::HEADER).
    pub fn decode(mut data: Bytes) -> Option<Self> {
        if data.len() < Self::HEADER {
            return None;
        }
        let timestamp = data.get_i64();
        let attempts = data.get_u16();
        let mut id = [0; MessageId::LENGTH];
        data.copy_to_slice(&mut id);
        Some(Self { timestamp, attempts, id: MessageId(id), body: data })
    }
}

impl fmt::Debug for Message {
    /// Shows the body's length instead of the body, which may be secret and large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("attempts", &self.attempts)
            .field("timestamp", &self.timestamp)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

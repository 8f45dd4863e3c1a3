//! NSQ's wire protocol (V2), pure: bytes in, values out, and back.
//!
//! ```text
//!  client                                   nsqd
//!    "  V2"  ─────────────────────────────▶
//!    Command ─────────────────────────────▶   one line, then for some a 4-byte size and a body
//!            ◀─────────────────────────────   Frame: 4-byte size, 4-byte type, data
//! ```
//!
//! This module does no I/O, reads no clock and checks every size before it trusts it. It serves
//! both ends: [`Command::decode`] reads the output of [`Command::encode`], and likewise for
//! [`Frame`]. It follows the source of nsqd 1.3.0 (`nsqd/protocol_v2.go`, `nsqd/message.go`) and
//! <https://nsq.io/clients/tcp_protocol_spec.html>.

mod bodies;
#[doc(hidden)]
pub mod check;
mod command;
mod error;
mod frame;
mod host;
mod identify;
#[cfg(feature = "lookup")]
pub mod json_body;
mod limits;
mod list;
mod message;
mod name;
#[cfg(feature = "lookup")]
mod peek;
mod queue_stats;
mod quote;
mod read_room;
pub mod stats;
#[cfg(test)]
mod tests;
mod write_buffer;

pub use bodies::Bodies;
pub use command::{Command, DecodeProgress};
pub use error::{ErrorCode, ProtocolError, WireError};
pub use frame::{Frame, FrameError, Response};
pub use host::{HostPort, InvalidHostPort, is_host};
pub use identify::{AuthReply, Identify, IdentifyReply};
pub use limits::Limits;
pub use list::List;
pub use message::{Message, MessageId};
pub use name::{ChannelName, InvalidName, TopicName};
#[cfg(feature = "lookup")]
pub use peek::{InvalidPeekState, PeekLine, PeekState, PeekedClient, PeekedMessage};
pub use queue_stats::{ChannelCounts, QueueStats, TopicCounts};
pub use quote::{escape_while, excerpt};
pub(crate) use read_room::read_room;
pub use write_buffer::WriteBuffer;

/// The protocol version, which a client sends first on a connection.
pub const MAGIC_V2: &[u8; 4] = b"  V2";

//! NSQ's wire protocol (V2), pure: bytes in, values out, and back.
//!
//! ```text
//!  client                                   nsqd
//!    "  V2"  ─────────────────────────────▶
//!    Command ─────────────────────────────▶   one line, then for some a 4-byte size and a body
//!            ◀─────────────────────────────   Frame: 4-byte size, 4-byte type, data
//! ```
//!
//! Nothing here does I/O, looks at a clock or trusts a size before it is checked. Both ends are served: what
//! [`Command::encode`] writes [`Command::decode`] reads, and likewise [`Frame`]. The source followed is nsqd 1.3.0
//! (`nsqd/protocol_v2.go`, `nsqd/message.go`) and <https://nsq.io/clients/tcp_protocol_spec.html>.

mod bodies;
#[doc(hidden)]
pub mod check;
mod command;
mod error;
mod frame;
mod host;
mod identify;
mod incoming;
mod limits;
mod list;
mod message;
mod name;
mod outgoing;
mod quote;
pub mod stats;
#[cfg(test)]
mod tests;

pub use bodies::Bodies;
pub use command::{Command, Unfinished};
pub use error::{ErrorCode, ProtocolError, WireError};
pub use frame::{Frame, FrameError, Response};
pub use host::{HostPort, InvalidHostPort, is_host};
pub use identify::{Identify, IdentifyReply};
pub(crate) use incoming::room;
pub use limits::Limits;
pub use list::List;
pub use message::{Message, MessageId};
pub use name::{ChannelName, InvalidName, TopicName};
pub use outgoing::Outgoing;
pub use quote::excerpt;

/// What a client says first on a connection: the protocol's version.
pub const MAGIC_V2: &[u8; 4] = b"  V2";

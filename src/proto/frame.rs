//! Frames from nsqd to a client.
//!
//! ```text
//!  ┌──────────┬──────────┬──────┐
//!  │ size (4) │ type (4) │ data │   big-endian; size counts type and data
//!  └──────────┴──────────┴──────┘   type 0 response, 1 error, 2 message
//! ```

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use super::{Message, MessageId, WireError, WriteBuffer};

const RESPONSE: u32 = 0;
const ERROR: u32 = 1;
const MESSAGE: u32 = 2;

/// Bytes before the data: the size and the type.
const HEADER: usize = 8;

/// The largest accepted response or error in bytes; only messages may be larger.
const MAX_ANSWER: u32 = 1 << 20;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The answer to a command, or a heartbeat.
    Response(Response),
    /// A command was refused.
    Error(WireError),
    /// A message of the subscribed channel.
    Message(Message),
}

/// The data of a response frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// The command was carried out.
    Ok,
    /// A heartbeat. The client answers with any command. A heartbeat may come before any other
    /// answer.
    Heartbeat,
    /// The answer to CLS: no more messages follow.
    CloseWait,
    /// Anything else: JSON, after IDENTIFY and AUTH.
    Data(Bytes),
}

impl Response {
    fn parse(data: Bytes) -> Self {
        match &data[..] {
            b"OK" => Self::Ok,
            b"_heartbeat_" => Self::Heartbeat,
            b"CLOSE_WAIT" => Self::CloseWait,
            _ => Self::Data(data),
        }
    }

    fn data(&self) -> Bytes {
        match self {
            Self::Ok => Bytes::from_static(b"OK"),
            Self::Heartbeat => Bytes::from_static(b"_heartbeat_"),
            Self::CloseWait => Bytes::from_static(b"CLOSE_WAIT"),
            Self::Data(data) => data.clone(),
        }
    }
}

/// Bytes that are not a frame: the peer is not nsqd, or the connection is out of sync. The
/// connection cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A size smaller than the type field, or above this client's maximum.
    #[error("the peer announced a frame of {size} bytes (4 to {max} are possible): is this nsqd's TCP port?")]
    Size {
        /// The announced size in bytes.
        size: u32,
        /// The maximum in bytes.
        max: u32,
    },
    /// A type other than 0, 1 and 2.
    #[error("the peer sent a frame of type {0}, which NSQ does not have: is this nsqd's TCP port?")]
    Type(u32),
    /// A message frame shorter than a message's header.
    #[error("the peer sent a message frame of {0} bytes, too short for its header")]
    ShortMessage(usize),
    /// The answer of an HTTP server.
    #[error("the peer speaks HTTP: name nsqd's TCP port (4150), not its HTTP port (4151)")]
    Http,
}

impl Frame {
    /// True if `bytes` begin a message frame, complete or not.
    pub(crate) fn is_message(bytes: &[u8]) -> bool {
        bytes.get(4..HEADER).is_some_and(|kind| kind == MESSAGE.to_be_bytes())
    }

    /// Takes the first frame from `buffer`; `None`, with `buffer` unchanged, until the frame is
    /// complete.
    ///
    /// # Errors
    /// A size above `max` (bytes, type included) fails as soon as the size field is there; no
    /// memory is allocated for it.
    pub fn decode(buffer: &mut BytesMut, max: u32) -> Result<Option<Self>, FrameError> {
        let Some(size) = Self::announced(buffer, max)? else { return Ok(None) };
        if buffer.len() < 4 + size {
            return Ok(None);
        }
        let mut frame = buffer.split_to(4 + size);
        frame.advance(4);
        let kind = frame.get_u32();
        let data = frame.freeze();
        match kind {
            RESPONSE => Ok(Some(Self::Response(Response::parse(data)))),
            ERROR => Ok(Some(Self::Error(WireError::parse(data)))),
            MESSAGE => {
                let length = data.len();
                Message::decode(data)
                    .map(|message| Some(Self::Message(message)))
                    .ok_or(FrameError::ShortMessage(length))
            }
            other => Err(FrameError::Type(other)),
        }
    }

    /// The announced length in bytes of the first frame in `buffer`, size field included.
    pub(crate) fn length(buffer: &[u8]) -> Option<usize> {
        buffer.first_chunk().map(|bytes| 4 + u32::from_be_bytes(*bytes) as usize)
    }

    /// The announced size of the first frame in `buffer` (bytes after the size field), checked;
    /// `None` until the size field is there.
    pub fn announced(buffer: &[u8], max: u32) -> Result<Option<usize>, FrameError> {
        let Some(size) = buffer.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else { return Ok(None) };
        let is_answer = buffer.get(4..HEADER).is_some_and(|kind| kind != MESSAGE.to_be_bytes());
        let max = if is_answer { max.min(MAX_ANSWER) } else { max };
        match size {
            _ if buffer.starts_with(b"HTTP") => Err(FrameError::Http),
            4.. if size <= max => Ok(Some(size as usize)),
            _ => Err(FrameError::Size { size, max }),
        }
    }

    /// Writes the frame as nsqd sends it.
    pub fn encode(&self, out: &mut WriteBuffer) {
        let mut head = |kind: u32, length: usize| {
            out.put_length(HEADER - 4 + length);
            out.put_slice(&kind.to_be_bytes());
        };
        match self {
            Self::Response(response) => {
                let data = response.data();
                head(RESPONSE, data.len());
                out.put_bytes(&data);
            }
            Self::Error(error) => {
                head(ERROR, error.text.len());
                out.put_bytes(&error.text);
            }
            Self::Message(Message { timestamp, attempts, id, body }) => {
                Self::encode_message(*timestamp, *attempts, id, body, 0..body.len(), out);
            }
        }
    }

    /// Writes a message frame whose body is a part of `bytes`; a large body is shared, not copied.
    pub fn encode_message(
        timestamp: i64,
        attempts: u16,
        id: &MessageId,
        bytes: &Bytes,
        body: Range<usize>,
        out: &mut WriteBuffer,
    ) {
        let mut head = [0; HEADER + Message::HEADER];
        let size = u32::try_from(HEADER - 4 + Message::HEADER + body.len()).expect("a body is far below 4 GiB");
        head[..4].copy_from_slice(&size.to_be_bytes());
        head[4..8].copy_from_slice(&MESSAGE.to_be_bytes());
        head[8..16].copy_from_slice(&timestamp.to_be_bytes());
        head[16..18].copy_from_slice(&attempts.to_be_bytes());
        head[18..].copy_from_slice(&id.0);
        out.put_slice(&head);
        out.put_shared(bytes, body);
    }
}

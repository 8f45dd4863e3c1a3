//! Recordings of streams: a folder of segments, which `record` writes and `replay` reads.
//!
//! ```text
//!  00000001-20261128T054758Z.mqrec       a segment; its number, and when it was begun
//!  ┌────────┬────────┬───────┬───────┬─────┬───────┬───────────────┐
//!  │ header │ header │ block │ block │ ... │ index │ segment's end │
//!  └────────┴────────┴───────┴───────┴─────┴───────┴───────────────┘
//!     block.rs: messages, compressed together, with the range of their publish times
//!     index.rs: the place and the times of each block, written when the segment is finished
//! ```
//!
//! A segment without its end is being written, or its writer was killed: its blocks are then found
//! one after the other. A block is complete and synced before any of its messages is finished, so
//! an incomplete block at the end holds only messages that nsqd delivers again.

mod block;
mod folder;
mod index;
mod segment_header;
mod segment_reader;
mod segment_writer;

use std::path::PathBuf;

use mqueue::proto::{Message, MessageId, TopicName};

pub(crate) use self::folder::{RecordingFolder, SegmentFile, segments};
pub(crate) use self::index::TimeRange;
pub(crate) use self::segment_reader::{FoundBlocks, SegmentReader};
pub(crate) use self::segment_writer::{SegmentWriter, uncompressed_bytes};

/// Bytes of a message in a block, besides its body.
const MESSAGE_HEAD: usize = 8 + 2 + MessageId::LENGTH + 4;

/// Part of a recording that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {bytes} bytes from byte {at} are damaged: {what}", .path.display())]
pub(crate) struct DamagedPart {
    pub(crate) path: PathBuf,
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    /// The messages that are lost, as far as they are known, and why.
    pub(crate) what: String,
}

/// Failure of reading or writing a recording.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordingError {
    #[error("{}: {error}", .path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{} is no segment of a recording, or of a later version of mqueue", .0.display())]
    NoSegment(PathBuf),
    #[error("{} is a recording of stream {found}, not of {wanted}: name another folder", .path.display())]
    OtherStream { path: PathBuf, found: TopicName, wanted: TopicName },
    #[error("another mqueue records to {}: name another folder", .0.display())]
    Locked(PathBuf),
    #[error("{} has no segments of a recording", .0.display())]
    Empty(PathBuf),
}

impl RecordingError {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}

/// Appends a message to the contents of a block.
fn add_message(message: &Message, contents: &mut Vec<u8>) {
    contents.extend_from_slice(&message.timestamp.to_le_bytes());
    contents.extend_from_slice(&message.attempts.to_le_bytes());
    contents.extend_from_slice(&message.id.0);
    let length = u32::try_from(message.body.len()).expect("NSQ's sizes have 31 bits");
    contents.extend_from_slice(&length.to_le_bytes());
    contents.extend_from_slice(&message.body);
}

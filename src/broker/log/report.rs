//! Report about opening a log.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::plural::count;
use crate::proto::TopicName;

/// Report about opening a log: displayed as one line; [`problems`](Self::problems) has a line for
/// each problem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments of the log.
    pub segments: u32,
    /// True if a checkpoint was read in place of the segments.
    pub is_from_checkpoint: bool,
    /// Bytes read.
    pub bytes: u64,
    /// Messages held by a topic or a channel.
    pub messages: u64,
    /// Duration of opening.
    pub took: Duration,
    /// Ends of segments with wrong checksums: interrupted writes, or damage.
    pub torn: Vec<Torn>,
    /// Damage to messages that may have been acknowledged.
    pub damage: Vec<Damage>,
    /// Segments of whose header one of the two copies is damaged, which cost nothing.
    pub damaged_header_copies: Vec<u32>,
}

/// The end of a segment that was cut off, because its checksum is wrong. The bytes are kept in
/// `NUMBER.log.torn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment's number.
    pub segment: u32,
    /// Bytes that were cut off.
    pub bytes: u64,
}

/// Damaged part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// Bytes of a segment. A link `NUMBER.log.damaged` keeps the file.
    Bytes {
        /// The segment's number.
        segment: u32,
        /// The range of bytes.
        range: Range<u64>,
    },
    /// A missing segment.
    Missing {
        /// Its number.
        segment: u32,
    },
    /// Messages that nobody holds, because the records that name their topic or their channels are
    /// damaged.
    Unknown {
        /// The topic's number.
        topic: u32,
        /// Its name, if only the channels are unknown.
        name: Option<TopicName>,
        /// The number of messages.
        messages: u64,
    },
}

impl RecoveryReport {
    /// True if messages may be lost, or delivered again.
    pub fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }

    /// A line for each fault that cost nothing, for the program's log.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.damaged_header_copies.iter().map(|segment| {
            format!(
                "{segment:010}.log: one of the two copies of its header is damaged; the other one was used, and \
                 nothing is lost: check the disk"
            )
        })
    }

    /// A line for each problem, for the program's log.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let torn = self.torn.iter().map(ToString::to_string);
        torn.chain(self.damage.iter().map(ToString::to_string))
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segments, is_from_checkpoint, bytes, messages, took, .. } = self;
        let (mb, seconds) = (*bytes as f64 / 1e6, took.as_secs_f64());
        let speed = mb / seconds.max(1e-6);
        let (messages, segments) = (count(*messages, "message"), count(*segments, "segment"));
        if *is_from_checkpoint {
            return write!(f, "{messages} from the checkpoint of {segments} in {seconds:.3} s");
        }
        write!(f, "{messages} from {segments}, {mb:.1} MB in {seconds:.3} s ({speed:.0} MB/s)")
    }
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, bytes } = self;
        write!(
            f,
            "{segment:010}.log: cut off the last {}: an interrupted write, or damaged messages, which may have been \
             acknowledged; the bytes are kept in {segment:010}.log.torn",
            count(*bytes, "byte")
        )
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { segment, range } => write!(
                f,
                "{segment:010}.log is damaged from byte {} to {}: messages may be lost or come again; \
                 see {segment:010}.log.damaged and check the disk",
                range.start, range.end
            ),
            Self::Unknown { topic, name, messages } => {
                let messages = count(*messages, "message");
                match name {
                    None => write!(f, "{messages} of topic number {topic} are lost: no undamaged record has its name")?,
                    Some(name) => {
                        write!(f, "{messages} of topic {name} are lost: no undamaged record has their channels")?;
                    }
                }
                write!(f, "; their bodies are in the files that end in .log.damaged")
            }
            Self::Missing { segment } => write!(
                f,
                "{segment:010}.log is missing: messages may be lost or come again; put it back with the broker stopped"
            ),
        }
    }
}

//! Outcome of an import.

use std::fmt;
use std::ops::Range;

use super::folder::METADATA;
use crate::plural::count;
use crate::proto::{ChannelName, TopicName, excerpt};

/// Outcome of an import: the numbers of messages, and what was found besides them.
#[derive(Debug, Default)]
pub struct ImportReport {
    /// The topics, by name.
    pub topics: Vec<ImportedTopic>,
    pub(super) remarks: Vec<Remark>,
}

/// Messages of one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportedQueue {
    /// The number of messages.
    pub messages: u64,
    /// The bytes of their bodies.
    pub bytes: u64,
}

/// An imported topic.
#[derive(Debug)]
pub struct ImportedTopic {
    /// The topic.
    pub name: TopicName,
    /// True if it is paused.
    pub paused: bool,
    /// Messages of the topic itself, which no channel has yet.
    pub queue: ImportedQueue,
    /// Its channels, by name.
    pub channels: Vec<ImportedChannel>,
}

/// An imported channel.
#[derive(Debug)]
pub struct ImportedChannel {
    /// The channel.
    pub name: ChannelName,
    /// True if it is paused.
    pub paused: bool,
    /// Its messages.
    pub queue: ImportedQueue,
}

impl ImportedQueue {
    pub(super) fn add(&mut self, length: u32) {
        self.messages += 1;
        self.bytes += u64::from(length);
    }
}

impl ImportReport {
    /// Messages of all queues; one that two channels have counts twice.
    pub fn total(&self) -> ImportedQueue {
        let queues = self.topics.iter().flat_map(|topic| {
            let channels = topic.channels.iter().map(|channel| channel.queue);
            std::iter::once(topic.queue).chain(channels)
        });
        queues.fold(ImportedQueue::default(), |sum, queue| ImportedQueue {
            messages: sum.messages + queue.messages,
            bytes: sum.bytes + queue.bytes,
        })
    }

    /// A line for each part that was not imported, or that nsqd did not leave as it should.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.remarks.iter().filter(|remark| remark.is_problem()).map(ToString::to_string)
    }

    /// A line for each file that was not read, and need not be.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.remarks.iter().filter(|remark| !remark.is_problem()).map(ToString::to_string)
    }
}

/// A remark about nsqd's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remark {
    /// nsqd.dat cannot be used.
    NoMetadata { error: String },
    /// A name that NSQ does not allow.
    InvalidName { name: String },
    /// A queue of a topic or channel that nsqd.dat does not have.
    NotListed { queue: String },
    /// Something else than a file, by a file's name.
    NoFile { file: String },
    /// A file that nsqd itself set aside.
    SetAside { file: String },
    /// A file before the position that nsqd had reached.
    Consumed { file: String },
    /// The positions of a queue are missing.
    NoPositions { queue: String },
    /// Bytes that are no message.
    Damaged { file: String, range: Range<u64> },
    /// A file that the disk cannot read to its end.
    Unreadable { file: String, error: String },
    /// Files that should be there.
    Missing { first: String, last: String },
    /// A position after the end of its file.
    BeyondEnd { file: String, at: u64, length: u64 },
    /// A number of messages other than stated.
    OtherDepth { queue: String, depth: u64, found: u64 },
}

impl Remark {
    fn is_problem(&self) -> bool {
        match self {
            Self::SetAside { .. } | Self::Consumed { .. } => false,
            Self::NoMetadata { .. }
            | Self::InvalidName { .. }
            | Self::NotListed { .. }
            | Self::NoFile { .. }
            | Self::NoPositions { .. }
            | Self::Damaged { .. }
            | Self::Unreadable { .. }
            | Self::Missing { .. }
            | Self::BeyondEnd { .. }
            | Self::OtherDepth { .. } => true,
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |name: &str| excerpt(name.as_bytes());
        match self {
            Self::NoMetadata { error } => write!(
                f,
                "{METADATA} {error}: topics and channels were taken from the names of the queues' files; those without \
                 messages, and pauses, are missing"
            ),
            Self::InvalidName { name } => write!(f, "{:?} is no name of a topic or channel: not imported", shown(name)),
            Self::NotListed { queue } => write!(f, "{queue} is not in {METADATA}; its messages were imported"),
            Self::NoFile { file } => write!(f, "{} is not a file: not imported", shown(file)),
            Self::SetAside { file } => write!(f, "{} was set aside by nsqd: not read", shown(file)),
            Self::Consumed { file } => write!(f, "{file} was consumed: not read"),
            Self::NoPositions { queue } => write!(
                f,
                "{queue}.diskqueue.meta.dat is missing or damaged: all of the queue was imported, and messages that were \
                 handled may come again"
            ),
            Self::Damaged { file, range } => {
                let bytes = count(range.end - range.start, "byte");
                write!(f, "{file}: {bytes} from byte {} on are no message: not imported", range.start)
            }
            Self::Unreadable { file, error } => write!(f, "{file} cannot be read to its end: {error}"),
            Self::Missing { first, last } if first == last => write!(f, "{first} is missing"),
            Self::Missing { first, last } => write!(f, "{first} to {last} are missing"),
            Self::BeyondEnd { file, at, length } => {
                write!(f, "{file} ends at byte {length}, before byte {at} up to which it was consumed: not imported")
            }
            Self::OtherDepth { queue, depth, found } => {
                let (depth, found) = (count(*depth, "message"), count(*found, "message"));
                write!(f, "{queue} should have {depth} and has {found}: it is damaged, or nsqd was killed")
            }
        }
    }
}

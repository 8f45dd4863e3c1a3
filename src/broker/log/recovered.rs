//! Contents of a log when it was opened.

use super::{ChannelCopy, ChannelId, LogLocation, TopicId, UnixMillis};
use crate::proto::{ChannelName, TopicName};

/// Topics and live messages, in the order of their creation.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The topics.
    pub topics: Vec<RecoveredTopic>,
    /// Messages held by a topic or a channel, by id.
    pub batches: Vec<RecoveredBatch>,
    /// The highest message id ever written.
    pub last_id: u64,
    /// The lowest number that was never given to a topic or a channel.
    pub next_number: u32,
}

/// A recovered topic with its channels.
#[derive(Debug)]
pub struct RecoveredTopic {
    /// Its number.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// True if it is paused.
    pub paused: bool,
    /// The highest fencing epoch seen.
    pub fence: u64,
    /// Its durable channels.
    pub channels: Vec<RecoveredChannel>,
}

/// A recovered channel.
#[derive(Debug)]
pub struct RecoveredChannel {
    /// Its number.
    pub id: ChannelId,
    /// Its name.
    pub name: ChannelName,
    /// True if it is paused.
    pub paused: bool,
}

/// Adjacent messages that were published together and have the same holders.
#[derive(Debug)]
pub struct RecoveredBatch {
    /// The id of the first; the others count up from it.
    pub id: u64,
    /// The number of messages.
    pub count: u32,
    /// Their topic.
    pub topic: TopicId,
    /// When they were published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// Location of the first body.
    pub location: LogLocation,
    /// The bytes of the bodies with their sizes.
    pub length: u32,
    /// When they are due, if the topic holds them and they are deferred.
    pub due: Option<UnixMillis>,
    /// The channels' copies of each message; empty if the topic holds the messages.
    pub copies: Vec<ChannelCopy>,
}

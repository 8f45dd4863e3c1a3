//! What a log held when it was opened.

use super::{ChannelCopy, ChannelId, LogLocation, TopicId, UnixMillis};
use crate::proto::{ChannelName, TopicName};

/// All that is still of use, in the order in which it came.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The topics.
    pub topics: Vec<RecoveredTopic>,
    /// Messages that somebody holds, by id.
    pub batches: Vec<RecoveredBatch>,
    /// The highest id that was ever written.
    pub last_id: u64,
    /// The lowest number that no topic and no channel ever had.
    pub next_number: u32,
}

/// A topic and its channels.
#[derive(Debug)]
pub struct RecoveredTopic {
    /// Its number.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Nothing is delivered.
    pub paused: bool,
    /// The highest epoch that was published in.
    pub fence: u64,
    /// Its durable channels.
    pub channels: Vec<RecoveredChannel>,
}

/// A channel.
#[derive(Debug)]
pub struct RecoveredChannel {
    /// Its number.
    pub id: ChannelId,
    /// Its name.
    pub name: ChannelName,
    /// Nothing is delivered.
    pub paused: bool,
}

/// Messages that lie one after the other, were published together, and are in the same hands.
#[derive(Debug)]
pub struct RecoveredBatch {
    /// The id of the first; the others count up from it.
    pub id: u64,
    /// How many.
    pub count: u32,
    /// Their topic.
    pub topic: TopicId,
    /// When they were published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// Where the first body lies.
    pub place: LogLocation,
    /// The bytes of the bodies with their sizes.
    pub length: u32,
    /// When they are due, where the topic has them and they are deferred.
    pub due: Option<UnixMillis>,
    /// The channels' copies of each; none if the topic has them.
    pub copies: Vec<ChannelCopy>,
}

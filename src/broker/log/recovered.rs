//! What a log held when it was opened.

use super::{ChannelId, Copy, Place, TopicId, UnixMillis};
use crate::proto::{ChannelName, TopicName};

/// All that is still of use, in the order in which it came.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The topics.
    pub topics: Vec<RecoveredTopic>,
    /// Messages that somebody holds, by id.
    pub messages: Vec<RecoveredMessage>,
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

/// A message, and who holds it.
#[derive(Debug)]
pub struct RecoveredMessage {
    /// Its id.
    pub id: u64,
    /// Its topic.
    pub topic: TopicId,
    /// When it was published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// Where its body lies.
    pub place: Place,
    /// The body's bytes.
    pub length: u32,
    /// When it is due, where the topic has it and it is deferred.
    pub due: Option<UnixMillis>,
    /// The channels' copies; none if the topic has it.
    pub copies: Vec<Copy>,
}

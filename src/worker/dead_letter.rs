//! Dead letters: messages that were given up, in a topic of their own, with the reason.
//!
//! ```text
//!  {"mqueue":"dead-letter","stream":"foo","group":"1","id":"…","attempts":5,…,"reason":"exit status 1"}\n
//!  the body, byte for byte as it was
//! ```
//!
//! NSQ has no headers, so the reason precedes the body: one line of JSON that any consumer can read
//! or skip. A body that is too large with this line is split: each part is a dead letter with the
//! same line, a part of the body, and `"part":1,"parts":2`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::client::{Address, Error, PublishError, Publisher, PublisherConfig};
use crate::proto::{ChannelName, ErrorCode, InvalidName, Message, TopicName};

const DEAD_LETTER_MARK: &str = "dead-letter";
/// The numbers of parts that are tried for a letter that is too large. Two are enough unless nsqd's
/// limit is below about 1,000 bytes.
const PART_COUNTS: [u32; 3] = [2, 4, 8];

/// A message that was given up, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Always `dead-letter`.
    mqueue: String,
    /// The message's topic.
    pub stream: TopicName,
    /// The channel whose consumer gave the message up.
    pub group: ChannelName,
    /// The message's id.
    pub id: String,
    /// The number of deliveries.
    pub attempts: u16,
    /// Publish time in nanoseconds since 1970.
    pub timestamp: i64,
    /// The time of giving up, in nanoseconds since 1970.
    pub died: i64,
    /// The reason, one line for people.
    pub reason: String,
    /// The part of the body in this letter; `None` if it is the whole body.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// The message's body.
    #[serde(skip)]
    pub body: Bytes,
}

/// A part of a letter that is too large for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// The part's number, from 1.
    #[serde(rename = "part")]
    pub number: u32,
    /// The number of parts.
    #[serde(rename = "parts")]
    pub of: u32,
}

/// The suffix of the name of a dead letters' topic.
const DEAD_SUFFIX: &str = ".dead";

impl DeadLetter {
    /// The default topic for dead letters: the topic's name and `.dead`, without `#ephemeral`.
    ///
    /// # Errors
    /// The name is too long.
    pub fn stream_of(topic: &TopicName) -> Result<TopicName, InvalidName> {
        TopicName::new(&format!("{}{DEAD_SUFFIX}", topic.as_str().trim_end_matches("#ephemeral")))
    }

    /// True for the name of a dead letters' topic, as [`stream_of`](Self::stream_of) returns it.
    pub fn is_stream(topic: &str) -> bool {
        topic.ends_with(DEAD_SUFFIX)
    }

    /// Creates the dead letter of `message`, which `channel` gives up for this reason.
    pub fn new(topic: &TopicName, channel: &ChannelName, message: &Message, reason: String) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            mqueue: DEAD_LETTER_MARK.to_owned(),
            stream: topic.clone(),
            group: channel.clone(),
            id: message.id.to_string(),
            attempts: message.attempts,
            timestamp: message.timestamp,
            died: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            reason,
            part: None,
            body: message.body.clone(),
        }
    }

    /// Encodes the letter as a message body for the dead letters' topic.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.body.len() + 512).writer();
        serde_json::to_writer(&mut bytes, self).expect("its fields are text and numbers");
        let mut bytes = bytes.into_inner();
        bytes.put_u8(b'\n');
        bytes.put_slice(&self.body);
        bytes.freeze()
    }

    /// Splits the letter into `of` parts, each with its share of the body.
    fn split(&self, of: u32) -> impl Iterator<Item = Self> {
        let share = self.body.len().div_ceil(of as usize);
        (0..of).map(move |index| {
            let begin = (index as usize * share).min(self.body.len());
            let end = (begin + share).min(self.body.len());
            let part = Some(Part { number: index + 1, of });
            Self { part, body: self.body.slice(begin..end), ..self.clone() }
        })
    }

    /// Parses the output of [`encode`](Self::encode); `None` for any other body.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let end = memchr::memchr(b'\n', bytes)?;
        let letter: Self = serde_json::from_slice(&bytes[..end]).ok()?;
        (letter.mqueue == DEAD_LETTER_MARK).then(|| Self { body: bytes.slice(end + 1..), ..letter })
    }
}

/// The error of publishing a dead letter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// nsqd is unreachable.
    #[error(transparent)]
    Connect(#[from] Error),
    /// nsqd refused the letter.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The letter was not acknowledged within this time.
    #[error("not acknowledged within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

/// A publisher of dead letters, which publishes each on the nsqd that delivered the message. It
/// connects when the first letter is published.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    topic: TopicName,
    config: PublisherConfig,
    publishers: Arc<Mutex<HashMap<Address, Publisher>>>,
}

impl DeadLetters {
    /// A publisher to `topic`.
    pub fn new(topic: TopicName, config: PublisherConfig) -> Self {
        Self { topic, config, publishers: Arc::default() }
    }

    /// The topic of the dead letters.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Publishes a letter, whole or in parts; returns when nsqd has answered OK.
    ///
    /// # Errors
    /// nsqd is unreachable or refuses the letter, or the deadline has passed: there is one deadline
    /// that includes connecting, so letters that are published together fail together.
    pub async fn publish(&self, nsqd: &Address, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let within = self.config.timeout;
        timeout(within, self.publish_whole_or_in_parts(nsqd, letter))
            .await
            .map_err(|_| DeadLetterError::TimedOut(within))?
    }

    async fn publish_whole_or_in_parts(&self, nsqd: &Address, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let publisher = self.publisher(nsqd).await?;
        let whole = publisher.publish(&self.topic, letter.encode()).await;
        if !whole.as_ref().is_err_and(is_too_large) || letter.body.is_empty() {
            return Ok(whole?);
        }
        for of in PART_COUNTS {
            let parts = join_all(letter.split(of).map(|part| publisher.publish(&self.topic, part.encode()))).await;
            match parts.into_iter().collect::<Result<Vec<()>, _>>() {
                Err(error) if is_too_large(&error) => {}
                published => return Ok(published.map(drop)?),
            }
        }
        // requeueing it would repeat forever
        let DeadLetter { stream, group, id, reason, .. } = letter;
        tracing::warn!(%stream, %group, %id, "message too large for a dead letter; published to {} without its reason: {reason}", self.topic);
        Ok(publisher.publish(&self.topic, letter.body.clone()).await?)
    }

    /// The publisher for `nsqd`. The lock is held while connecting, so that concurrent letters
    /// share one connection.
    async fn publisher(&self, nsqd: &Address) -> Result<Publisher, Error> {
        let mut publishers = self.publishers.lock().await;
        if let Some(publisher) = publishers.get(nsqd) {
            return Ok(publisher.clone());
        }
        let publisher = Publisher::connect(std::slice::from_ref(nsqd), self.config.clone()).await?;
        publishers.insert(nsqd.clone(), publisher.clone());
        Ok(publisher)
    }
}

fn is_too_large(error: &PublishError) -> bool {
    matches!(error, PublishError::Refused(error) if error.code == ErrorCode::BadMessage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::MessageId;

    #[test]
    fn a_dead_letter_keeps_the_body_byte_for_byte_after_one_line() {
        let body = Bytes::from_static(b"line 1\nline 2\0\xff");
        let message = Message { timestamp: 7, attempts: 5, id: MessageId(*b"0123456789abcdef"), body: body.clone() };
        let (topic, channel) = (TopicName::new("foo").unwrap(), ChannelName::new("1").unwrap());
        let letter = DeadLetter::new(&topic, &channel, &message, "two\nlines".to_owned());
        let bytes = letter.encode();
        assert!(bytes.ends_with(&body));
        assert_eq!(bytes.len() - body.len(), memchr::memchr(b'\n', &bytes).unwrap() + 1);
        assert_eq!(DeadLetter::decode(&bytes), Some(letter));
    }

    #[test]
    fn each_part_has_the_whole_line_and_a_part_of_the_body() {
        let body = Bytes::from_static(b"0123456");
        let message = Message { timestamp: 7, attempts: 5, id: MessageId(*b"0123456789abcdef"), body: body.clone() };
        let (topic, channel) = (TopicName::new("foo").unwrap(), ChannelName::new("1").unwrap());
        let letter = DeadLetter::new(&topic, &channel, &message, "why".to_owned());
        let parts: Vec<_> = letter.split(2).map(|part| DeadLetter::decode(&part.encode()).unwrap()).collect();
        let bodies: Vec<_> = parts.iter().map(|part| &part.body[..]).collect();
        assert_eq!(bodies, [&b"0123"[..], b"456"]);
        assert_eq!(parts[1].part, Some(Part { number: 2, of: 2 }));
        assert_eq!((&parts[0].reason, &parts[1].reason), (&letter.reason, &letter.reason));
    }

    #[test]
    fn other_bodies_are_not_dead_letters() {
        for other in ["", "\n", "{}\n", "body", "{\"mqueue\":\"x\"}\nbody"] {
            assert_eq!(DeadLetter::decode(&Bytes::from_static(other.as_bytes())), None, "{other:?}");
        }
    }
}

//! The part of nsqd's `/stats` that a view of all queues needs: counts, without clients, latencies
//! and memory, and only of topics and channels whose names NSQ allows.
//!
//! Parsing takes a fraction of the time and memory of [`Stats`](super::stats::Stats), which matters
//! where many nsqds are asked every second.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{ChannelName, TopicName};

/// Counts of an nsqd's topics and channels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// nsqd's version.
    pub version: String,
    /// Start time in seconds since 1970.
    pub start_time: i64,
    /// Approximate memory in bytes that messages take in `mqueue broker` besides their bodies; nsqd
    /// does not tell it.
    pub index_bytes: Option<u64>,
    /// The topics, by name.
    pub topics: Vec<TopicCounts>,
    /// Topics and channels that were left out because of their names.
    pub(crate) invalid_names: usize,
}

/// Counts of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicCounts {
    /// The topic's name.
    pub name: TopicName,
    /// Messages not yet copied to the channels (a topic without channels keeps its messages).
    pub depth: u64,
    /// Messages published since nsqd started.
    pub message_count: u64,
    /// The topic is paused: no messages go to the channels.
    pub paused: bool,
    /// The age of the oldest message that the topic holds, in milliseconds. nsqd does not tell it.
    pub oldest_ms: Option<u64>,
    /// The topic's channels, by name.
    pub channels: Vec<ChannelCounts>,
}

/// Counts of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelCounts {
    /// The channel's name.
    pub name: ChannelName,
    /// Messages in the queue.
    pub depth: u64,
    /// Messages in flight.
    pub in_flight: u64,
    /// Deferred messages.
    pub deferred: u64,
    /// Messages that the channel received since nsqd started.
    pub message_count: u64,
    /// Messages requeued by clients.
    pub requeue_count: u64,
    /// Messages requeued after the message timeout.
    pub timeout_count: u64,
    /// Connected consumers.
    pub connections: u64,
    /// The channel is paused: no messages go to the consumers.
    pub paused: bool,
    /// The age of the oldest message in milliseconds: in flight, deferred or next in the queue. nsqd
    /// does not tell it.
    pub oldest_ms: Option<u64>,
}

impl TopicCounts {
    /// Counts of a topic without messages and channels.
    pub fn new(name: TopicName) -> Self {
        Self { name, depth: 0, message_count: 0, paused: false, oldest_ms: None, channels: Vec::new() }
    }
}

impl ChannelCounts {
    /// Counts of a channel without messages and consumers.
    pub fn new(name: ChannelName) -> Self {
        let (depth, in_flight, deferred, message_count) = (0, 0, 0, 0);
        let (requeue_count, timeout_count, connections, paused, oldest_ms) = (0, 0, 0, false, None);
        Self {
            name,
            depth,
            in_flight,
            deferred,
            message_count,
            requeue_count,
            timeout_count,
            connections,
            paused,
            oldest_ms,
        }
    }

    /// Returns every message that the channel holds.
    pub fn messages(&self) -> u64 {
        self.depth + self.in_flight + self.deferred
    }

    /// Returns the messages that left the channel since nsqd started.
    pub fn finished(&self) -> u64 {
        self.message_count.saturating_sub(self.messages())
    }
}

/// `/stats` as nsqd sends it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StatsText<'a> {
    #[serde(borrow)]
    version: Cow<'a, str>,
    start_time: i64,
    index_bytes: Option<u64>,
    #[serde(borrow, deserialize_with = "named")]
    topics: Named<TopicText<'a>>,
}

/// A topic as nsqd sends it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TopicText<'a> {
    #[serde(borrow)]
    topic_name: Cow<'a, str>,
    depth: i64,
    message_count: u64,
    paused: bool,
    oldest_ms: Option<u64>,
    #[serde(borrow, deserialize_with = "named")]
    channels: Named<ChannelText<'a>>,
}

/// A channel as nsqd sends it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ChannelText<'a> {
    #[serde(borrow)]
    channel_name: Cow<'a, str>,
    depth: i64,
    in_flight_count: i64,
    deferred_count: i64,
    message_count: u64,
    requeue_count: u64,
    timeout_count: u64,
    client_count: i64,
    paused: bool,
    oldest_ms: Option<u64>,
}

/// Items whose names are valid, sorted by name, and the number of names that are not.
struct Named<R: NamedText> {
    items: Vec<R::Counts>,
    invalid_names: usize,
}

/// An item of an answer.
trait NamedText {
    type Counts;

    /// Converts the item; `None` if its name is invalid. Adds to the number of invalid names.
    fn counts(self, invalid_names: &mut usize) -> Option<Self::Counts>;

    fn name(counts: &Self::Counts) -> &str;
}

impl NamedText for TopicText<'_> {
    type Counts = TopicCounts;

    fn counts(self, invalid_names: &mut usize) -> Option<TopicCounts> {
        let Named { items: channels, invalid_names: inside } = self.channels;
        *invalid_names += inside;
        let Ok(name) = TopicName::new(&self.topic_name) else { return None };
        let (depth, message_count, paused) = (count(self.depth), self.message_count, self.paused);
        Some(TopicCounts { name, depth, message_count, paused, oldest_ms: self.oldest_ms, channels })
    }

    fn name(counts: &TopicCounts) -> &str {
        counts.name.as_str()
    }
}

impl NamedText for ChannelText<'_> {
    type Counts = ChannelCounts;

    fn counts(self, _: &mut usize) -> Option<ChannelCounts> {
        Some(ChannelCounts {
            name: ChannelName::new(&self.channel_name).ok()?,
            depth: count(self.depth),
            in_flight: count(self.in_flight_count),
            deferred: count(self.deferred_count),
            message_count: self.message_count,
            requeue_count: self.requeue_count,
            timeout_count: self.timeout_count,
            connections: count(self.client_count),
            paused: self.paused,
            oldest_ms: self.oldest_ms,
        })
    }

    fn name(counts: &ChannelCounts) -> &str {
        counts.name.as_str()
    }
}

impl<R: NamedText> Default for Named<R> {
    fn default() -> Self {
        Self { items: Vec::new(), invalid_names: 0 }
    }
}

/// Reads a list, or `null` for an empty one.
fn named<'de, D: Deserializer<'de>, R: NamedText + Deserialize<'de>>(from: D) -> Result<Named<R>, D::Error> {
    from.deserialize_any(ListVisitor(PhantomData))
}

struct ListVisitor<R>(PhantomData<R>);

impl<'de, R: NamedText + Deserialize<'de>> Visitor<'de> for ListVisitor<R> {
    type Value = Named<R>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Named<R>, E> {
        Ok(Named::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Named<R>, A::Error> {
        let mut named: Named<R> = Named::default();
        while let Some(text) = list.next_element::<R>()? {
            match text.counts(&mut named.invalid_names) {
                Some(counts) => named.items.push(counts),
                None => named.invalid_names += 1,
            }
        }
        // most topics have few channels, and a large cluster has many topics
        named.items.shrink_to_fit();
        if !named.items.is_sorted_by(|a, b| R::name(a) <= R::name(b)) {
            named.items.sort_by(|a, b| R::name(a).cmp(R::name(b)));
        }
        Ok(named)
    }
}

impl<'de> Deserialize<'de> for QueueStats {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let StatsText { version, start_time, index_bytes, topics } = StatsText::deserialize(from)?;
        let Named { items: topics, invalid_names } = topics;
        Ok(Self { version: version.into_owned(), start_time, index_bytes, topics, invalid_names })
    }
}

/// Converts a count of nsqd's: not negative, and small enough that sums cannot overflow.
fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0).min(u64::from(u32::MAX) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::stats::{ChannelStats, Stats, TopicStats};

    #[test]
    fn the_counts_are_those_of_the_full_statistics() {
        let channel = |name: &str, n: i64| ChannelStats {
            channel_name: name.to_owned(),
            depth: n,
            in_flight_count: n + 1,
            deferred_count: n + 2,
            message_count: 100,
            requeue_count: 5,
            timeout_count: 6,
            client_count: 600,
            paused: n > 1,
            ..ChannelStats::default()
        };
        let topic = |name: &str, channels: &[ChannelStats]| TopicStats {
            topic_name: name.to_owned(),
            channels: channels.iter().cloned().collect(),
            depth: 7,
            message_count: 9,
            paused: true,
            ..TopicStats::default()
        };
        let topics = [topic("b", &[channel("y", 2), channel("x", 1)]), topic("a", &[])];
        let (version, start_time) = ("1.3.0".to_owned(), 12);
        let full = Stats { version, start_time, topics: topics.into_iter().collect(), ..Stats::default() };
        let read: QueueStats = serde_json::from_str(&serde_json::to_string(&full).unwrap()).unwrap();
        assert_eq!((read.version.as_str(), read.start_time, read.invalid_names), ("1.3.0", 12, 0));
        let names: Vec<_> = read.topics.iter().map(|topic| (topic.name.as_str(), topic.channels.len())).collect();
        assert_eq!(names, [("a", 0), ("b", 2)], "sorted");
        let topic = &read.topics[1];
        assert_eq!((topic.depth, topic.message_count, topic.paused), (7, 9, true));
        let [x, y] = &topic.channels[..] else { panic!("two channels") };
        assert_eq!((x.name.as_str(), x.depth, x.in_flight, x.deferred, x.paused), ("x", 1, 2, 3, false));
        assert_eq!((y.name.as_str(), y.connections, y.requeue_count, y.timeout_count), ("y", 600, 5, 6));
        assert_eq!((y.paused, y.messages(), y.finished()), (true, 9, 91));
    }

    #[test]
    fn absurd_counts_null_lists_and_invalid_names_do_no_harm() {
        let read = |json: &str| serde_json::from_str::<QueueStats>(json).unwrap();
        let nothing = read(r#"{"version":"1","topics":null}"#);
        assert!(nothing.topics.is_empty() && nothing.invalid_names == 0);
        let odd = read(
            r#"{"topics":[{"topic_name":"\u001b[2J","channels":[{"channel_name":"x y"}]},{},
                {"topic_name":"\u0061","depth":-1,"channels":[{"channel_name":"g","depth":9223372036854775807,
                "in_flight_count":9223372036854775807,"deferred_count":9223372036854775807},{"channel_name":""}]}]}"#,
        );
        assert_eq!((odd.topics.len(), odd.topics[0].name.as_str(), odd.topics[0].depth), (1, "a", 0));
        assert!(odd.topics[0].channels[0].messages() > u64::from(u32::MAX));
        assert_eq!((odd.topics[0].channels.len(), odd.invalid_names), (1, 4));
        for wrong in [r#"{"topics":5}"#, r#"{"topics":[5]}"#, "[", r#"{"topics":[{"depth":"x"}]}"#] {
            assert!(serde_json::from_str::<QueueStats>(wrong).is_err(), "{wrong}");
        }
    }
}

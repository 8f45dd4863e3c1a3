//! Streams and groups, summed over the nsqds that have them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::apis::ClusterState;
use crate::proto::stats::{ChannelStats, Stats, TopicStats};
use crate::proto::{ChannelName, TopicName};

/// A stream (NSQ: topic), over all nsqds that have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterStream {
    /// Messages that no group has: those of a stream without groups, or of a paused one.
    pub depth: u64,
    /// Messages published since the nsqds started.
    pub message_count: u64,
    /// The nsqds that have the stream.
    pub nsqds: u64,
    /// The nsqds on which the stream is paused.
    pub paused_on: u64,
    /// The age of the oldest message that no group has, in milliseconds. Only mqueue's broker tells
    /// it; `None` also without messages.
    pub oldest_ms: Option<u64>,
    /// The groups.
    #[serde(skip)]
    pub groups: BTreeMap<ChannelName, ClusterGroup>,
}

/// A group (NSQ: channel), over all nsqds that have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterGroup {
    /// Messages in the queue.
    pub depth: u64,
    /// Messages in flight to consumers.
    pub in_flight: u64,
    /// Deferred messages.
    pub deferred: u64,
    /// Messages received since the nsqds started.
    pub message_count: u64,
    /// Messages requeued by consumers.
    pub requeue_count: u64,
    /// Messages requeued after the message timeout.
    pub timeout_count: u64,
    /// Connections of consumers. A consumer has one to each nsqd.
    pub connections: u64,
    /// The nsqds that have the group.
    pub nsqds: u64,
    /// The nsqds on which the group is paused.
    pub paused_on: u64,
    /// The age of the oldest message in milliseconds: in flight, deferred or next in a queue. Only
    /// mqueue's broker tells it; `None` also without messages.
    pub oldest_ms: Option<u64>,
}

impl ClusterStream {
    fn add(&mut self, topic: &TopicStats) {
        self.depth += count(topic.depth);
        self.message_count = self.message_count.saturating_add(topic.message_count);
        self.nsqds += 1;
        self.paused_on += u64::from(topic.paused);
        self.oldest_ms = self.oldest_ms.max(topic.oldest_ms);
        for channel in topic.channels.iter() {
            if let Ok(name) = ChannelName::new(&channel.channel_name) {
                self.groups.entry(name).or_default().add(channel);
            }
        }
    }

    /// Returns every message that the stream or a group of it holds; a message counts once for each
    /// group.
    pub fn messages(&self) -> u64 {
        self.depth + self.groups.values().map(ClusterGroup::messages).sum::<u64>()
    }
}

impl ClusterGroup {
    fn add(&mut self, channel: &ChannelStats) {
        self.depth += count(channel.depth);
        self.in_flight += count(channel.in_flight_count);
        self.deferred += count(channel.deferred_count);
        self.message_count = self.message_count.saturating_add(channel.message_count);
        self.requeue_count = self.requeue_count.saturating_add(channel.requeue_count);
        self.timeout_count = self.timeout_count.saturating_add(channel.timeout_count);
        self.connections += count(channel.client_count);
        self.nsqds += 1;
        self.paused_on += u64::from(channel.paused);
        self.oldest_ms = self.oldest_ms.max(channel.oldest_ms);
    }

    /// Returns every message that the group holds.
    pub fn messages(&self) -> u64 {
        self.depth + self.in_flight + self.deferred
    }
}

impl ClusterState {
    /// Sums the streams over the nsqds that answered.
    pub fn streams(&self) -> BTreeMap<TopicName, ClusterStream> {
        let mut streams: BTreeMap<TopicName, ClusterStream> = BTreeMap::new();
        for topic in self.stats().flat_map(|stats| stats.topics.iter()) {
            if let Ok(name) = TopicName::new(&topic.topic_name) {
                streams.entry(name).or_default().add(topic);
            }
        }
        streams
    }

    /// Returns the statistics of the nsqds that answered.
    pub fn stats(&self) -> impl Iterator<Item = &Stats> {
        self.nsqds.iter().filter_map(|nsqd| nsqd.stats())
    }
}

/// Converts a count of nsqd's: not negative, and small enough that sums cannot overflow.
pub(super) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0).min(u64::from(u32::MAX) << 16)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::apis::NsqdState;
    use super::*;
    use crate::proto::stats::Info;

    /// A cluster of one nsqd for each list of topics.
    pub(in super::super) fn cluster(nsqds: Vec<Vec<TopicStats>>) -> ClusterState {
        let nsqd = |(number, topics): (usize, Vec<TopicStats>)| NsqdState {
            api: format!("nsqd{number}:4151").parse().unwrap(),
            answer: Ok((Info::default(), Stats { topics: topics.into_iter().collect(), ..Stats::default() })),
        };
        let nsqds = nsqds.into_iter().enumerate().map(nsqd).collect();
        ClusterState { nsqds, lookupd_errors: Vec::new(), at: Instant::now() }
    }

    fn topic(name: &str, channels: &[ChannelStats]) -> TopicStats {
        let channels = channels.iter().cloned().collect();
        TopicStats { topic_name: name.to_owned(), depth: 1, message_count: 5, channels, ..TopicStats::default() }
    }

    #[test]
    fn a_group_is_summed_and_its_pauses_are_counted() {
        let channel = |depth, paused, oldest_ms| ChannelStats {
            channel_name: "g".to_owned(),
            depth,
            oldest_ms,
            in_flight_count: 2,
            deferred_count: 3,
            client_count: 1,
            paused,
            ..ChannelStats::default()
        };
        let state = cluster(vec![
            vec![topic("s", &[channel(7, true, None)])],
            vec![topic("s", &[channel(1, false, Some(3))])],
            vec![],
        ]);
        let stream = &state.streams()[&"s".parse().unwrap()];
        assert_eq!((stream.depth, stream.message_count, stream.nsqds, stream.paused_on), (2, 10, 2, 0));
        let group = &stream.groups[&"g".parse().unwrap()];
        assert_eq!((group.depth, group.in_flight, group.deferred, group.connections), (8, 4, 6, 2));
        assert_eq!((group.nsqds, group.paused_on, group.messages(), stream.messages()), (2, 1, 18, 20));
        assert_eq!((group.oldest_ms, stream.oldest_ms), (Some(3), None), "the first is nsqd's");
    }

    #[test]
    fn absurd_counts_and_invalid_names_do_no_harm() {
        let huge = ChannelStats { channel_name: "g".to_owned(), depth: i64::MAX, ..ChannelStats::default() };
        let invalid = ChannelStats { channel_name: "\u{1b}[2J".to_owned(), ..ChannelStats::default() };
        let nsqd = || vec![topic("s", &[huge.clone(), invalid.clone()]), topic("a b", &[])];
        let streams = cluster(vec![nsqd(), nsqd()]).streams();
        assert_eq!(streams.len(), 1);
        let stream = streams.values().next().unwrap();
        assert_eq!(stream.groups.len(), 1);
        assert!(stream.messages() > u64::from(u32::MAX));
    }
}

//! Streams and groups, summed over the nsqds that have them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::apis::ClusterState;
use crate::proto::{ChannelCounts, ChannelName, QueueStats, TopicCounts, TopicName};

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
    fn add(&mut self, topic: &TopicCounts) {
        self.depth += topic.depth;
        self.message_count = self.message_count.saturating_add(topic.message_count);
        self.nsqds += 1;
        self.paused_on += u64::from(topic.paused);
        self.oldest_ms = self.oldest_ms.max(topic.oldest_ms);
        for channel in &topic.channels {
            self.groups.entry(channel.name.clone()).or_default().add(channel);
        }
    }

    /// Returns every message that the stream or a group of it holds; a message counts once for each
    /// group.
    pub fn messages(&self) -> u64 {
        self.depth + self.groups.values().map(ClusterGroup::messages).sum::<u64>()
    }
}

impl ClusterGroup {
    fn add(&mut self, channel: &ChannelCounts) {
        self.depth += channel.depth;
        self.in_flight += channel.in_flight;
        self.deferred += channel.deferred;
        self.message_count = self.message_count.saturating_add(channel.message_count);
        self.requeue_count = self.requeue_count.saturating_add(channel.requeue_count);
        self.timeout_count = self.timeout_count.saturating_add(channel.timeout_count);
        self.connections += channel.connections;
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
        for topic in self.stats().flat_map(|stats| &stats.topics) {
            streams.entry(topic.name.clone()).or_default().add(topic);
        }
        streams
    }

    /// Returns the counts of the nsqds that answered.
    pub fn stats(&self) -> impl Iterator<Item = &QueueStats> {
        self.nsqds.iter().filter_map(|nsqd| nsqd.stats())
    }
}

#[cfg(test)]
mod tests {
    use super::super::apis::tests::cluster;
    use super::*;

    fn topic(channels: &[ChannelCounts]) -> TopicCounts {
        let mut topic = TopicCounts::new("s".parse().unwrap());
        (topic.depth, topic.message_count, topic.channels) = (1, 5, channels.to_vec());
        topic
    }

    #[test]
    fn a_group_is_summed_and_its_pauses_are_counted() {
        let channel = |depth, paused, oldest_ms| {
            let mut channel = ChannelCounts::new("g".parse().unwrap());
            (channel.depth, channel.in_flight, channel.deferred) = (depth, 2, 3);
            (channel.connections, channel.paused, channel.oldest_ms) = (1, paused, oldest_ms);
            channel
        };
        let state =
            cluster(vec![vec![topic(&[channel(7, true, None)])], vec![topic(&[channel(1, false, Some(3))])], vec![]]);
        let stream = &state.streams()[&"s".parse().unwrap()];
        assert_eq!((stream.depth, stream.message_count, stream.nsqds, stream.paused_on), (2, 10, 2, 0));
        let group = &stream.groups[&"g".parse().unwrap()];
        assert_eq!((group.depth, group.in_flight, group.deferred, group.connections), (8, 4, 6, 2));
        assert_eq!((group.nsqds, group.paused_on, group.messages(), stream.messages()), (2, 1, 18, 20));
        assert_eq!((group.oldest_ms, stream.oldest_ms), (Some(3), None), "the first is nsqd's");
    }
}

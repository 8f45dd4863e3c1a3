//! The statistics of all nsqds, summed by group.

use std::collections::{BTreeMap, BTreeSet};

use super::arrivals::wakeup_of;
use super::decide::{GroupName, GroupTotals};
use super::hosts;
use super::retry_name::origin_of;
use crate::client::Address;
use crate::proto::stats::{ChannelStats, Stats, TopicStats};
use crate::proto::{ChannelName, TopicName};
use crate::wake::fleet;

/// Messages of a group that wait for something other than a consumer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupPending {
    /// In flight to consumers.
    pub in_flight: u64,
    /// Deferred.
    pub deferred: u64,
    /// In the queue of a paused group. A paused stream holds up only what its groups do not have
    /// yet.
    pub paused: u64,
}

impl GroupPending {
    fn add(&mut self, other: Self) {
        self.in_flight += other.in_flight;
        self.deferred += other.deferred;
        self.paused += other.paused;
    }
}

/// The last answers of all nsqds, summed. wakeup and doctor both use this sum, so that they agree
/// on which groups are paused and how many messages wait.
#[derive(Debug, Default)]
pub struct QueueTotals {
    /// Durable groups by stream and name.
    pub groups: BTreeMap<GroupName, GroupTotals>,
    /// Groups that have such messages, which become depth when their time comes.
    pub pending: BTreeMap<GroupName, GroupPending>,
    /// Streams that have messages and no group, by the nsqd's HTTP address and the stream's name,
    /// without the streams of fleets of nodes.
    pub without_group: BTreeMap<(String, String), u64>,
    /// Groups that only a retry stream has, and not their own stream: they get nothing that is
    /// published there. Those for which messages wait are among `groups`, too.
    pub only_retries: BTreeSet<GroupName>,
    /// The numbers of the wakeups that listen to streams.
    pub wakeups: BTreeSet<String>,
    /// True if an nsqd has the channel whose clients are the hosts that wake the same groups.
    pub has_host_list: bool,
    /// The names of all streams.
    known: BTreeSet<String>,
    /// True if every nsqd and nsqlookupd has answered: a group that is missing here does not exist.
    pub is_complete: bool,
    /// The TCP addresses at which each stream with a durable group can be subscribed to.
    pub streams: BTreeSet<(Address, String)>,
}

/// True for a group that is not ephemeral.
pub fn is_durable(channel: &ChannelStats) -> bool {
    ChannelName::new(&channel.channel_name).is_ok_and(|name| !name.is_ephemeral())
}

impl QueueTotals {
    /// Adds the statistics of one nsqd. `tcp` is the address at which it can be subscribed to now.
    pub fn add(&mut self, http: &str, tcp: Option<&Address>, stats: &Stats) {
        // a name that NSQ does not allow must not reach a log line
        for topic in stats.topics.iter().filter(|topic| TopicName::new(&topic.topic_name).is_ok()) {
            self.known.insert(topic.topic_name.clone());
            self.has_host_list |= topic.topic_name == hosts::TOPIC;
            let listeners = topic.channels.iter().filter(|channel| channel.client_count > 0);
            self.wakeups.extend(listeners.filter_map(|c| wakeup_of(&c.channel_name)).map(str::to_owned));
            topic.channels.iter().filter(|channel| is_durable(channel)).for_each(|channel| self.group(topic, channel));
            if topic.channels.is_empty() && topic.depth > 0 {
                let key = (http.to_owned(), topic.topic_name.clone());
                self.without_group.insert(key, count(topic.depth));
            }
            // wakeup's channel must not be the first of a stream: the first channel gets the
            // backlog
            if let Some(tcp) = tcp.filter(|_| topic.channels.iter().any(is_durable)) {
                self.streams.insert((tcp.clone(), topic.topic_name.clone()));
            }
        }
    }

    /// Removes the streams of fleets of nodes from the streams without a group, once every nsqd was
    /// added.
    pub fn leave_fleets_alone(&mut self) {
        let known = &self.known;
        self.without_group.retain(|(_, stream), _| !fleet::has_stream(stream, |name| known.contains(name)));
    }

    /// Counts what was redriven to a group as its own, once every nsqd was added: its consumers
    /// read both streams, and come for either.
    pub fn join_retries(&mut self) {
        let origin = |name: &GroupName| Some((origin_of(&name.0, &name.1, &self.known)?, name.1.clone()));
        let retries: Vec<_> = self.groups.keys().filter_map(|name| Some((name.clone(), origin(name)?))).collect();
        for (retry, own) in retries {
            let redriven = self.groups.remove(&retry).expect("its name was just found");
            if let Some(pending) = self.pending.remove(&retry) {
                self.pending.entry(own.clone()).or_default().add(pending);
            }
            if !self.groups.contains_key(&own) {
                self.only_retries.insert(own.clone());
                if redriven.depth > 0 {
                    self.groups.insert(own, redriven);
                }
                continue;
            }
            let group = self.groups.get_mut(&own).expect("it is there");
            group.depth += redriven.depth;
            // one consumer reads both
            group.clients = group.clients.max(redriven.clients);
            group.paused &= redriven.depth == 0;
            group.deliveries = group.deliveries.wrapping_add(redriven.deliveries);
        }
    }

    fn group(&mut self, topic: &TopicStats, channel: &ChannelStats) {
        let name = (topic.topic_name.clone(), channel.channel_name.clone());
        let (depth, in_flight, deferred) =
            (count(channel.depth), count(channel.in_flight_count), count(channel.deferred_count));
        // a paused stream delivers what its groups have already
        let paused = if channel.paused { depth } else { 0 };
        if in_flight + deferred + paused > 0 {
            let pending = self.pending.entry(name.clone()).or_default();
            pending.add(GroupPending { in_flight, deferred, paused });
        }
        // a group is paused if it is paused on every nsqd: messages on the other nsqds need a
        // consumer
        let group = self.groups.entry(name).or_insert(GroupTotals { paused: true, ..GroupTotals::default() });
        group.paused &= channel.paused;
        group.depth += depth - paused;
        group.clients += count(channel.client_count);
        // messages that entered the queue, minus those still in it; a restarted nsqd counts from 0
        let queued = channel.message_count.wrapping_add(channel.requeue_count).wrapping_add(channel.timeout_count);
        group.deliveries = group.deliveries.wrapping_add(queued).wrapping_sub(depth + deferred);
    }
}

/// Converts a count of nsqd's: not negative, and small enough that sums cannot overflow.
fn count(number: i64) -> u64 {
    // small enough that no sum overflows
    u64::try_from(number).unwrap_or(0).min(u64::from(u32::MAX) << 16)
}

#[cfg(test)]
mod tests {
    use super::super::retry_name;
    use super::*;

    fn channel(name: &str, depth: i64, paused: bool) -> ChannelStats {
        ChannelStats { channel_name: name.to_owned(), depth, paused, ..ChannelStats::default() }
    }

    fn poll(nsqds: &[Vec<ChannelStats>]) -> QueueTotals {
        let mut poll = QueueTotals::default();
        for (number, channels) in nsqds.iter().enumerate() {
            let topic = TopicStats {
                topic_name: "foo".to_owned(),
                depth: 7,
                channels: channels.iter().cloned().collect(),
                ..TopicStats::default()
            };
            let tcp = format!("nsqd{number}:4150").parse().unwrap();
            poll.add("nsqd:4151", Some(&tcp), &Stats { topics: std::iter::once(topic).collect(), ..Stats::default() });
        }
        poll
    }

    fn name(group: &str) -> GroupName {
        ("foo".to_owned(), group.to_owned())
    }

    #[test]
    fn deliveries_are_counted_whatever_their_outcome() {
        let deliveries = |channel: ChannelStats| poll(&[vec![channel]]).groups[&name("1")].deliveries;
        // five messages were there when nsqd started, and none of them is counted
        let waiting = channel("1", 5, false);
        let less = channel("1", 4, false);
        let in_flight = ChannelStats { in_flight_count: 1, ..less.clone() };
        let requeued = ChannelStats { deferred_count: 1, requeue_count: 1, ..less.clone() };
        let due_again = ChannelStats { requeue_count: 1, ..waiting.clone() };
        let timed_out = ChannelStats { timeout_count: 1, ..waiting.clone() };
        for once in [in_flight, less, requeued, due_again, timed_out] {
            assert_eq!(deliveries(once.clone()), deliveries(waiting.clone()).wrapping_add(1), "{once:?}");
        }
        let published = ChannelStats { message_count: 1, ..channel("1", 6, false) };
        assert_eq!(deliveries(published), deliveries(waiting));
    }

    #[test]
    fn a_group_paused_on_one_nsqd_is_woken_for_messages_on_another() {
        let poll = poll(&[vec![channel("1", 3, true)], vec![channel("1", 2, false)]]);
        let group = poll.groups[&name("1")];
        assert_eq!((group.depth, group.clients, group.paused), (2, 0, false));
        assert_eq!(poll.pending[&name("1")], GroupPending { paused: 3, ..GroupPending::default() });
    }

    #[test]
    fn streams_are_subscribed_to_only_where_a_durable_group_exists() {
        let poll = poll(&[vec![channel("x#ephemeral", 0, false)], vec![channel("1", 0, false)], vec![]]);
        assert_eq!(poll.streams, BTreeSet::from([("nsqd1:4150".parse().unwrap(), "foo".to_owned())]));
        assert_eq!(poll.without_group[&("nsqd:4151".to_owned(), "foo".to_owned())], 7);
        assert_eq!(poll.groups.len(), 1, "{poll:?}");
    }

    #[test]
    fn other_wakeups_are_seen_by_their_channels() {
        let listening = |name: &str, clients| ChannelStats { client_count: clients, ..channel(name, 0, false) };
        let channels =
            [("wakeup-5c0d8f21#ephemeral", 1), ("wakeup-00000000#ephemeral", 0), ("wakeup-x", 1), ("mail", 2)];
        let one = poll(&[channels.map(|(name, clients)| listening(name, clients)).to_vec()]);
        assert_eq!(one.wakeups, BTreeSet::from(["5c0d8f21".to_owned()]));
        assert!(!one.has_host_list);
        let topic = TopicStats { topic_name: hosts::TOPIC.to_owned(), ..TopicStats::default() };
        let mut poll = QueueTotals::default();
        poll.add("a:1", None, &Stats { topics: std::iter::once(topic).collect(), ..Stats::default() });
        assert!(poll.has_host_list && poll.groups.is_empty() && poll.without_group.is_empty(), "{poll:?}");
    }

    #[test]
    fn fleet_streams_do_not_count_as_streams_without_a_group() {
        let topic = |name: &str, depth| TopicStats { topic_name: name.to_owned(), depth, ..TopicStats::default() };
        let mut poll = QueueTotals::default();
        let topics = [topic("a.token", 1), topic("tk", 1), topic("foo", 1)];
        poll.add("a:1", None, &Stats { topics: topics.into_iter().collect(), ..Stats::default() });
        poll.add("b:1", None, &Stats { topics: std::iter::once(topic("tk.beats", 0)).collect(), ..Stats::default() });
        poll.leave_fleets_alone();
        assert_eq!(poll.without_group.into_keys().collect::<Vec<_>>(), [("a:1".to_owned(), "foo".to_owned())]);
    }

    /// A poll of stream ord with these groups, and of the retry stream of its group g2.
    fn poll_with_retries(groups: &[ChannelStats], retries: ChannelStats) -> QueueTotals {
        let topic = |name: &str, channels: &[ChannelStats]| TopicStats {
            topic_name: name.to_owned(),
            channels: channels.iter().cloned().collect(),
            ..TopicStats::default()
        };
        let retry = retry_name::stream_of(&TopicName::new("ord").unwrap(), &ChannelName::new("g2").unwrap());
        let topics = [topic("ord", groups), topic(retry.as_str(), &[retries])];
        let mut poll = QueueTotals::default();
        poll.add("a:1", None, &Stats { topics: topics.into_iter().collect(), ..Stats::default() });
        poll.join_retries();
        poll
    }

    #[test]
    fn redriven_messages_belong_to_the_group_that_they_are_for() {
        let with = |depth, clients, paused| ChannelStats { client_count: clients, ..channel("g2", depth, paused) };
        let name = ("ord".to_owned(), "g2".to_owned());
        // (own, retries, depth, clients, paused)
        let cases = [
            (with(1, 0, false), with(2, 0, false), 3, 0, false),
            (with(0, 1, false), with(2, 1, false), 2, 1, false),
            (with(0, 1, false), with(2, 0, false), 2, 1, false),
            (with(5, 0, true), with(0, 0, false), 0, 0, true),
            (with(5, 0, true), with(2, 0, false), 2, 0, false),
            (with(1, 0, false), with(2, 0, true), 1, 0, false),
        ];
        for (own, retries, depth, clients, paused) in cases {
            let poll = poll_with_retries(&[own, channel("g1", 0, false)], retries);
            assert_eq!(poll.groups.len(), 2, "{poll:?}");
            let group = poll.groups[&name];
            assert_eq!((group.depth, group.clients, group.paused), (depth, clients, paused), "{poll:?}");
            assert!(poll.only_retries.is_empty(), "{poll:?}");
        }
    }

    #[test]
    fn a_retry_stream_does_not_stand_in_for_a_missing_group() {
        let name = ("ord".to_owned(), "g2".to_owned());
        let poll = poll_with_retries(&[channel("g1", 0, false)], channel("g2", 0, false));
        assert_eq!(poll.groups.keys().map(|(_, group)| group.as_str()).collect::<Vec<_>>(), ["g1"]);
        assert_eq!(poll.only_retries, BTreeSet::from([name.clone()]));
        let poll = poll_with_retries(&[channel("g1", 0, false)], channel("g2", 2, false));
        assert_eq!(poll.groups[&name].depth, 2, "they are waited for");
        assert_eq!(poll.only_retries, BTreeSet::from([name]));
    }

    #[test]
    fn a_paused_stream_does_not_hold_up_what_its_groups_have() {
        let topic = TopicStats {
            topic_name: "foo".to_owned(),
            paused: true,
            channels: std::iter::once(channel("1", 3, false)).collect(),
            ..TopicStats::default()
        };
        let mut poll = QueueTotals::default();
        poll.add("a:1", None, &Stats { topics: std::iter::once(topic).collect(), ..Stats::default() });
        let group = poll.groups[&name("1")];
        assert_eq!((group.depth, group.paused, poll.pending.len()), (3, false, 0), "{poll:?}");
    }

    #[test]
    fn absurd_counts_are_clamped() {
        let huge = channel("1", i64::MAX, false);
        let poll = poll(&[vec![huge.clone()], vec![huge, channel("2", i64::MIN, false)]]);
        assert!(poll.groups[&name("1")].depth > u64::from(u32::MAX));
        assert_eq!(poll.groups[&name("2")].depth, 0);
    }
}

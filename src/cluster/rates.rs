//! Messages a second, from two states of a cluster.

use std::collections::BTreeMap;

use super::apis::{ClusterState, NsqdState};
use super::streams::count;
use crate::proto::stats::{ChannelStats, TopicStats};
use crate::proto::{ChannelName, TopicName};

/// A group's stream and name.
pub type GroupKey = (TopicName, ChannelName);

/// Messages a second.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct QueueRates {
    /// Published to each stream.
    pub published: BTreeMap<TopicName, f64>,
    /// Finished, or discarded, by each group.
    pub finished: BTreeMap<GroupKey, f64>,
}

impl ClusterState {
    /// Returns the rates since an earlier state. An nsqd that did not answer both times, or was
    /// started in between, is left out.
    pub fn rates(&self, earlier: &Self) -> QueueRates {
        let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        let mut rates = QueueRates::default();
        if seconds <= 0.0 {
            return rates;
        }
        for (now, before) in self.nsqds.iter().filter_map(|now| Some((now, earlier.same(now)?))) {
            let topics = |nsqd: &NsqdState| -> BTreeMap<String, TopicStats> {
                let topics = nsqd.stats().map(|stats| stats.topics.iter()).into_iter().flatten();
                topics.map(|topic| (topic.topic_name.clone(), topic.clone())).collect()
            };
            let before = topics(before);
            for (name, topic) in topics(now) {
                let (Some(before), Ok(stream)) = (before.get(&name), TopicName::new(&name)) else { continue };
                let published = topic.message_count.saturating_sub(before.message_count);
                *rates.published.entry(stream.clone()).or_default() += published as f64 / seconds;
                for channel in topic.channels.iter() {
                    let earlier = before.channels.iter().find(|it| it.channel_name == channel.channel_name);
                    if let (Some(earlier), Ok(group)) = (earlier, ChannelName::new(&channel.channel_name)) {
                        let finished = finished(channel).saturating_sub(finished(earlier));
                        *rates.finished.entry((stream.clone(), group)).or_default() += finished as f64 / seconds;
                    }
                }
            }
        }
        rates
    }

    /// Returns the same nsqd in this state, if it answered and was not started again since.
    fn same(&self, other: &NsqdState) -> Option<&NsqdState> {
        let (info, _) = other.answer.as_ref().ok()?;
        let is_same = |nsqd: &&NsqdState| {
            let start_time = nsqd.answer.as_ref().map(|(info, _)| info.start_time);
            nsqd.api.to_string() == other.api.to_string() && start_time.is_ok_and(|time| time == info.start_time)
        };
        self.nsqds.iter().find(is_same)
    }
}

/// Returns the messages that left a channel since nsqd started.
fn finished(channel: &ChannelStats) -> u64 {
    let held = count(channel.depth) + count(channel.in_flight_count) + count(channel.deferred_count);
    channel.message_count.saturating_sub(held)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::proto::stats::{Info, Stats};

    #[test]
    fn rates_are_differences_of_the_same_process() {
        let start = Instant::now();
        let state = |seconds, start_time, published, depth| {
            let channel = ChannelStats {
                channel_name: "g".to_owned(),
                message_count: published,
                depth,
                ..ChannelStats::default()
            };
            let topic = TopicStats {
                topic_name: "s".to_owned(),
                message_count: published,
                channels: std::iter::once(channel).collect(),
                ..TopicStats::default()
            };
            let stats = Stats { topics: std::iter::once(topic).collect(), ..Stats::default() };
            let nsqd = NsqdState {
                api: "a:4151".parse().unwrap(),
                answer: Ok((Info { start_time, ..Info::default() }, stats)),
            };
            ClusterState { nsqds: vec![nsqd], lookupd_errors: vec![], at: start + Duration::from_secs(seconds) }
        };
        let key = ("s".parse().unwrap(), "g".parse().unwrap());
        let rates = state(2, 1, 130, 10).rates(&state(0, 1, 100, 20));
        assert_eq!((rates.published[&key.0], rates.finished[&key]), (15.0, 20.0));
        assert_eq!(state(2, 2, 30, 0).rates(&state(0, 1, 100, 20)), QueueRates::default(), "it was started again");
        assert_eq!(state(0, 1, 130, 0).rates(&state(0, 1, 100, 0)), QueueRates::default(), "no time has passed");
        let emptied = state(1, 1, 100, 0).rates(&state(0, 1, 100, 20));
        assert_eq!((emptied.published[&key.0], emptied.finished[&key]), (0.0, 20.0));
    }
}

//! Messages a second, from two states of a cluster.

use std::collections::BTreeMap;

use super::apis::{ClusterState, NsqdState};
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
        let mut rates = QueueRates::default();
        for (number, now) in self.nsqds.iter().enumerate() {
            if let Some(before) = earlier.same(number, now) {
                rates.add(now, before);
            }
        }
        rates
    }

    /// Returns the same nsqd in this state, if it answered and was not started again since. It
    /// mostly has the same `number`.
    fn same(&self, number: usize, other: &NsqdState) -> Option<&NsqdState> {
        let start_time = other.stats()?.start_time;
        let is_there = |nsqd: &&NsqdState| nsqd.api.is_at_address_of(&other.api);
        let nsqd = self.nsqds.get(number).filter(is_there).or_else(|| self.nsqds.iter().find(is_there))?;
        (nsqd.stats()?.start_time == start_time).then_some(nsqd)
    }
}

impl QueueRates {
    /// Adds the rates of one nsqd.
    fn add(&mut self, now: &NsqdState, before: &NsqdState) {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        let (Some(now), Some(before)) = (now.stats(), before.stats()) else { return };
        if seconds <= 0.0 {
            return;
        }
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        for (topic, before) in joined(&now.topics, &before.topics, |topic| topic.name.as_str()) {
            let published = per_second(topic.message_count, before.message_count);
            *self.published.entry(topic.name.clone()).or_default() += published;
            for (channel, before) in joined(&topic.channels, &before.channels, |channel| channel.name.as_str()) {
                let finished = per_second(channel.finished(), before.finished());
                *self.finished.entry((topic.name.clone(), channel.name.clone())).or_default() += finished;
            }
        }
    }
}

/// Pairs the items of two sorted lists that have the same name.
fn joined<'a, T>(now: &'a [T], before: &'a [T], name: impl Fn(&T) -> &str) -> impl Iterator<Item = (&'a T, &'a T)> {
    let mut before = before.iter().peekable();
    now.iter().filter_map(move |item| {
        while before.next_if(|earlier| name(earlier) < name(item)).is_some() {}
        before.next_if(|earlier| name(earlier) == name(item)).map(|earlier| (item, earlier))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::apis::tests::cluster;
    use super::*;
    use crate::proto::{ChannelCounts, TopicCounts};

    /// A cluster of one nsqd, started at `start_time`, that answered after these seconds.
    fn state(begin: Instant, seconds: u64, start_time: i64, topics: Vec<TopicCounts>) -> ClusterState {
        let mut state = cluster(vec![topics]);
        state.nsqds[0].at = begin + Duration::from_secs(seconds);
        if let Ok((_, stats)) = &mut state.nsqds[0].answer {
            Arc::make_mut(stats).start_time = start_time;
        }
        state
    }

    fn topic(name: &str, published: u64, depth: u64) -> TopicCounts {
        let mut channel = ChannelCounts::new("g".parse().unwrap());
        (channel.message_count, channel.depth) = (published, depth);
        let mut topic = TopicCounts::new(name.parse().unwrap());
        (topic.message_count, topic.channels) = (published, vec![channel]);
        topic
    }

    #[test]
    fn rates_are_differences_of_the_same_process() {
        let begin = Instant::now();
        let state = |seconds, start_time, published, depth| {
            state(begin, seconds, start_time, vec![topic("s", published, depth)])
        };
        let key = ("s".parse().unwrap(), "g".parse().unwrap());
        let rates = state(2, 1, 130, 10).rates(&state(0, 1, 100, 20));
        assert_eq!((rates.published[&key.0], rates.finished[&key]), (15.0, 20.0));
        assert_eq!(state(2, 2, 30, 0).rates(&state(0, 1, 100, 20)), QueueRates::default(), "it was started again");
        assert_eq!(state(0, 1, 130, 0).rates(&state(0, 1, 100, 0)), QueueRates::default(), "no time has passed");
        let emptied = state(1, 1, 100, 0).rates(&state(0, 1, 100, 20));
        assert_eq!((emptied.published[&key.0], emptied.finished[&key]), (0.0, 20.0));
    }

    #[test]
    fn streams_that_come_and_go_do_not_shift_the_others() {
        let begin = Instant::now();
        let earlier = state(begin, 0, 1, vec![topic("a", 1, 0), topic("c", 1, 0), topic("e", 1, 0)]);
        let later = state(begin, 1, 1, vec![topic("b", 9, 0), topic("c", 3, 0), topic("d", 9, 0), topic("e", 2, 0)]);
        let rates = later.rates(&earlier);
        let published: Vec<_> = rates.published.iter().map(|(name, rate)| (name.as_str(), *rate)).collect();
        assert_eq!(published, [("c", 2.0), ("e", 1.0)]);
    }
}

//! The rows of the list: plain data for the table and for JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::message_ages::{MessageAge, OldestMessages};
use mqueue::cluster::{ClusterGroup, ClusterStream, QueueRates, QueueTarget};
use mqueue::proto::{ChannelName, TopicName};
use mqueue::wake::retry_name::is_retry_stream;
use mqueue::worker::DeadLetter;

/// A stream.
#[derive(Debug, Serialize)]
pub(crate) struct StreamListing {
    #[serde(serialize_with = "as_text")]
    pub(crate) stream: TopicName,
    /// The sums, without the groups.
    #[serde(flatten)]
    pub(crate) state: ClusterStream,
    /// Messages published a second, if measured.
    pub(crate) published_per_second: Option<f64>,
    /// The least age of the oldest message that no group has; in JSON, in seconds.
    #[serde(rename = "oldest_seconds", serialize_with = "as_seconds")]
    pub(crate) oldest: Option<MessageAge>,
    /// Messages in the stream of dead letters.
    pub(crate) dead_letters: u64,
    pub(crate) groups: Vec<GroupListing>,
    /// False for streams that belong to another one: dead letters and redriven messages.
    #[serde(skip)]
    pub(crate) is_shown: bool,
}

/// A group.
#[derive(Debug, Serialize)]
pub(crate) struct GroupListing {
    #[serde(serialize_with = "as_text")]
    pub(crate) group: ChannelName,
    #[serde(flatten)]
    pub(crate) state: ClusterGroup,
    /// Messages finished a second, if measured.
    pub(crate) finished_per_second: Option<f64>,
    /// The least age of the oldest message; in JSON, in seconds.
    #[serde(rename = "oldest_seconds", serialize_with = "as_seconds")]
    pub(crate) oldest: Option<MessageAge>,
    /// True if no consumer is connected, but a socket on this machine would wake one.
    pub(crate) asleep: bool,
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(name: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

fn as_seconds<S: serde::Serializer>(age: &Option<MessageAge>, serializer: S) -> Result<S::Ok, S::Error> {
    let seconds = age.map(|age| (age.duration().as_secs_f64() * 1000.0).round() / 1000.0);
    seconds.serialize(serializer)
}

/// Makes a row for each stream. `sockets` are the groups that have a socket on this machine.
pub(crate) fn stream_rows(
    streams: BTreeMap<TopicName, ClusterStream>,
    rates: &QueueRates,
    oldest: &OldestMessages,
    sockets: &BTreeSet<String>,
) -> Vec<StreamListing> {
    let dead_stream = |stream: &TopicName| DeadLetter::stream_of(stream).ok();
    // a stream of dead letters, if it exists, with their number
    let letters: BTreeMap<TopicName, u64> = streams
        .keys()
        .filter_map(|stream| {
            let dead = dead_stream(stream)?;
            let letters = dead_letters(streams.get(&dead)?);
            Some((dead, letters))
        })
        .collect();
    let row = |(stream, mut state): (TopicName, ClusterStream)| {
        let group = |(group, state): (ChannelName, ClusterGroup)| GroupListing {
            finished_per_second: rates.finished.get(&(stream.clone(), group.clone())).copied(),
            oldest: oldest.get(&QueueTarget::new(stream.clone(), Some(group.clone()))).copied(),
            asleep: state.connections == 0 && sockets.contains(group.as_str()),
            group,
            state,
        };
        let groups = std::mem::take(&mut state.groups).into_iter().map(group).collect();
        StreamListing {
            published_per_second: rates.published.get(&stream).copied(),
            oldest: oldest.get(&QueueTarget::new(stream.clone(), None)).copied(),
            dead_letters: dead_stream(&stream).and_then(|dead| letters.get(&dead).copied()).unwrap_or(0),
            groups,
            is_shown: !letters.contains_key(&stream) && !is_retry_stream(stream.as_str()),
            state,
            stream,
        }
    };
    streams.into_iter().map(row).collect()
}

/// Returns the number of letters in a stream of dead letters. Every group has a copy of each.
fn dead_letters(stream: &ClusterStream) -> u64 {
    stream.depth + stream.groups.values().map(ClusterGroup::messages).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group's name, depth and connections.
    type Group = (&'static str, u64, u64);

    fn streams(all: &[(&str, &[Group])]) -> BTreeMap<TopicName, ClusterStream> {
        let group = |(name, depth, connections): &Group| {
            let mut state = ClusterGroup::default();
            (state.depth, state.connections) = (*depth, *connections);
            (name.parse().unwrap(), state)
        };
        let stream = |(name, groups): &(&str, &[Group])| {
            let mut state = ClusterStream::default();
            state.groups = groups.iter().map(group).collect();
            (name.parse().unwrap(), state)
        };
        all.iter().map(stream).collect()
    }

    #[test]
    fn dead_letters_belong_to_their_stream() {
        let all =
            streams(&[("a", &[]), ("a.dead", &[("errors", 3, 0), ("audit", 2, 0)]), ("b.dead", &[("errors", 1, 0)])]);
        let rows = stream_rows(all, &QueueRates::default(), &OldestMessages::new(), &BTreeSet::new());
        let seen: Vec<_> = rows.iter().map(|row| (row.stream.as_str(), row.dead_letters, row.is_shown)).collect();
        // a stream of dead letters whose own stream is gone is not hidden
        assert_eq!(seen, [("a", 3, true), ("a.dead", 0, false), ("b.dead", 0, true)]);
    }

    #[test]
    fn a_group_with_a_socket_and_no_consumer_is_asleep() {
        let all = streams(&[("a", &[("awake", 1, 1), ("gone", 1, 0), ("sleeps", 1, 0)])]);
        let sockets = BTreeSet::from(["awake".to_owned(), "sleeps".to_owned()]);
        let rows = stream_rows(all, &QueueRates::default(), &OldestMessages::new(), &sockets);
        let asleep: Vec<_> = rows[0].groups.iter().map(|row| (row.group.as_str(), row.asleep)).collect();
        assert_eq!(asleep, [("awake", false), ("gone", false), ("sleeps", true)]);
    }
}

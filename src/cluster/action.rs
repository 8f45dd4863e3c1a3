//! Creating, pausing, emptying and deleting streams and groups on every nsqd that has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use futures_util::future::join_all;

use super::apis::{ClusterApis, ClusterState, NsqdState};
use crate::client::{HttpError, Lookupd, Nsqd};
use crate::proto::{ChannelCounts, ChannelName, InvalidName, TopicCounts, TopicName};

/// A stream, or one group of it: `STREAM` or `STREAM/GROUP`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct QueueTarget {
    /// The stream (NSQ: topic).
    pub stream: TopicName,
    /// The group (NSQ: channel); `None` for the stream itself.
    pub group: Option<ChannelName>,
}

impl QueueTarget {
    /// A stream, or with a group this one of its groups.
    pub fn new(stream: TopicName, group: Option<ChannelName>) -> Self {
        Self { stream, group }
    }
}

impl FromStr for QueueTarget {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once('/') {
            Some((stream, group)) => Ok(Self { stream: stream.parse()?, group: Some(group.parse()?) }),
            None => Ok(Self { stream: text.parse()?, group: None }),
        }
    }
}

impl fmt::Display for QueueTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}/{group}", self.stream),
            None => self.stream.fmt(f),
        }
    }
}

/// An action on a stream or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueAction {
    /// Creates it, on every nsqd. A group is created with its stream.
    Create,
    /// Stops delivery: of a stream to its groups, of a group to its consumers.
    Pause,
    /// Resumes delivery.
    Unpause,
    /// Discards its messages. For a stream: those that no group has yet.
    Empty,
    /// Deletes it with all its messages.
    Delete,
}

impl QueueAction {
    /// Returns true if messages may be lost.
    pub fn loses_messages(self) -> bool {
        matches!(self, Self::Empty | Self::Delete)
    }
}

/// The outcome of an action on one nsqd.
#[derive(Debug)]
#[non_exhaustive]
pub struct QueueOutcome {
    /// The address of the nsqd's HTTP API.
    pub nsqd: String,
    /// The messages that the target held there before the action.
    pub messages: u64,
    /// The result.
    pub result: Result<(), HttpError>,
}

impl ClusterState {
    /// Returns the nsqds on which the action is done, with the number of messages that the target
    /// holds there: all that answered for [`QueueAction::Create`], otherwise those that have the
    /// target.
    pub fn places(&self, action: QueueAction, target: &QueueTarget) -> Vec<(&Nsqd, u64)> {
        let place = |nsqd: &NsqdState| {
            let topics = &nsqd.stats()?.topics;
            let topic = topics.iter().find(|topic| topic.name == target.stream);
            let messages = topic.and_then(|topic| messages(topic, action, target.group.as_ref()));
            if action == QueueAction::Create { Some(messages.unwrap_or(0)) } else { messages }
        };
        self.nsqds.iter().filter_map(|nsqd| Some((&nsqd.api, place(nsqd)?))).collect()
    }
}

/// Returns the messages that a group holds, or a stream: alone for [`QueueAction::Empty`], which
/// leaves its groups alone, otherwise with all groups. `None` if there is no such group.
fn messages(topic: &TopicCounts, action: QueueAction, group: Option<&ChannelName>) -> Option<u64> {
    let mut channels = topic.channels.iter();
    match group {
        Some(group) => channels.find(|channel| channel.name == *group).map(ChannelCounts::messages),
        None if action == QueueAction::Empty => Some(topic.depth),
        None => Some(topic.depth + channels.map(ChannelCounts::messages).sum::<u64>()),
    }
}

impl ClusterApis {
    /// Does an action on every nsqd of [`ClusterState::places`]. nsqlookupds learn of what is
    /// created or deleted first: nsqds ask them for the groups of a new stream, and consumers for
    /// the nsqds.
    ///
    /// # Errors
    /// Fails before anything is changed on an nsqd if an nsqlookupd refuses; an nsqd's error is in
    /// its outcome.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the action done on some nsqds. Every action may be repeated.
    pub async fn act(
        &self,
        state: &ClusterState,
        action: QueueAction,
        target: &QueueTarget,
    ) -> Result<Vec<QueueOutcome>, HttpError> {
        if matches!(action, QueueAction::Create | QueueAction::Delete) {
            for told in join_all(self.lookupds().iter().map(|lookupd| tell(lookupd, action, target))).await {
                told?;
            }
        }
        let act = |(nsqd, messages): (&Nsqd, u64)| {
            let nsqd = nsqd.clone();
            async move { QueueOutcome { nsqd: nsqd.to_string(), messages, result: one(&nsqd, action, target).await } }
        };
        Ok(join_all(state.places(action, target).into_iter().map(act)).await)
    }
}

/// Streams that are paused while their groups are created.
///
/// The first group of a stream gets the messages that waited for one. When a stream gets several
/// groups, it is paused until all of them exist, so that each gets these messages.
#[derive(Debug)]
#[must_use = "the streams stay paused until they are released"]
pub struct HeldBacklogs(Vec<(Nsqd, TopicName)>);

impl HeldBacklogs {
    /// Pauses the streams that are about to get two or more first groups and have messages. A
    /// stream that is paused already is left alone, and stays paused.
    ///
    /// # Errors
    /// Fails if an nsqd refuses; those that were paused are released.
    pub async fn hold(state: &ClusterState, targets: &[&QueueTarget]) -> Result<Self, HttpError> {
        let mut held = Self(Vec::new());
        for (nsqd, stream) in backlogs(state, targets) {
            match nsqd.pause_topic(&stream).await {
                Ok(()) => held.0.push((nsqd, stream)),
                Err(error) => {
                    let _ = held.release().await;
                    return Err(error);
                }
            }
        }
        Ok(held)
    }

    /// Returns true if no stream had to be paused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Unpauses the streams.
    ///
    /// # Errors
    /// Returns the streams that stay paused, each with the reason.
    pub async fn release(self) -> Result<(), Vec<(TopicName, HttpError)>> {
        let unpause = |(nsqd, stream): (Nsqd, TopicName)| async move {
            nsqd.unpause_topic(&stream).await.map_err(|error| (stream, error))
        };
        let failed: Vec<_> =
            join_all(self.0.into_iter().map(unpause)).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }
}

/// Returns the streams that have messages and no group, and get two or more of these.
fn backlogs(state: &ClusterState, targets: &[&QueueTarget]) -> Vec<(Nsqd, TopicName)> {
    let mut groups: BTreeMap<&TopicName, BTreeSet<&ChannelName>> = BTreeMap::new();
    for target in targets {
        groups.entry(&target.stream).or_default().extend(&target.group);
    }
    groups.retain(|_, groups| groups.len() > 1);
    let waits = |topic: &&TopicCounts| topic.channels.is_empty() && topic.depth > 0 && !topic.paused;
    let of = |nsqd: &NsqdState| {
        let topics = nsqd.stats().into_iter().flat_map(|stats| &stats.topics);
        let wanted = topics.filter(waits).filter(|topic| groups.contains_key(&topic.name));
        wanted.map(|topic| (nsqd.api.clone(), topic.name.clone())).collect::<Vec<_>>()
    };
    state.nsqds.iter().flat_map(of).collect()
}

async fn tell(lookupd: &Lookupd, action: QueueAction, target: &QueueTarget) -> Result<(), HttpError> {
    let told = match (action, &target.group) {
        (QueueAction::Create, None) => lookupd.create_topic(&target.stream).await,
        (QueueAction::Create, Some(group)) => lookupd.create_channel(&target.stream, group).await,
        (_, None) => lookupd.delete_topic(&target.stream).await,
        (_, Some(group)) => lookupd.delete_channel(&target.stream, group).await,
    };
    match told {
        Err(error) if error.is_not_found() => Ok(()),
        told => told,
    }
}

async fn one(nsqd: &Nsqd, action: QueueAction, target: &QueueTarget) -> Result<(), HttpError> {
    let stream = &target.stream;
    let done = match (action, &target.group) {
        (QueueAction::Create, None) => nsqd.create_topic(stream).await,
        (QueueAction::Create, Some(group)) => {
            nsqd.create_topic(stream).await?;
            nsqd.create_channel(stream, group).await
        }
        (QueueAction::Pause, None) => nsqd.pause_topic(stream).await,
        (QueueAction::Pause, Some(group)) => nsqd.pause_channel(stream, group).await,
        (QueueAction::Unpause, None) => nsqd.unpause_topic(stream).await,
        (QueueAction::Unpause, Some(group)) => nsqd.unpause_channel(stream, group).await,
        (QueueAction::Empty, None) => nsqd.empty_topic(stream).await,
        (QueueAction::Empty, Some(group)) => nsqd.empty_channel(stream, group).await,
        (QueueAction::Delete, None) => nsqd.delete_topic(stream).await,
        (QueueAction::Delete, Some(group)) => nsqd.delete_channel(stream, group).await,
    };
    match done {
        // another administrator was faster
        Err(error) if action == QueueAction::Delete && error.is_not_found() => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_streams_or_groups() {
        let read = |text: &str| text.parse::<QueueTarget>().map(|target| target.to_string());
        assert_eq!(read("orders").unwrap(), "orders");
        assert_eq!(read("orders/billing#ephemeral").unwrap(), "orders/billing#ephemeral");
        for wrong in ["", "/", "orders/", "/billing", "a/b/c", "a b", "a/b c"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn emptying_a_stream_leaves_its_groups_alone() {
        let channel = |name: &str, depth| {
            let mut channel = ChannelCounts::new(name.parse().unwrap());
            (channel.depth, channel.in_flight, channel.deferred) = (depth, 1, 1);
            channel
        };
        let mut topic = TopicCounts::new("s".parse().unwrap());
        (topic.depth, topic.channels) = (5, vec![channel("a", 10), channel("b", 20)]);
        let group = |name: &str| name.parse::<ChannelName>().unwrap();
        assert_eq!(messages(&topic, QueueAction::Empty, None), Some(5));
        assert_eq!(messages(&topic, QueueAction::Delete, None), Some(39));
        assert_eq!(messages(&topic, QueueAction::Empty, Some(&group("a"))), Some(12));
        assert_eq!(messages(&topic, QueueAction::Pause, Some(&group("c"))), None);
    }
}

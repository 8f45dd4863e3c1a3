//! The brokers that have a queue, by whether they can show its messages.

use std::collections::BTreeSet;

use mqueue::client::Nsqd;
use mqueue::cluster::{ClusterState, QueueTarget};
use mqueue::proto::{QueueStats, TopicCounts};

use crate::commands::common::exit::{Exit, Failure};

/// The nsqds that have a queue.
pub(super) struct Places<'a> {
    /// mqueue's brokers.
    pub(super) brokers: Vec<&'a Nsqd>,
    /// nsqds, which cannot show messages without delivering them.
    pub(super) nsqds: Vec<&'a Nsqd>,
    /// The groups of the stream.
    groups: BTreeSet<&'a str>,
}

impl<'a> Places<'a> {
    /// Finds the nsqds that have the target.
    ///
    /// # Errors
    /// Fails if none of those that answered has it.
    pub(super) fn of(state: &'a ClusterState, target: &QueueTarget) -> Result<Self, Failure> {
        let mut places = Self { brokers: Vec::new(), nsqds: Vec::new(), groups: BTreeSet::new() };
        let mut has_stream = false;
        for (nsqd, stats) in state.nsqds.iter().filter_map(|nsqd| Some((&nsqd.api, nsqd.stats()?))) {
            let Some(topic) = stats.topics.iter().find(|topic| topic.name == target.stream) else {
                continue;
            };
            has_stream = true;
            places.groups.extend(topic.channels.iter().map(|channel| channel.name.as_str()));
            if has_group(topic, target) {
                let list = if is_embedded(stats) { &mut places.brokers } else { &mut places.nsqds };
                list.push(nsqd);
            }
        }
        if !places.brokers.is_empty() || !places.nsqds.is_empty() {
            return Ok(places);
        }
        let line = match has_stream {
            true => format!("no nsqd that answered has a group {target}: {}", places.groups_of(target)),
            false => format!("no nsqd that answered has a stream {}", target.stream),
        };
        Err(Failure::new(Exit::Failure, line))
    }

    /// Says which nsqds cannot show messages, and what shows some; `None` if there are none.
    pub(super) fn without_peek(&self, target: &QueueTarget) -> Option<String> {
        let names: Vec<String> = self.nsqds.iter().map(ToString::to_string).collect();
        let stream = &target.stream;
        (!names.is_empty()).then(|| {
            format!(
                "nsqd at {} shows no message without delivering it: mqueue tail {stream} shows new ones, and \
                 mqueue ls {stream} counts those that wait",
                names.join(", ")
            )
        })
    }

    /// Says where else messages may be, if a stream itself holds none.
    pub(super) fn explain_nothing(&self, target: &QueueTarget) {
        match target.group {
            Some(_) => tracing::info!("no messages in {target}"),
            None => tracing::info!("{target} itself holds no messages: {}", self.groups_of(target)),
        }
    }

    fn groups_of(&self, target: &QueueTarget) -> String {
        let groups: Vec<String> = self.groups.iter().map(|group| format!("{}/{group}", target.stream)).collect();
        match groups.is_empty() {
            true => "it has no groups".to_owned(),
            false => format!("its groups are {}", groups.join(", ")),
        }
    }
}

fn has_group(topic: &TopicCounts, target: &QueueTarget) -> bool {
    let mut names = topic.channels.iter().map(|channel| channel.name.as_str());
    target.group.as_ref().is_none_or(|group| names.any(|name| name == group.as_str()))
}

/// True for statistics of mqueue's broker: nsqd has no index.
fn is_embedded(stats: &QueueStats) -> bool {
    stats.index_bytes.is_some()
}

//! Topics and channels of a log. Each segment begins with them, so that the older segments can be
//! removed.

use std::collections::BTreeMap;

use super::{Change, ChannelId, RecoveredChannel, RecoveredTopic, TopicId};
use crate::proto::{ChannelName, TopicName};

/// Topics, channels, and the numbers in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Catalog {
    pub(super) topics: BTreeMap<TopicId, CatalogTopic>,
    /// The topic of each channel.
    pub(super) owners: BTreeMap<ChannelId, TopicId>,
    /// The lowest number that was never given to a topic or a channel.
    pub(super) next_number: u32,
    /// The highest message id ever written.
    pub(super) last_id: u64,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CatalogTopic {
    pub(super) name: TopicName,
    pub(super) paused: bool,
    pub(super) fence: u64,
    pub(super) channels: BTreeMap<ChannelId, CatalogChannel>,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CatalogChannel {
    pub(super) name: ChannelName,
    pub(super) paused: bool,
}

impl Catalog {
    /// Applies a change. Creating what exists, or changing what does not, has no effect: snapshots
    /// repeat changes.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::TopicCreated(id, name) => self.add_topic(*id, name.clone(), false),
            Change::TopicDeleted(id) => {
                let topic = self.topics.remove(id);
                topic.iter().flat_map(|topic| topic.channels.keys()).for_each(|channel| {
                    self.owners.remove(channel);
                });
            }
            Change::TopicPaused(id, paused) => {
                self.topics.entry(*id).and_modify(|topic| topic.paused = *paused);
            }
            Change::TopicFenced(id, epoch) => self.fence(*id, *epoch),
            Change::ChannelCreated(topic, id, name) => self.add_channel(*topic, *id, name.clone(), false),
            Change::ChannelDeleted(id) => {
                let topic = self.owners.remove(id).and_then(|topic| self.topics.get_mut(&topic));
                topic.map(|topic| topic.channels.remove(id));
            }
            Change::ChannelPaused(id, paused) => {
                let topic = self.owners.get(id).and_then(|topic| self.topics.get_mut(topic));
                topic.and_then(|topic| topic.channels.get_mut(id)).into_iter().for_each(|it| it.paused = *paused);
            }
            Change::TopicEmptied(_)
            | Change::TopicDistributed(_)
            | Change::ChannelEmptied(_)
            | Change::Finished(..)
            | Change::Requeued(..) => {}
        }
    }

    /// True for changes that [`Catalog::apply`] acts on.
    pub(super) fn affects(change: &Change) -> bool {
        match change {
            Change::TopicCreated(..)
            | Change::TopicDeleted(_)
            | Change::TopicPaused(..)
            | Change::TopicFenced(..)
            | Change::ChannelCreated(..)
            | Change::ChannelDeleted(_)
            | Change::ChannelPaused(..) => true,
            Change::TopicEmptied(_)
            | Change::TopicDistributed(_)
            | Change::ChannelEmptied(_)
            | Change::Finished(..)
            | Change::Requeued(..) => false,
        }
    }

    pub(super) fn add_topic(&mut self, id: TopicId, name: TopicName, paused: bool) {
        self.topics.entry(id).or_insert(CatalogTopic { name, paused, fence: 0, channels: BTreeMap::new() });
        self.next_number = self.next_number.max(id.0.saturating_add(1));
    }

    /// Raises a topic's fence; a lower epoch has no effect.
    pub(super) fn fence(&mut self, id: TopicId, epoch: u64) {
        self.topics.entry(id).and_modify(|topic| topic.fence = topic.fence.max(epoch));
    }

    pub(super) fn add_channel(&mut self, topic: TopicId, id: ChannelId, name: ChannelName, paused: bool) {
        self.next_number = self.next_number.max(id.0.saturating_add(1));
        let Some(owner) = self.topics.get_mut(&topic).filter(|_| !self.owners.contains_key(&id)) else { return };
        owner.channels.insert(id, CatalogChannel { name, paused });
        self.owners.insert(id, topic);
    }

    /// Records that `count` message ids from `first` on were written.
    pub(super) fn add_ids(&mut self, first: u64, count: u64) {
        self.last_id = self.last_id.max(first.saturating_add(count.saturating_sub(1)));
    }

    /// The topics for recovery of the state, in the order of their creation.
    pub(super) fn recovered(&self) -> Vec<RecoveredTopic> {
        let channels = |topic: &CatalogTopic| {
            let all = topic.channels.iter();
            all.map(|(id, it)| RecoveredChannel { id: *id, name: it.name.clone(), paused: it.paused }).collect()
        };
        let topics = self.topics.iter();
        topics
            .map(|(id, it)| RecoveredTopic {
                id: *id,
                name: it.name.clone(),
                paused: it.paused,
                fence: it.fence,
                channels: channels(it),
            })
            .collect()
    }
}

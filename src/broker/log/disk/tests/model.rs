//! Model of a log's contents, as simple as possible.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::super::*;

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Model {
    pub(super) topics: BTreeMap<TopicId, ModelTopic>,
    pub(super) messages: BTreeMap<u64, ModelMessage>,
    pub(super) last_id: u64,
    pub(super) next_number: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelTopic {
    pub(super) name: TopicName,
    pub(super) paused: bool,
    pub(super) fence: u64,
    pub(super) channels: BTreeMap<ChannelId, (ChannelName, bool)>,
}

#[derive(Clone, PartialEq)]
pub(super) struct ModelMessage {
    pub(super) topic: TopicId,
    pub(super) timestamp: i64,
    /// The due time, if the topic holds the message.
    pub(super) due: Option<UnixMillis>,
    pub(super) copies: Vec<ChannelCopy>,
    pub(super) body: Bytes,
}

/// Omits the body, which is long.
impl std::fmt::Debug for ModelMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topic, timestamp, due, copies, body } = self;
        write!(f, "{topic:?} {timestamp} {due:?} {copies:?} {} bytes", body.len())
    }
}

impl Model {
    pub(super) fn publish(&mut self, batch: &PublishedBatch<'_>) {
        self.last_id = batch.first + batch.count() - 1;
        let fresh = |channel: &ChannelId| ChannelCopy { channel: *channel, attempts: 0, due: batch.due };
        let copies: Vec<_> = self.topics[&batch.topic].channels.keys().map(fresh).collect();
        for (id, body) in (batch.first..).zip(batch.parts.iter().flat_map(Bodies::iter)) {
            let (topic, timestamp, body) = (batch.topic, batch.timestamp, body.clone());
            match batch.holder {
                MessageHolder::Topic => {
                    self.messages.insert(id, ModelMessage { topic, timestamp, due: batch.due, copies: vec![], body });
                }
                MessageHolder::Channels if copies.is_empty() => {}
                MessageHolder::Channels => {
                    let copies = copies.clone();
                    self.messages.insert(id, ModelMessage { topic, timestamp, due: None, copies, body });
                }
            }
        }
    }

    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::TopicCreated(id, name) => {
                let topic = ModelTopic { name: name.clone(), paused: false, fence: 0, channels: BTreeMap::new() };
                self.topics.insert(*id, topic);
                self.next_number = id.0 + 1;
            }
            Change::TopicDeleted(id) => {
                self.topics.remove(id);
                self.messages.retain(|_, message| message.topic != *id);
            }
            Change::TopicPaused(id, paused) => self.topics.get_mut(id).unwrap().paused = *paused,
            Change::TopicFenced(id, epoch) => {
                let fence = &mut self.topics.get_mut(id).unwrap().fence;
                *fence = (*fence).max(*epoch);
            }
            Change::TopicEmptied(id) => {
                self.messages.retain(|_, message| message.topic != *id || !message.copies.is_empty());
            }
            Change::TopicDistributed(id) => self.distribute(*id),
            Change::ChannelCreated(topic, id, name) => {
                self.topics.get_mut(topic).unwrap().channels.insert(*id, (name.clone(), false));
                self.next_number = id.0 + 1;
            }
            Change::ChannelDeleted(id) => {
                self.topics.values_mut().for_each(|topic| {
                    topic.channels.remove(id);
                });
                self.drop_copies(|_, copy| copy.channel == *id);
            }
            Change::ChannelPaused(id, paused) => {
                let channels = self.topics.values_mut().filter_map(|topic| topic.channels.get_mut(id));
                channels.for_each(|channel| channel.1 = *paused);
            }
            Change::ChannelEmptied(id) => self.drop_copies(|_, copy| copy.channel == *id),
            Change::Finished(channel, id) => self.drop_copies(|it, copy| it == *id && copy.channel == *channel),
            Change::Requeued(channel, id, attempts, due) => {
                let copies = self.messages.get_mut(id).into_iter().flat_map(|message| &mut message.copies);
                let copies = copies.filter(|copy| copy.channel == *channel);
                copies.for_each(|copy| (copy.attempts, copy.due) = (*attempts, *due));
            }
        }
    }

    fn distribute(&mut self, id: TopicId) {
        let channels: Vec<_> = self.topics[&id].channels.keys().copied().collect();
        self.messages.retain(|_, message| {
            if message.topic == id && message.copies.is_empty() {
                let due = message.due.take();
                message.copies =
                    channels.iter().map(|channel| ChannelCopy { channel: *channel, attempts: 0, due }).collect();
                return !message.copies.is_empty();
            }
            true
        });
    }

    fn drop_copies(&mut self, gone: impl Fn(u64, &ChannelCopy) -> bool) {
        self.messages.retain(|id, message| {
            let had = message.copies.len();
            message.copies.retain(|copy| !gone(*id, copy));
            had == 0 || !message.copies.is_empty()
        });
    }

    /// The model of a log's contents.
    pub(super) fn of(recovered: &Recovered, log: &mut impl Log) -> Self {
        let topics = recovered.topics.iter().map(|topic| {
            let channels = topic.channels.iter().map(|it| (it.id, (it.name.clone(), it.paused))).collect();
            (topic.id, ModelTopic { name: topic.name.clone(), paused: topic.paused, fence: topic.fence, channels })
        });
        let messages = recovered.batches.iter().flat_map(|batch| {
            let RecoveredBatch { topic, timestamp, due, .. } = *batch;
            let copies = &batch.copies;
            let message = |(id, _, body)| (id, ModelMessage { topic, timestamp, due, copies: copies.clone(), body });
            super::world::each(batch, log).into_iter().map(message).collect::<Vec<_>>()
        });
        let (last_id, next_number) = (recovered.last_id, recovered.next_number);
        Self { topics: topics.collect(), messages: messages.collect(), last_id, next_number }
    }
}

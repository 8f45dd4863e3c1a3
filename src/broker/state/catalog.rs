//! Topics and channels: creating, deleting, pausing and emptying them.

use super::super::log::{Change, ChannelId, TopicId};
use super::channel::Channel;
use super::session::{SessionId, SessionPhase};
use super::topic::Topic;
use super::{BrokerState, Now};
use crate::proto::{ChannelName, TopicName};

/// The topic or channel that a request named and that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The topic.
    Topic,
    /// The channel.
    Channel,
}

impl BrokerState {
    /// Creates a topic, unless it exists.
    pub fn create_topic(&mut self, name: &TopicName) {
        if self.topics.contains_key(name) {
            return;
        }
        let id = TopicId(self.next_number());
        if !name.is_ephemeral() {
            self.store.note(&Change::TopicCreated(id, name.clone()));
        }
        let mut topic = Topic::new(id, name.is_ephemeral());
        if self.awaits_known_channels {
            topic.awaits_channels = true;
            self.awaiting_channels.push(name.clone());
        }
        self.topics.insert(name.clone(), topic);
    }

    /// Sets whether new topics hold messages until [`set_known_channels`](Self::set_known_channels)
    /// adds the channels that they have on other nodes.
    pub fn await_known_channels(&mut self, asks: bool) {
        self.awaits_known_channels = asks;
    }

    /// New topics whose channels on other nodes must be looked up; each is returned once.
    pub fn take_topics_awaiting_channels(&mut self) -> Vec<TopicName> {
        std::mem::take(&mut self.awaiting_channels)
    }

    /// Creates the channels that a topic has on other nodes and passes the held messages to them,
    /// if the topic still exists. Skips ephemeral channels: their consumers create them.
    pub fn set_known_channels(&mut self, name: &TopicName, channels: &[ChannelName], now: Now) {
        if !self.topics.contains_key(name) {
            return;
        }
        for channel in channels.iter().filter(|channel| !channel.is_ephemeral()) {
            self.channel_of(name, channel, now);
        }
        self.topics.get_mut(name).expect("it is there").awaits_channels = false;
        self.distribute(name, now);
    }

    /// Creates a channel and its topic, unless they exist. The first channel of a topic gets the
    /// messages that the topic held.
    pub fn create_channel(&mut self, topic: &TopicName, name: &ChannelName, now: Now) {
        self.channel_of(topic, name, now);
    }

    fn channel_of(&mut self, topic_name: &TopicName, name: &ChannelName, now: Now) -> ChannelId {
        self.create_topic(topic_name);
        let id = ChannelId(self.next_number);
        let topic = self.topics.get_mut(topic_name).expect("made just now");
        if let Some(known) = topic.channels.get(name) {
            return *known;
        }
        let mut channel = Channel::new(id, topic_name.clone(), name.clone());
        channel.latency = self.latency.new_window();
        if channel.is_logged() {
            self.store.note(&Change::ChannelCreated(topic.id, id, name.clone()));
        }
        topic.channels.insert(name.clone(), id);
        self.channels.insert(id, channel);
        self.next_number();
        self.distribute(topic_name, now);
        id
    }

    /// True if the topic exists.
    pub fn has_topic(&self, topic: &TopicName) -> bool {
        self.topics.contains_key(topic)
    }

    /// A version that grows with every topic or channel that is created or deleted.
    pub fn catalog_version(&self) -> u64 {
        self.catalog_version
    }

    /// Every topic with its channels.
    pub fn catalog(&self) -> impl Iterator<Item = (&TopicName, impl Iterator<Item = &ChannelName>)> {
        self.topics.iter().map(|(name, topic)| (name, topic.channels.keys()))
    }

    /// Subscribes a session. Fails, with nsqd's error text, if the channel has reached its limit of
    /// consumers.
    pub fn subscribe(
        &mut self,
        session: SessionId,
        topic: &TopicName,
        channel: &ChannelName,
        now: Now,
    ) -> Result<(), String> {
        let id = self.channel_of(topic, channel, now);
        let limit = self.store.limits.max_channel_consumers;
        let channel = self.channels.get_mut(&id).expect("made just now");
        if limit != 0 && i64::try_from(channel.sessions.len()).unwrap_or(i64::MAX) >= limit {
            return Err(format!("consumers for {topic}:{} exceeds limit of {limit}", channel.name));
        }
        channel.sessions.push(session);
        self.store.has_unserved = true;
        let session = self.session(session);
        session.channel = Some(id);
        session.phase = SessionPhase::Subscribed;
        Ok(())
    }

    /// Pauses or unpauses a topic. Unpausing passes the held messages to its channels.
    pub fn pause_topic(&mut self, name: &TopicName, paused: bool, now: Now) -> Result<(), Missing> {
        let topic = self.topics.get_mut(name).ok_or(Missing::Topic)?;
        if topic.paused != paused && !name.is_ephemeral() {
            self.store.note(&Change::TopicPaused(topic.id, paused));
        }
        topic.paused = paused;
        self.distribute(name, now);
        Ok(())
    }

    /// Pauses or unpauses a channel.
    pub fn pause_channel(
        &mut self,
        topic: &TopicName,
        name: &ChannelName,
        paused: bool,
        now: Now,
    ) -> Result<(), Missing> {
        let id = self.find(topic, name)?;
        let channel = self.channels.get_mut(&id).expect("its topic has it");
        if channel.paused != paused && channel.is_logged() {
            self.store.note(&Change::ChannelPaused(id, paused));
        }
        channel.paused = paused;
        channel.deliver(&mut self.store, &mut self.sessions, now);
        Ok(())
    }

    /// Drops the messages that the topic itself holds; its channels keep theirs.
    pub fn empty_topic(&mut self, name: &TopicName) -> Result<(), Missing> {
        let topic = self.topics.get_mut(name).ok_or(Missing::Topic)?;
        if !topic.held.is_empty() && !name.is_ephemeral() {
            self.store.note(&Change::TopicEmptied(topic.id));
        }
        topic.clear(&mut self.store);
        Ok(())
    }

    /// Drops all copies of a channel: queued, in flight and deferred.
    pub fn empty_channel(&mut self, topic: &TopicName, name: &ChannelName) -> Result<(), Missing> {
        let id = self.find(topic, name)?;
        let channel = self.channels.get_mut(&id).expect("its topic has it");
        if channel.is_logged() {
            self.store.note(&Change::ChannelEmptied(id));
        }
        channel.clear(&mut self.store);
        for id in channel.sessions.clone() {
            self.sessions.get_mut(id).expect("a removed session leaves its channel").in_flight = 0;
            channel.enqueue_ready(id, &mut self.sessions);
        }
        Ok(())
    }

    /// Deletes a topic with its channels and messages; its consumers are disconnected.
    pub fn delete_topic(&mut self, name: &TopicName) -> Result<(), Missing> {
        self.empty_topic(name)?;
        let topic = self.topics.remove(name).ok_or(Missing::Topic)?;
        for id in topic.channels.into_values() {
            self.drop_channel(id);
        }
        if !name.is_ephemeral() {
            self.store.note(&Change::TopicDeleted(topic.id));
        }
        self.catalog_version += 1;
        Ok(())
    }

    /// Deletes a channel; its consumers are disconnected. An ephemeral topic is deleted with its
    /// last channel.
    pub fn delete_channel(&mut self, topic_name: &TopicName, name: &ChannelName) -> Result<(), Missing> {
        let id = self.find(topic_name, name)?;
        if self.channels[&id].is_logged() {
            self.store.note(&Change::ChannelDeleted(id));
        }
        self.drop_channel(id);
        let topic = self.topics.get_mut(topic_name).expect("it was found");
        topic.channels.remove(name);
        self.catalog_version += 1;
        if topic.channels.is_empty() && topic_name.is_ephemeral() {
            self.delete_topic(topic_name)?;
        }
        Ok(())
    }

    fn find(&self, topic: &TopicName, channel: &ChannelName) -> Result<ChannelId, Missing> {
        let topic = self.topics.get(topic).ok_or(Missing::Topic)?;
        topic.channels.get(channel).copied().ok_or(Missing::Channel)
    }

    /// Removes a channel from everything except its topic's list, and ends its consumers.
    fn drop_channel(&mut self, id: ChannelId) {
        let mut channel = self.channels.remove(&id).expect("its topic had it");
        channel.clear(&mut self.store);
        for id in channel.sessions {
            let session = self.session(id);
            (session.in_flight, session.in_ready_queue, session.ended) = (0, false, true);
            self.sessions.wake(id);
        }
    }

    /// Takes the next number for a topic or a channel, and bumps the catalog version.
    fn next_number(&mut self) -> u32 {
        self.catalog_version += 1;
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}

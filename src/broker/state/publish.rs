//! Publishing: messages enter a topic and go to its channels.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;

use super::super::log::{
    Change, ChannelCopy, ChannelId, CopyRun, LogLocation, MAX_UNIT_BYTES, MessageHolder, PublishedBatch, Relocated,
    UnixMillis,
};
use super::channel::{ById, Channel};
use super::session::Sessions;
use super::store::Store;
use super::time::Millis;
use super::topic::{HeldRun, Topic};
use super::{BrokerState, Missing, Now, SessionId};
use crate::io_error::describe;
use crate::proto::{Bodies, ChannelName, TopicName};

/// The reason why a message for one channel was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChannelPublishError {
    /// The topic or the channel does not exist.
    #[error("there is no such channel")]
    Missing(Missing),
    /// Publishing failed for a reason that applies to any message.
    #[error(transparent)]
    Publish(#[from] BrokerPublishError),
}

/// The reason why messages were refused.
#[derive(Debug, thiserror::Error)]
pub enum BrokerPublishError {
    /// The messages could not be written to the log.
    #[error("cannot write to the log: {}", describe(.0))]
    Log(#[from] io::Error),
    /// The memory limit is reached, and no log holds these messages.
    #[error("the messages in memory have reached the limit of {limit} bytes (--max-memory), and there is no log")]
    Full {
        /// The limit in bytes.
        limit: usize,
    },
    /// The index memory has reached its limit.
    #[error(
        "the index of messages has reached the limit of {limit} bytes of memory (--max-index-memory): \
         finish or delete messages"
    )]
    Index {
        /// The limit in bytes.
        limit: usize,
    },
}

impl BrokerState {
    /// Publishes all messages or none, for delivery at once or `delay` milliseconds from now. They
    /// are in the log when this returns.
    ///
    /// The memory of the bodies is kept as passed: see [`Bodies::compact`].
    pub fn publish(
        &mut self,
        name: &TopicName,
        bodies: Bodies,
        delay: Option<u64>,
        now: Now,
    ) -> Result<(), BrokerPublishError> {
        self.check_index()?;
        self.create_topic(name);
        let is_large = bodies.count() > 1 && bodies.sized_length() > MAX_UNIT_BYTES;
        match is_large && self.topics[name].is_logged() {
            true => self.publish_parts(name, bodies.split(MAX_UNIT_BYTES), delay, now),
            false => self.publish_parts(name, [bodies], delay, now),
        }
    }

    /// Publishes messages that are stored as several units, with one write.
    fn publish_parts<P: AsRef<[Bodies]> + IntoIterator<Item = Bodies>>(
        &mut self,
        name: &TopicName,
        parts: P,
        delay: Option<u64>,
        now: Now,
    ) -> Result<(), BrokerPublishError> {
        let all = || parts.as_ref().iter();
        let (count, bytes) = (all().map(|part| u64::from(part.count())).sum(), all().map(Bodies::length).sum());
        let mut first = self.store.batches.reserve_ids(count, now.unix_nanos);
        let due = delay.filter(|delay| *delay > 0).map(|delay| now.due_in(Millis(delay)));
        let topic = self.topics.get_mut(name).expect("made just now");
        let mut location = self.store.write(topic, parts.as_ref(), first, due, now)?;
        let limit = self.store.limits.max_memory;
        if location.is_none() && !self.store.batches.has_room(bytes) {
            return Err(BrokerPublishError::Full { limit });
        }
        topic.message_count += count;
        topic.message_bytes += bytes as u64;
        let holders = if topic.holds() { 1 } else { topic.channels.len() as u32 };
        for part in parts {
            let (begin, next) = (location, location.map(|location| location.next_part(&part)));
            let Store { batches, log, .. } = &mut self.store;
            let run = batches.insert(first, now.unix_nanos, part, begin, holders, &mut **log);
            (first, location) = (first + u64::from(run.count), next);
            match topic.holds() {
                true => topic.hold(HeldRun { run, due }, &mut self.store),
                false => topic.copy_to_channels(
                    HeldRun { run, due },
                    &mut self.channels,
                    &mut self.store,
                    &mut self.sessions,
                    now,
                ),
            }
        }
        Ok(())
    }

    /// Publishes a message to one channel of a topic; the other channels do not get it. It is in
    /// the log when this returns.
    pub fn publish_to(
        &mut self,
        name: &TopicName,
        channel: &ChannelName,
        body: Bytes,
        now: Now,
    ) -> Result<(), ChannelPublishError> {
        self.check_index()?;
        let topic = self.topics.get(name).ok_or(ChannelPublishError::Missing(Missing::Topic))?;
        let id = *topic.channels.get(channel).ok_or(ChannelPublishError::Missing(Missing::Channel))?;
        let channel = self.channels.get_mut(&id).expect("its topic has it");
        let bodies = Bodies::one(body).compact();
        let first = self.store.batches.reserve_ids(1, now.unix_nanos);
        let location = match channel.is_logged() {
            true => {
                let copies =
                    &[CopyRun { copy: ChannelCopy { channel: id, attempts: 0, due: None }, index: 0, count: 1 }];
                let (topic, timestamp, holder) = (topic.id, now.unix_nanos, MessageHolder::Channels);
                let bodies = &bodies;
                let message = Relocated { from: None, topic, first, timestamp, due: None, holder, copies, bodies };
                self.store.log.relocate(&message).map_err(BrokerPublishError::Log)?
            }
            false => None,
        };
        if location.is_none() && !self.store.batches.has_room(bodies.length()) {
            return Err(BrokerPublishError::Full { limit: self.store.limits.max_memory }.into());
        }
        let Store { batches, log, .. } = &mut self.store;
        let run = batches.insert(first, now.unix_nanos, bodies, location, 1, &mut **log);
        channel.add_copies(run, None, &mut self.store, now);
        channel.deliver(&mut self.store, &mut self.sessions, now);
        Ok(())
    }

    /// Fences the topic: lower epochs may not publish any more. Fails, with the epoch in force, if
    /// `epoch` is lower than that.
    pub fn fence(&mut self, name: &TopicName, epoch: u64) -> Result<(), u64> {
        self.create_topic(name);
        let topic = self.topics.get_mut(name).expect("made just now");
        if epoch < topic.fence {
            return Err(topic.fence);
        }
        if epoch > topic.fence && !topic.is_ephemeral {
            self.store.note(&Change::TopicFenced(topic.id, epoch));
        }
        topic.fence = epoch;
        Ok(())
    }

    /// Counts messages that a session published.
    pub fn count_published(&mut self, session: SessionId, topic: &TopicName, count: u64) {
        self.session(session).count_published(topic, count);
    }

    /// Passes the held messages of a topic to its channels, unless the topic still holds them back.
    pub(super) fn distribute(&mut self, name: &TopicName, now: Now) {
        let topic = self.topics.get_mut(name).expect("it is there");
        if topic.holds() || topic.held.is_empty() {
            return;
        }
        if !topic.is_ephemeral {
            self.store.note(&Change::TopicDistributed(topic.id));
        }
        let others = topic.channels.len() as u64 - 1;
        for held in topic.take_held() {
            self.store.batches.hold(held.run.key, others * u64::from(held.run.count));
            topic.copy_to_channels(held, &mut self.channels, &mut self.store, &mut self.sessions, now);
        }
    }
}

impl Store {
    /// Writes a batch to the log, if a durable topic or channel must have it after a restart.
    fn write(
        &mut self,
        topic: &Topic,
        parts: &[Bodies],
        first: u64,
        due: Option<UnixMillis>,
        now: Now,
    ) -> io::Result<Option<LogLocation>> {
        if !topic.is_logged() {
            return Ok(None);
        }
        let holder = if topic.holds() { MessageHolder::Topic } else { MessageHolder::Channels };
        self.log.publish(&PublishedBatch { topic: topic.id, first, timestamp: now.unix_nanos, due, holder, parts })
    }
}

impl Topic {
    /// True if messages that are published now must be there after a restart.
    fn is_logged(&self) -> bool {
        !self.is_ephemeral && (self.holds() || self.has_durable_channel())
    }

    /// Gives each channel its copies and sends them to sessions that have room.
    fn copy_to_channels(
        &self,
        HeldRun { run, due }: HeldRun,
        channels: &mut HashMap<ChannelId, Channel, ById>,
        store: &mut Store,
        sessions: &mut Sessions,
        now: Now,
    ) {
        for id in self.channels.values() {
            let channel = channels.get_mut(id).expect("its topic has it");
            channel.add_copies(run, due, store, now);
            channel.deliver(store, sessions, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::log::MemoryLog;
    use super::super::StateLimits;
    use super::*;

    #[test]
    fn a_new_epoch_ends_the_old_one_and_deletion_resets_it() {
        let mut state = BrokerState::new(StateLimits::default(), Box::new(MemoryLog));
        let [one, other] = ["one", "other#ephemeral"].map(|name| TopicName::new(name).unwrap());
        for name in [&one, &other] {
            assert_eq!(state.fence(name, 7), Ok(()));
            assert_eq!(state.fence(name, 7), Ok(()), "an epoch has many messages");
            assert_eq!(state.fence(name, 9), Ok(()));
            assert_eq!(state.fence(name, 8), Err(9));
        }
        state.delete_topic(&one).unwrap();
        assert_eq!(state.fence(&one, 1), Ok(()));
        assert_eq!(state.fence(&other, 1), Err(9), "each topic has its own");
    }
}

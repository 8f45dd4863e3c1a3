//! The log and the state: what a log held becomes the state, and what an old segment still holds is carried forward.

use std::collections::HashMap;
use std::io;

use super::super::log::{Carried, Copy, Log, Recovered, TopicId};
use super::channel::{Channel, Waiting};
use super::messages::Key;
use super::store::Store;
use super::topic::{Held, Topic};
use super::{Now, State, StateLimits};
use crate::proto::TopicName;

impl State {
    /// The state that a log held: everything waits again, and what is deferred does so until it is due.
    pub fn recover(limits: StateLimits, log: Box<dyn Log>, recovered: Recovered, now: Now) -> Self {
        let mut state = Self::new(limits, log);
        state.store.messages.never_below(recovered.last_id);
        state.next_number = recovered.next_number.max(1);
        let mut names: HashMap<TopicId, TopicName> = HashMap::new();
        for known in recovered.topics {
            let mut topic = Topic::new(known.id, false);
            topic.paused = known.paused;
            for known_channel in known.channels {
                let mut channel = Channel::new(known_channel.id, known.name.clone(), known_channel.name.clone());
                channel.paused = known_channel.paused;
                topic.channels.insert(known_channel.name, known_channel.id);
                state.channels.insert(known_channel.id, channel);
            }
            names.insert(known.id, known.name.clone());
            state.topics.insert(known.name, topic);
        }
        for message in recovered.messages {
            let holders = u32::try_from(message.copies.len().max(1)).expect("channels are numbered by 32 bits");
            let store = &mut state.store;
            let key = store.messages.recover(message.id, message.timestamp, message.place, message.length, holders);
            if message.copies.is_empty() {
                let topic = state.topics.get_mut(&names[&message.topic]).expect("it has a name");
                topic.hold(Held { key, due: message.due }, store);
            }
            for copy in message.copies {
                let channel = state.channels.get_mut(&copy.channel).expect("a copy is a channel's");
                match copy.due {
                    Some(due) => channel.defer(key, copy.attempts, due, store, now),
                    None => channel.wait(Waiting { key, attempts: copy.attempts }, store),
                }
            }
        }
        state
    }

    /// Writes anew what keeps the oldest segment of the log, if little does: then it can go.
    pub fn carry(&mut self) -> io::Result<()> {
        let Some(segment) = self.store.log.wants_carried() else { return Ok(()) };
        let mut kept: HashMap<Key, Kept> = HashMap::new();
        for topic in self.topics.values() {
            for held in topic.held.iter().filter(|held| self.store.is_in(held.key, segment)) {
                kept.insert(held.key, Kept { topic: topic.id, held: Some(*held), copies: Vec::new() });
            }
        }
        for channel in self.channels.values() {
            let topic = self.topics[&channel.topic].id;
            for (key, copy) in channel.copies().filter(|(key, _)| self.store.is_in(*key, segment)) {
                let kept = kept.entry(key).or_insert(Kept { topic, held: None, copies: Vec::new() });
                // an ephemeral channel's copy keeps the message, but not beyond the process
                kept.copies.extend(channel.is_logged().then_some(copy));
            }
        }
        kept.into_iter().try_for_each(|(key, kept)| self.store.carry(key, &kept))
    }
}

/// Who holds a message that is carried.
struct Kept {
    topic: TopicId,
    held: Option<Held>,
    copies: Vec<Copy>,
}

impl Store {
    fn is_in(&self, key: Key, segment: u32) -> bool {
        self.messages.get(key).place().is_some_and(|place| place.segment == segment)
    }

    fn carry(&mut self, key: Key, kept: &Kept) -> io::Result<()> {
        let Kept { topic, held, copies } = kept;
        let body = self.messages.body(key, &mut *self.log)?.into_owned();
        let entry = self.messages.get(key);
        let (topic, id, timestamp, before) = (*topic, entry.id, entry.timestamp, entry.place());
        let place = match held.is_none() && copies.is_empty() {
            true => None,
            false => {
                let (due, body) = (held.and_then(|held| held.due), body.clone());
                self.log.carry(&Carried { topic, id, timestamp, due, copies, body })?
            }
        };
        self.messages.moved(key, place, body);
        before.into_iter().for_each(|place| self.log.spent(place.segment));
        Ok(())
    }
}

impl Channel {
    /// All copies, as the log knows them: what is in flight waits.
    fn copies(&self) -> impl Iterator<Item = (Key, Copy)> {
        let copy = |key, attempts, due| (key, Copy { channel: self.id, attempts, due });
        let waiting = self.queue.iter().map(move |waiting| copy(waiting.key, waiting.attempts, None));
        let in_flight = self.in_flight.values().map(move |sent| copy(sent.key, sent.attempts, None));
        let deferred = self.deferred.values().map(move |later| copy(later.key, later.attempts, Some(later.due)));
        waiting.chain(in_flight).chain(deferred)
    }
}

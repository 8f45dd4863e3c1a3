//! A channel: every copy that it has is in exactly one of queue, in flight and deferred.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::super::log::{ChannelId, UnixMillis};
use super::messages::Key;
use super::session::SessionId;
use super::store::Store;
use super::time::{Micros, Now};
use crate::proto::{ChannelName, TopicName};

/// A copy that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) key: Key,
    pub(super) attempts: u16,
}

/// A copy that a client has.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    pub(super) key: Key,
    pub(super) attempts: u16,
    pub(super) session: SessionId,
    pub(super) delivered: Micros,
    /// When it comes back.
    pub(super) deadline: Micros,
}

/// A copy that waits for its time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deferred {
    pub(super) key: Key,
    pub(super) attempts: u16,
    pub(super) due: UnixMillis,
    pub(super) until: Micros,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) id: ChannelId,
    pub(super) topic: TopicName,
    pub(super) name: ChannelName,
    pub(super) paused: bool,
    pub(super) queue: VecDeque<Waiting>,
    /// How many of the queue have their bodies in the log only.
    pub(super) on_disk: usize,
    pub(super) in_flight: HashMap<u64, InFlight, ById>,
    pub(super) deferred: HashMap<u64, Deferred, ById>,
    /// Its consumers, in the order in which they came.
    pub(super) sessions: Vec<SessionId>,
    /// Those that may have room for a message; the first gets the next.
    pub(super) line: VecDeque<SessionId>,
    pub(super) message_count: u64,
    pub(super) requeue_count: u64,
    pub(super) timeout_count: u64,
}

impl Channel {
    pub(super) fn new(id: ChannelId, topic: TopicName, name: ChannelName) -> Self {
        Self {
            id,
            topic,
            name,
            paused: false,
            queue: VecDeque::new(),
            on_disk: 0,
            in_flight: HashMap::default(),
            deferred: HashMap::default(),
            sessions: Vec::new(),
            line: VecDeque::new(),
            message_count: 0,
            requeue_count: 0,
            timeout_count: 0,
        }
    }

    /// True if what happens to it is logged: neither it nor its topic is ephemeral.
    pub(super) fn is_logged(&self) -> bool {
        !self.topic.is_ephemeral() && !self.name.is_ephemeral()
    }

    /// Takes a new copy. An ephemeral channel has no more waiting than its limit, and drops the rest.
    pub(super) fn take(&mut self, key: Key, due: Option<UnixMillis>, store: &mut Store, now: Now) {
        self.message_count += 1;
        match due {
            Some(due) => self.defer(key, 0, due, store, now),
            None if self.name.is_ephemeral() && self.queue.len() >= store.limits.mem_queue_size => store.release(key),
            None => self.wait(Waiting { key, attempts: 0 }, store),
        }
    }

    /// Puts a copy at the end of the queue.
    pub(super) fn wait(&mut self, waiting: Waiting, store: &Store) {
        self.on_disk += usize::from(store.is_on_disk(waiting.key));
        self.queue.push_back(waiting);
    }

    /// The copy that is next.
    pub(super) fn next(&mut self, store: &Store) -> Option<Waiting> {
        let next = self.queue.pop_front()?;
        self.on_disk -= usize::from(store.is_on_disk(next.key));
        Some(next)
    }

    /// Keeps a copy back until it is due.
    pub(super) fn defer(&mut self, key: Key, attempts: u16, due: UnixMillis, store: &mut Store, now: Now) {
        let (id, until) = (store.messages.get(key).id, now.until(due));
        store.timers.insert((until, self.id, id));
        self.deferred.insert(id, Deferred { key, attempts, due, until });
    }

    /// Throws away all copies.
    pub(super) fn clear(&mut self, store: &mut Store) {
        self.on_disk = 0;
        self.queue.drain(..).for_each(|waiting| store.release(waiting.key));
        for (id, copy) in self.in_flight.drain() {
            store.timers.remove(&(copy.deadline, self.id, id));
            store.release(copy.key);
        }
        for (id, copy) in self.deferred.drain() {
            store.timers.remove(&(copy.until, self.id, id));
            store.release(copy.key);
        }
    }
}

/// Hashes ids, which we made, and which differ in their low bits.
pub(super) type ById = BuildHasherDefault<IdHasher>;

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // the table takes its place from the low bits, and its tag from the high ones
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

//! A channel: every copy that it has is in exactly one of queue, in flight and deferred.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::super::log::{ChannelId, UnixMillis};
use super::batches::Run;
use super::session::SessionId;
use super::store::Store;
use super::time::{Micros, Now};
use crate::proto::{ChannelName, TopicName};

/// Copies that wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) run: Run,
    pub(super) attempts: u16,
}

/// A copy that a client has.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    pub(super) run: Run,
    pub(super) attempts: u16,
    pub(super) session: SessionId,
    pub(super) delivered: Micros,
    /// When it comes back.
    pub(super) deadline: Micros,
}

/// Copies that wait for their time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deferred {
    pub(super) run: Run,
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
    /// Many of its messages cannot be read: it sends nothing for a moment.
    pub(super) rests: bool,
    pub(super) queue: VecDeque<Waiting>,
    /// How many entries ever left the queue: an entry's number is this and its place in it.
    pub(super) popped: u64,
    /// How many copies the queue has, and how many of them were left in the log.
    pub(super) depth: usize,
    pub(super) backlog: usize,
    /// By id.
    pub(super) in_flight: HashMap<u64, InFlight, ById>,
    /// By the first one's id.
    pub(super) deferred: HashMap<u64, Deferred, ById>,
    pub(super) deferred_count: usize,
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
            rests: false,
            queue: VecDeque::new(),
            popped: 0,
            depth: 0,
            backlog: 0,
            in_flight: HashMap::default(),
            deferred: HashMap::default(),
            deferred_count: 0,
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

    /// Takes new copies. An ephemeral channel has no more waiting than its limit, and drops the rest.
    pub(super) fn take(&mut self, run: Run, due: Option<UnixMillis>, store: &mut Store, now: Now) {
        self.message_count += u64::from(run.count);
        if let Some(due) = due {
            return self.defer(run, 0, due, store, now);
        }
        let is_bounded = self.name.is_ephemeral();
        let room = if is_bounded { store.limits.mem_queue_size.saturating_sub(self.depth) } else { usize::MAX };
        if let Some(run) = store.cut(run, room) {
            self.wait(Waiting { run, attempts: 0 }, store);
        }
    }

    /// Puts copies at the end of the queue.
    pub(super) fn wait(&mut self, waiting: Waiting, store: &Store) {
        self.depth += waiting.run.count as usize;
        self.backlog += store.backlog(&waiting.run);
        self.queue.push_back(waiting);
    }

    /// Keeps copies back until they are due.
    pub(super) fn defer(&mut self, run: Run, attempts: u16, due: UnixMillis, store: &mut Store, now: Now) {
        let (id, until) = (store.batches.id(&run), now.until(due));
        store.timers.insert((until, self.id, id));
        self.deferred_count += run.count as usize;
        self.deferred.insert(id, Deferred { run, attempts, due, until });
    }

    /// Throws away all copies.
    pub(super) fn clear(&mut self, store: &mut Store) {
        (self.depth, self.backlog, self.deferred_count) = (0, 0, 0);
        self.popped += self.queue.len() as u64;
        self.queue.drain(..).for_each(|waiting| store.release(waiting.run));
        for (id, copy) in self.in_flight.drain() {
            store.timers.remove(&(copy.deadline, self.id, id));
            store.release(copy.run);
        }
        for (id, copies) in self.deferred.drain() {
            store.timers.remove(&(copies.until, self.id, id));
            store.release(copies.run);
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

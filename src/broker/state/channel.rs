//! A channel: each of its copies is in exactly one of queue, in flight and deferred.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::super::log::{ChannelId, UnixMillis};
use super::deferred::{DeferredRun, DeferredRuns};
use super::in_flight::InFlightCopy;
use super::latency::LatencyWindow;
use super::message_store::MessageRun;
use super::session::SessionId;
use super::store::Store;
use super::time::Now;
use crate::proto::{ChannelName, TopicName};

/// Copies in a channel's queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueuedRun {
    pub(super) run: MessageRun,
    pub(super) attempts: u16,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) id: ChannelId,
    pub(super) topic: TopicName,
    pub(super) name: ChannelName,
    pub(super) paused: bool,
    /// True while the channel sends nothing for a moment, because many of its messages cannot be
    /// read.
    pub(super) rests: bool,
    pub(super) queue: VecDeque<QueuedRun>,
    /// Entries that ever left the queue. An entry's number is this count plus its index in the
    /// queue.
    pub(super) popped: u64,
    /// Copies in the queue; `backlog` counts those whose bodies were only in the log from the
    /// start.
    pub(super) depth: usize,
    pub(super) backlog: usize,
    /// Copies in flight, by message id.
    pub(super) in_flight: HashMap<u64, InFlightCopy, ById>,
    pub(super) deferred: DeferredRuns,
    pub(super) deferred_count: usize,
    /// The channel's consumers, in order of subscription.
    pub(super) sessions: Vec<SessionId>,
    /// Sessions that may have room for a message; the first one gets the next message.
    pub(super) ready_queue: VecDeque<SessionId>,
    pub(super) message_count: u64,
    pub(super) requeue_count: u64,
    pub(super) timeout_count: u64,
    /// Latencies of finished messages; `None` if they are not measured.
    pub(super) latency: Option<Box<LatencyWindow>>,
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
            deferred: DeferredRuns::default(),
            deferred_count: 0,
            sessions: Vec::new(),
            ready_queue: VecDeque::new(),
            message_count: 0,
            requeue_count: 0,
            timeout_count: 0,
            latency: None,
        }
    }

    /// True if the channel's changes are logged: neither the channel nor its topic is ephemeral.
    pub(super) fn is_logged(&self) -> bool {
        !self.topic.is_ephemeral() && !self.name.is_ephemeral()
    }

    /// Queues or defers new copies. An ephemeral channel queues at most `mem_queue_size` copies and
    /// drops the rest.
    pub(super) fn add_copies(&mut self, run: MessageRun, due: Option<UnixMillis>, store: &mut Store, now: Now) {
        self.message_count += u64::from(run.count);
        if let Some(due) = due {
            return self.defer(run, 0, due, store, now);
        }
        let is_bounded = self.name.is_ephemeral();
        let room = if is_bounded { store.limits.mem_queue_size.saturating_sub(self.depth) } else { usize::MAX };
        if let Some(run) = store.keep_first(run, room) {
            self.enqueue(QueuedRun { run, attempts: 0 }, store);
        }
    }

    /// Appends copies to the queue.
    pub(super) fn enqueue(&mut self, waiting: QueuedRun, store: &Store) {
        self.depth += waiting.run.count as usize;
        self.backlog += store.backlog(&waiting.run);
        self.queue.push_back(waiting);
    }

    /// Defers copies until they are due.
    pub(super) fn defer(&mut self, run: MessageRun, attempts: u16, due: UnixMillis, store: &mut Store, now: Now) {
        let (id, until) = (store.batches.id(&run), now.until(due));
        store.timers.insert((until, self.id, id));
        self.deferred_count += run.count as usize;
        self.deferred.insert(id, DeferredRun { run, attempts, due, until });
    }

    /// Drops all copies.
    pub(super) fn clear(&mut self, store: &mut Store) {
        (self.depth, self.backlog, self.deferred_count) = (0, 0, 0);
        self.popped += self.queue.len() as u64;
        self.queue.drain(..).for_each(|waiting| store.release(waiting.run));
        for (id, copy) in self.in_flight.drain() {
            store.timers.remove(&(copy.deadline, self.id, id));
            store.release(copy.run);
        }
        for (id, copies) in self.deferred.take() {
            store.timers.remove(&(copies.until, self.id, id));
            store.release(copies.run);
        }
    }
}

/// Hasher for ids that the broker itself assigns, which differ in their low bits.
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
        // the hash table takes the bucket from the low bits and the tag from the high bits
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

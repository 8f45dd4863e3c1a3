//! Storage shared by all topics and channels: the messages, the log behind them, and the timers.

use std::collections::BTreeSet;

use super::super::log::{Change, ChannelId, Log};
use super::StateLimits;
use super::message_store::{MessageRun, MessageStore};
use super::rest::Rest;
use super::time::Micros;
use super::wire_id::{from_wire, node_bits, to_wire};
use crate::proto::MessageId;

pub(super) struct Store {
    pub(super) limits: StateLimits,
    pub(super) log: Box<dyn Log>,
    pub(super) batches: MessageStore,
    /// Deadlines at which copies in flight or deferred are requeued.
    pub(super) timers: BTreeSet<(Micros, ChannelId, u64)>,
    /// Channels that rest because their messages cannot be read.
    pub(super) rest: Rest,
    /// Messages of a channel for each of its consumers; with more, it counts as unserved.
    pub(super) messages_per_consumer: usize,
    /// True if a channel may have become [unserved](super::BrokerState::take_unserved).
    pub(super) has_unserved: bool,
}

impl Store {
    pub(super) fn new(limits: StateLimits, log: Box<dyn Log>) -> Self {
        let batches = MessageStore::new(limits.max_memory);
        Self {
            limits,
            log,
            batches,
            timers: BTreeSet::new(),
            rest: Rest::default(),
            messages_per_consumer: usize::MAX,
            has_unserved: false,
        }
    }

    /// Encodes a message's id with the broker's number in nsqd's place for it (`nsqd/guid.go`).
    pub(super) fn wire_id(&self, id: u64) -> MessageId {
        to_wire(id ^ node_bits(self.limits.node_id))
    }

    /// Decodes an id that [`Store::wire_id`] wrote; `None` for any other text.
    pub(super) fn message_id(&self, id: &MessageId) -> Option<u64> {
        from_wire(id).map(|id| id ^ node_bits(self.limits.node_id))
    }

    pub(super) fn note(&mut self, change: &Change) {
        self.log.note(change);
    }

    /// Drops one reference to each of these messages.
    pub(super) fn release(&mut self, run: MessageRun) {
        self.batches.release(run, &mut *self.log);
    }

    /// Keeps at most the first `room` messages of the run and drops the others.
    pub(super) fn keep_first(&mut self, run: MessageRun, room: usize) -> Option<MessageRun> {
        let kept = run.truncated(u32::try_from(room).unwrap_or(u32::MAX));
        if kept.count < run.count {
            self.release(run.truncated(run.count - kept.count));
        }
        (kept.count > 0).then_some(kept)
    }

    /// Moves one copy into a batch of its own: see [`MessageStore::split_copy`].
    pub(super) fn split_copy(&mut self, run: MessageRun) -> MessageRun {
        self.batches.split_copy(run, &mut *self.log)
    }

    /// The number of these messages whose bodies were only in the log from the start.
    pub(super) fn backlog(&self, run: &MessageRun) -> usize {
        if self.batches.is_backlog(run.key) { run.count as usize } else { 0 }
    }
}

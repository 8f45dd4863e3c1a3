//! Estimated memory that messages take besides their bodies: the entries of each batch, each copy and each timer.

use super::State;
use super::batches::BATCH_BYTES;
use super::channel::{Deferred, InFlight, Waiting};
use super::publish::PublishError;
use super::time::Micros;
use super::topic::Held;
use crate::broker::log::ChannelId;

/// Checks between two full counts. One more is added for each channel and topic, so that a check costs the same on average.
const LOOKS: usize = 100;

/// The result of the last count of the index.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Bytes of queued, in-flight and deferred copies.
    copies: usize,
    /// Checks since the last count.
    looks: usize,
    /// The limit was reached: a sixteenth must be free before more messages are accepted.
    is_full: bool,
}

/// Bytes of a hash table's entry: a table is between 7/16 and 7/8 full.
const fn of_table<T>() -> usize {
    (size_of::<(u64, T)>() + 1) * 3 / 2
}

/// Bytes of an ordered set's entry: its nodes are about two thirds full.
const TIMER: usize = size_of::<(Micros, ChannelId, u64)>() * 3 / 2;

impl State {
    /// Estimated bytes of memory that messages take besides their bodies.
    pub fn index_memory(&self) -> usize {
        self.copies() + self.batches_and_timers()
    }

    /// The limit of [`index_memory`](Self::index_memory), in bytes.
    pub fn max_index_memory(&self) -> usize {
        self.store.limits.max_index_memory
    }

    /// Fails if the index memory has reached its limit.
    pub(super) fn check_index(&mut self) -> Result<(), PublishError> {
        let limit = self.store.limits.max_index_memory;
        let most = if self.index.is_full { limit - limit / 16 } else { limit };
        self.index.looks += 1;
        let is_old = self.index.looks >= LOOKS + self.channels.len() + self.topics.len();
        if is_old || self.index.copies + self.batches_and_timers() >= most {
            (self.index.copies, self.index.looks) = (self.copies(), 0);
        }
        self.index.is_full = self.index.copies + self.batches_and_timers() >= most;
        match self.index.is_full {
            true => Err(PublishError::Index { limit }),
            false => Ok(()),
        }
    }

    fn batches_and_timers(&self) -> usize {
        self.store.batches.len() * BATCH_BYTES + self.store.timers.len() * TIMER
    }

    /// Counts the bytes of copies in all channels and topics.
    fn copies(&self) -> usize {
        let of_channels = self.channels.values().map(|channel| {
            channel.queue.len() * size_of::<Waiting>()
                + channel.in_flight.len() * of_table::<InFlight>()
                + channel.deferred.len() * of_table::<Deferred>()
        });
        let of_topics = self.topics.values().map(|topic| topic.held.len() * size_of::<Held>());
        of_channels.chain(of_topics).sum()
    }
}

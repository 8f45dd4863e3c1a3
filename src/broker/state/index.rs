//! The memory that messages take besides their bodies, about: what is known of each batch, of each copy, and of its timer.

use super::State;
use super::batches::BATCH_BYTES;
use super::channel::{Deferred, InFlight, Waiting};
use super::publish::PublishError;
use super::time::Micros;
use super::topic::Held;
use crate::broker::log::ChannelId;

/// They are gone over again after so many looks, and as many more as there are channels and topics: each look costs the same then.
const LOOKS: usize = 100;

/// The result of the last count of the index.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Bytes of queues and of what is in flight and deferred.
    copies: usize,
    /// Looks since then.
    looks: usize,
    /// The limit was reached: a sixteenth must be free before more is taken.
    is_full: bool,
}

/// Bytes of a hash table's entry: a table is between 7/16 and 7/8 full.
const fn of_table<T>() -> usize {
    (size_of::<(u64, T)>() + 1) * 3 / 2
}

/// Bytes of an ordered set's entry: its nodes are about two thirds full.
const TIMER: usize = size_of::<(Micros, ChannelId, u64)>() * 3 / 2;

impl State {
    /// Bytes of memory that messages take besides their bodies, about.
    pub fn index_memory(&self) -> usize {
        self.copies() + self.batches_and_timers()
    }

    /// Bytes that these may be.
    pub fn max_index_memory(&self) -> usize {
        self.store.limits.max_index_memory
    }

    /// Fails if messages have all the memory that they may have.
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

    /// Goes over all channels and topics.
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

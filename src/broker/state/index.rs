//! Estimated memory that messages take besides their bodies: the entries of each batch, each copy
//! and each timer.

use super::BrokerState;
use super::channel::QueuedRun;
use super::deferred::DeferredRun;
use super::in_flight::InFlightCopy;
use super::message_store::BATCH_BYTES;
use super::publish::BrokerPublishError;
use super::time::Micros;
use super::topic::HeldRun;
use crate::broker::log::ChannelId;

/// Checks between two full counts. One more is added for each channel and topic, so that a check
/// costs the same on average.
const CHECKS_PER_COUNT: usize = 100;

/// The result of the last count of the index.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Bytes of queued, in-flight and deferred copies.
    copies: usize,
    /// Checks since the last count.
    checks: usize,
    /// The limit was reached: a sixteenth must be free before more messages are accepted.
    is_full: bool,
}

/// Bytes of a hash table's entry: a table is between 7/16 and 7/8 full.
const fn table_entry_bytes<T>() -> usize {
    (size_of::<(u64, T)>() + 1) * 3 / 2
}

/// Bytes of an ordered set's entry: its nodes are about two thirds full.
const TIMER_BYTES: usize = size_of::<(Micros, ChannelId, u64)>() * 3 / 2;

impl BrokerState {
    /// Estimated bytes of memory that messages take besides their bodies.
    pub fn index_memory(&self) -> usize {
        self.copies() + self.batches_and_timers()
    }

    /// The limit of [`index_memory`](Self::index_memory), in bytes.
    pub fn max_index_memory(&self) -> usize {
        self.store.limits.max_index_memory
    }

    /// Counts what was recovered, and assumes that the limit was reached before the restart, of
    /// which nothing is known: a sixteenth must be free before messages are accepted.
    pub(super) fn recover_index(&mut self) {
        self.index = Index { copies: self.copies(), checks: 0, is_full: true };
    }

    /// Fails if the index memory has reached its limit.
    pub(super) fn check_index(&mut self) -> Result<(), BrokerPublishError> {
        let limit = self.store.limits.max_index_memory;
        let most = if self.index.is_full { limit - limit / 16 } else { limit };
        self.index.checks += 1;
        let is_old = self.index.checks >= CHECKS_PER_COUNT + self.channels.len() + self.topics.len();
        if is_old || self.index.copies + self.batches_and_timers() >= most {
            (self.index.copies, self.index.checks) = (self.copies(), 0);
        }
        self.index.is_full = self.index.copies + self.batches_and_timers() >= most;
        match self.index.is_full {
            true => Err(BrokerPublishError::Index { limit }),
            false => Ok(()),
        }
    }

    fn batches_and_timers(&self) -> usize {
        self.store.batches.len() * BATCH_BYTES + self.store.timers.len() * TIMER_BYTES
    }

    /// Counts the bytes of copies in all channels and topics.
    fn copies(&self) -> usize {
        let of_channels = self.channels.values().map(|channel| {
            channel.queue.len() * size_of::<QueuedRun>()
                + channel.in_flight.len() * table_entry_bytes::<InFlightCopy>()
                + channel.deferred.len() * table_entry_bytes::<DeferredRun>()
                + channel.deferred.kept_ids() * size_of::<u64>()
        });
        let of_topics = self.topics.values().map(|topic| topic.held.len() * size_of::<HeldRun>());
        of_channels.chain(of_topics).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Now, StateLimits};
    use super::*;
    use crate::broker::log::{DiskLog, LogOptions, SyncMode};
    use crate::proto::{Bodies, ChannelName, TopicName};

    const BEGIN: Now = Now { at: 0, unix_nanos: 1_700_000_000_000_000_000 };

    #[test]
    fn an_index_that_was_full_stays_full_after_a_restart_until_a_sixteenth_is_free() {
        const LIMIT: usize = 200_000;
        let directory = tempfile::tempdir().unwrap();
        let (topic, channel) = (TopicName::new("a").unwrap(), ChannelName::new("x").unwrap());
        let open = || {
            let options = LogOptions { sync: SyncMode::Never, reserve_bytes: 0, ..LogOptions::new(directory.path()) };
            let (log, recovered, _) = DiskLog::open(&options).unwrap();
            let limits = StateLimits { max_index_memory: LIMIT, ..StateLimits::default() };
            BrokerState::recover(limits, Box::new(log), recovered, BEGIN)
        };
        let publish = |state: &mut BrokerState| state.publish(&topic, Bodies::one("x".into()).compact(), None, BEGIN);
        let mut state = open();
        state.create_channel(&topic, &channel, BEGIN);
        while state.index_memory() < LIMIT - LIMIT / 32 {
            publish(&mut state).unwrap();
        }
        state.flush().unwrap();
        drop(state);
        let mut state = open();
        assert!(matches!(publish(&mut state), Err(BrokerPublishError::Index { .. })), "{}", state.index_memory());
        state.empty_channel(&topic, &channel).unwrap();
        publish(&mut state).unwrap();
    }
}

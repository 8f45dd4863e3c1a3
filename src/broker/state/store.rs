//! What all topics and channels share: the messages, the log behind them, and the timers.

use std::collections::BTreeSet;

use super::super::log::{Change, ChannelId, Log};
use super::StateLimits;
use super::messages::{Key, Messages};
use super::time::Micros;

pub(super) struct Store {
    pub(super) limits: StateLimits,
    pub(super) log: Box<dyn Log>,
    pub(super) messages: Messages,
    /// When each copy that is in flight or deferred comes back.
    pub(super) timers: BTreeSet<(Micros, ChannelId, u64)>,
}

impl Store {
    pub(super) fn new(limits: StateLimits, log: Box<dyn Log>) -> Self {
        let messages = Messages::new(limits.max_memory);
        Self { limits, log, messages, timers: BTreeSet::new() }
    }

    pub(super) fn note(&mut self, change: &Change) {
        self.log.note(change);
    }

    /// One less holds the message.
    pub(super) fn release(&mut self, key: Key) {
        self.messages.release(key, &mut *self.log);
    }

    /// True if the message's body has to be read from the log.
    pub(super) fn is_on_disk(&self, key: Key) -> bool {
        self.messages.get(key).is_on_disk()
    }
}

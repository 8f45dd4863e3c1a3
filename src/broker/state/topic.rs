//! A topic: it passes messages to its channels, and holds them while it has none or is paused.

use std::collections::{BTreeMap, VecDeque};

use super::super::log::{ChannelId, TopicId, UnixMillis};
use super::messages::Key;
use super::store::Store;
use crate::proto::ChannelName;

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) id: TopicId,
    pub(super) is_ephemeral: bool,
    pub(super) paused: bool,
    pub(super) channels: BTreeMap<ChannelName, ChannelId>,
    /// What waits for a channel, or for the end of the pause.
    pub(super) held: VecDeque<Held>,
    /// How many of those have their bodies in the log only.
    pub(super) on_disk: usize,
    pub(super) message_count: u64,
    pub(super) message_bytes: u64,
}

/// A message that a topic holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) key: Key,
    pub(super) due: Option<UnixMillis>,
}

impl Topic {
    pub(super) fn new(id: TopicId, is_ephemeral: bool) -> Self {
        Self {
            id,
            is_ephemeral,
            paused: false,
            channels: BTreeMap::new(),
            held: VecDeque::new(),
            on_disk: 0,
            message_count: 0,
            message_bytes: 0,
        }
    }

    /// True if messages stay here.
    pub(super) fn holds(&self) -> bool {
        self.paused || self.channels.is_empty()
    }

    /// True if a channel outlives the process.
    pub(super) fn has_durable_channel(&self) -> bool {
        self.channels.keys().any(|name| !name.is_ephemeral())
    }

    /// Holds a message; an ephemeral topic holds no more than its limit, and drops the rest.
    pub(super) fn hold(&mut self, held: Held, store: &mut Store) {
        if self.is_ephemeral && self.held.len() >= store.limits.mem_queue_size {
            return store.release(held.key);
        }
        self.on_disk += usize::from(store.is_on_disk(held.key));
        self.held.push_back(held);
    }

    /// Throws away what it holds.
    pub(super) fn clear(&mut self, store: &mut Store) {
        self.on_disk = 0;
        self.held.drain(..).for_each(|held| store.release(held.key));
    }
}

//! A topic: it passes messages to its channels, and holds them while it has none or is paused.

use std::collections::{BTreeMap, VecDeque};

use super::super::log::{ChannelId, TopicId, UnixMillis};
use super::message_store::MessageRun;
use super::store::Store;
use crate::proto::ChannelName;

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) id: TopicId,
    pub(super) is_ephemeral: bool,
    pub(super) paused: bool,
    /// The highest fencing epoch seen; publishing with a lower epoch is refused.
    pub(super) fence: u64,
    /// True while the channels that the topic has on other nodes are not known yet. Messages are
    /// held, so that no channel misses any.
    pub(super) awaits_channels: bool,
    pub(super) channels: BTreeMap<ChannelName, ChannelId>,
    /// Messages that wait for a first channel, for the end of the pause, or until all channels are
    /// known.
    pub(super) held: VecDeque<HeldRun>,
    /// Entries that ever left `held`: an entry's number is this count plus its index.
    pub(super) taken: u64,
    /// Messages in `held`; `backlog` counts those whose bodies were only in the log from the start.
    pub(super) depth: usize,
    pub(super) backlog: usize,
    pub(super) message_count: u64,
    pub(super) message_bytes: u64,
}

/// Messages that a topic holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldRun {
    pub(super) run: MessageRun,
    pub(super) due: Option<UnixMillis>,
}

impl Topic {
    pub(super) fn new(id: TopicId, is_ephemeral: bool) -> Self {
        Self {
            id,
            is_ephemeral,
            paused: false,
            fence: 0,
            awaits_channels: false,
            channels: BTreeMap::new(),
            held: VecDeque::new(),
            taken: 0,
            depth: 0,
            backlog: 0,
            message_count: 0,
            message_bytes: 0,
        }
    }

    /// True if the topic holds messages instead of passing them to channels.
    pub(super) fn holds(&self) -> bool {
        self.paused || self.awaits_channels || self.channels.is_empty()
    }

    /// True if a channel is not ephemeral.
    pub(super) fn has_durable_channel(&self) -> bool {
        self.channels.keys().any(|name| !name.is_ephemeral())
    }

    /// Holds messages. An ephemeral topic holds at most `mem_queue_size` messages and drops the
    /// rest.
    pub(super) fn hold(&mut self, HeldRun { run, due }: HeldRun, store: &mut Store) {
        let room = if self.is_ephemeral { store.limits.mem_queue_size.saturating_sub(self.depth) } else { usize::MAX };
        let Some(run) = store.keep_first(run, room) else { return };
        self.depth += run.count as usize;
        self.backlog += store.backlog(&run);
        self.held.push_back(HeldRun { run, due });
    }

    /// Removes and returns the held messages.
    pub(super) fn take_held(&mut self) -> VecDeque<HeldRun> {
        (self.depth, self.backlog) = (0, 0);
        self.taken += self.held.len() as u64;
        std::mem::take(&mut self.held)
    }

    /// Drops the held messages.
    pub(super) fn clear(&mut self, store: &mut Store) {
        self.take_held().into_iter().for_each(|held| store.release(held.run));
    }
}

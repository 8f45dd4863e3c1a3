//! A topic: it passes messages to its channels, and holds them while it has none or is paused.

use std::collections::{BTreeMap, VecDeque};

use super::super::log::{ChannelId, TopicId, UnixMillis};
use super::batches::Run;
use super::store::Store;
use crate::proto::ChannelName;

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) id: TopicId,
    pub(super) is_ephemeral: bool,
    pub(super) paused: bool,
    /// The highest epoch that was published in.
    pub(super) fence: u64,
    /// It may have channels elsewhere that are not known yet: none of them is to miss a message.
    pub(super) is_unsettled: bool,
    pub(super) channels: BTreeMap<ChannelName, ChannelId>,
    /// What waits for a channel, for the end of the pause, or until all channels are known.
    pub(super) held: VecDeque<Held>,
    /// How many messages that is, and how many of them were left in the log.
    pub(super) depth: usize,
    pub(super) backlog: usize,
    pub(super) message_count: u64,
    pub(super) message_bytes: u64,
}

/// Messages that a topic holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) run: Run,
    pub(super) due: Option<UnixMillis>,
}

impl Topic {
    pub(super) fn new(id: TopicId, is_ephemeral: bool) -> Self {
        Self {
            id,
            is_ephemeral,
            paused: false,
            fence: 0,
            is_unsettled: false,
            channels: BTreeMap::new(),
            held: VecDeque::new(),
            depth: 0,
            backlog: 0,
            message_count: 0,
            message_bytes: 0,
        }
    }

    /// True if messages stay here.
    pub(super) fn holds(&self) -> bool {
        self.paused || self.is_unsettled || self.channels.is_empty()
    }

    /// True if a channel outlives the process.
    pub(super) fn has_durable_channel(&self) -> bool {
        self.channels.keys().any(|name| !name.is_ephemeral())
    }

    /// Holds messages; an ephemeral topic holds no more than its limit, and drops the rest.
    pub(super) fn hold(&mut self, Held { run, due }: Held, store: &mut Store) {
        let room = if self.is_ephemeral { store.limits.mem_queue_size.saturating_sub(self.depth) } else { usize::MAX };
        let Some(run) = store.cut(run, room) else { return };
        self.depth += run.count as usize;
        self.backlog += store.backlog(&run);
        self.held.push_back(Held { run, due });
    }

    /// Gives away what it holds.
    pub(super) fn take_held(&mut self) -> VecDeque<Held> {
        (self.depth, self.backlog) = (0, 0);
        std::mem::take(&mut self.held)
    }

    /// Throws away what it holds.
    pub(super) fn clear(&mut self, store: &mut Store) {
        self.take_held().into_iter().for_each(|held| store.release(held.run));
    }
}

//! What the broker knows, and how it changes: pure. Time, randomness and the log come in from outside.
//!
//! ```text
//!  publish ─▶ topic ─┬─▶ channel: queue ──▶ in flight ─▶ finished
//!             holds  │            ▲  ▲        │   │
//!             while  │            │  └timeout─┘   │ requeued with a delay
//!             paused └─▶ …        └── deferred ◀──┘
//! ```
//!
//! What must hold after each call (a test asserts it):
//! 1. Each copy of a channel is in exactly one of queue, in flight and deferred.
//! 2. What was published together is kept as long as, and only while, a topic or a channel holds a message of it.
//! 3. Each copy in flight and each deferred run of copies has one timer, and there are no others.
//! 4. A session's count is what is in flight to it, and never above its RDY when a message is sent.
//! 5. No message waits in a channel that is not paused while one of its sessions has room, unless it rests as messages cannot be read.
//! 6. What is to outlive the process is in the log before the call ends.

mod answer;
mod batches;
mod catalog;
mod channel;
#[doc(hidden)]
pub mod check;
mod compaction;
mod deliver;
mod index;
#[cfg(test)]
mod model;
mod publish;
mod recover;
mod rest;
mod session;
mod stats;
mod store;
mod time;
mod topic;
#[cfg(test)]
mod unreadable;
mod wire_id;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use self::channel::{ById, Channel};
use self::compaction::Compaction;
use self::index::Index;
use self::session::{Session, Sessions};
use self::store::Store;
use self::topic::Topic;
use super::log::{ChannelId, Log, Usage};
use crate::proto::{Outgoing, TopicName};

pub use self::answer::NotYours;
pub use self::catalog::Missing;
pub use self::publish::{PublishError, PublishToError};
pub use self::session::{Phase, SessionId, Settings};
pub use self::stats::StatsOf;
pub use self::time::{Micros, Now};

/// What the state heeds.
#[derive(Debug, Clone)]
pub struct StateLimits {
    /// The longest that a message may be in flight, however often it is touched, in milliseconds.
    pub max_msg_timeout: u64,
    /// The longest delay of a requeued message, in milliseconds. Longer ones are cut.
    pub max_req_timeout: u64,
    /// Copies that wait in an ephemeral channel, or messages in an ephemeral topic; what comes beyond is dropped.
    pub mem_queue_size: usize,
    /// Consumers of one channel; 0 for any number. With a negative number nobody can subscribe, as in nsqd.
    pub max_channel_consumers: i64,
    /// Bytes of memory that messages may take besides their bodies: beyond, publishing is refused.
    pub max_index_memory: usize,
    /// Bytes of message bodies in memory. Beyond, bodies are read back from the log; without a log, publishing is refused.
    pub max_memory: usize,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self {
            max_msg_timeout: 900_000,
            max_req_timeout: 3_600_000,
            mem_queue_size: 10_000,
            max_channel_consumers: 0,
            max_memory: 256 << 20,
            max_index_memory: usize::MAX,
        }
    }
}

/// All topics, channels, messages and sessions.
pub struct State {
    store: Store,
    topics: HashMap<TopicName, Topic>,
    channels: HashMap<ChannelId, Channel, ById>,
    sessions: Sessions,
    /// Counts the changes of what nsqlookupds are told.
    catalog_version: u64,
    /// For the next topic or channel.
    next_number: u32,
    /// A new topic is to be settled.
    asks_for_channels: bool,
    unsettled: Vec<TopicName>,
    /// The compaction of the log that is going on.
    compaction: Option<Compaction>,
    index: Index,
}

impl State {
    /// Nothing but limits and a log.
    pub fn new(limits: StateLimits, log: Box<dyn Log>) -> Self {
        Self {
            store: Store::new(limits, log),
            topics: HashMap::new(),
            channels: HashMap::default(),
            sessions: Sessions::default(),
            catalog_version: 0,
            next_number: 1,
            asks_for_channels: false,
            unsettled: Vec::new(),
            compaction: None,
            index: Index::default(),
        }
    }

    /// Writes what was noted in the log.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.store.log.flush()
    }

    /// Why messages would not be taken now, if that is known.
    pub fn trouble(&mut self) -> Option<String> {
        let trouble = self.store.log.trouble().map(|why| format!("cannot write to the log: {why}"));
        trouble.or_else(|| self.check_index().err().map(|error| error.to_string()))
    }

    /// Told when there may be [trouble](Self::trouble), though nothing was changed.
    pub fn alarm(&self) -> Arc<Notify> {
        self.store.log.alarm()
    }

    /// When the next copy comes back, or a channel goes on.
    pub fn next_timer(&self) -> Option<Micros> {
        let timer = self.store.timers.first().map(|(when, ..)| *when);
        timer.into_iter().chain(self.store.rest.end()).min()
    }

    /// How much is in the log.
    pub fn position(&self) -> u64 {
        self.store.log.position()
    }

    /// The size of the log.
    pub fn log_usage(&self) -> Usage {
        self.store.log.usage()
    }

    /// Sessions whose connections have something to do; each is named once until it takes its output.
    pub fn woken(&mut self) -> std::vec::Drain<'_, SessionId> {
        self.sessions.woken()
    }

    /// Greets a new connection. `remote_address` is for people, `seed` for what it samples.
    pub fn connect(&mut self, settings: Settings, remote_address: String, seed: u64, now: Now) -> SessionId {
        self.sessions.insert(Session::new(settings, remote_address, seed, now.unix_nanos / 1_000_000_000))
    }

    /// What IDENTIFY agreed on.
    pub fn identify(&mut self, session: SessionId, settings: Settings) {
        self.session(session).settings = settings;
    }

    /// How far a session has come.
    pub fn phase(&mut self, session: SessionId) -> Phase {
        self.session(session).phase
    }

    /// Sends bytes to a session, after all that it was sent before.
    pub fn reply(&mut self, session: SessionId, write: impl FnOnce(&mut Outgoing)) {
        write(&mut self.session(session).outbox);
    }

    /// Exchanges `out`, which is empty, for what is on its way to the session, which then has room for more. False if the session is to
    /// end after that.
    pub fn take_output(&mut self, id: SessionId, out: &mut Outgoing, now: Now) -> bool {
        let session = self.session(id);
        std::mem::swap(&mut session.outbox, out);
        session.woken = false;
        let goes_on = !session.ended;
        self.make_room(id, now);
        goes_on
    }

    /// Drops what is on its way to the session, which is about to end: messages among it come again when their time is over.
    pub fn forget_output(&mut self, id: SessionId) {
        self.session(id).outbox = Outgoing::new();
    }

    /// The connection has ended. What is in flight to it comes back when its time is over, as with nsqd.
    pub fn disconnect(&mut self, id: SessionId) {
        let session = self.sessions.remove(id);
        let Some(channel) = session.channel.and_then(|channel| self.channels.get_mut(&channel)) else { return };
        channel.sessions.retain(|other| *other != id);
        channel.line.retain(|other| *other != id);
        if channel.sessions.is_empty() && channel.name.is_ephemeral() {
            let (topic, name) = (channel.topic.clone(), channel.name.clone());
            self.delete_channel(&topic, &name).expect("it is there");
        }
    }

    fn session(&mut self, id: SessionId) -> &mut Session {
        self.sessions.get_mut(id).expect("a connection has its session until it disconnects")
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("topics", &self.topics.len())
            .field("channels", &self.channels.len())
            .finish_non_exhaustive()
    }
}

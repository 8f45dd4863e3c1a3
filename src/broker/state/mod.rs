//! Broker state and its transitions, free of I/O of its own. Time, randomness and the log are
//! passed in.
//!
//! ```text
//!  publish ─▶ topic ─┬─▶ channel: queue ──▶ in flight ─▶ finished
//!             holds  │            ▲  ▲        │   │
//!             while  │            │  └timeout─┘   │ requeued with a delay
//!             paused └─▶ …        └── deferred ◀──┘
//! ```
//!
//! Invariants after each call (a test asserts them):
//! 1. Each copy of a channel is in exactly one of queue, in flight and deferred.
//! 2. A batch (messages published together) is kept exactly as long as a topic or a channel holds
//!    one of its messages.
//! 3. Each copy in flight and each deferred run of copies has one timer; there are no other timers.
//! 4. A session's in-flight count equals the copies in flight to it, and is at most its RDY when a
//!    message is sent.
//! 5. No message waits in an unpaused channel while one of its sessions has room, unless the
//!    channel rests after failed reads.
//! 6. Every change that must survive the process is in the log before the call ends.

mod catalog;
mod channel;
#[doc(hidden)]
pub mod check;
mod compaction;
mod consumer_commands;
mod deferred;
mod deliver;
mod in_flight;
mod index;
mod latency;
mod message_store;
#[cfg(test)]
mod model;
mod oldest;
mod peek;
#[cfg(test)]
mod peek_tests;
mod publish;
mod recover;
mod rest;
mod run_bodies;
mod session;
mod stats;
mod store;
mod time;
mod topic;
mod unfinished;
#[cfg(test)]
mod unreadable_tests;
pub(super) mod wire_id;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::sync::Notify;

use self::channel::{ById, Channel};
use self::compaction::Compaction;
use self::index::Index;
use self::session::{Session, Sessions};
use self::store::Store;
use self::topic::Topic;
use super::log::{ChannelId, DetachedReader, Log, LogUsage};
use crate::duration_histogram::DurationCounts;
use crate::proto::{TopicName, WriteBuffer};

pub use self::catalog::Missing;
pub use self::consumer_commands::NotOwned;
pub use self::latency::LatencySettings;
pub use self::peek::{PeekError, PeekPosition, PeekSelection, PeekStep, PeekedRun};
pub use self::publish::{BrokerPublishError, ChannelPublishError};
pub use self::run_bodies::RunBodies;
pub use self::session::{SessionId, SessionPhase, SessionSecurity, SessionSettings};
pub use self::stats::StatsSelection;
pub use self::time::{Micros, Now};
pub use self::unfinished::Unfinished;

/// Limits that the state enforces.
#[derive(Debug, Clone)]
pub struct StateLimits {
    /// Maximum time in flight of a message, however often it is touched, in milliseconds.
    pub max_msg_timeout: u64,
    /// Maximum delay of a requeued message, in milliseconds. Longer delays are clamped.
    pub max_req_timeout: u64,
    /// Maximum queued copies of an ephemeral channel, or messages of an ephemeral topic; messages
    /// beyond it are dropped.
    pub mem_queue_size: usize,
    /// Maximum consumers of one channel; 0 for no limit. With a negative number no client can
    /// subscribe, as in nsqd.
    pub max_channel_consumers: i64,
    /// Maximum bytes of memory that messages take besides their bodies; beyond it, publishing is
    /// refused.
    pub max_index_memory: usize,
    /// Maximum bytes of message bodies in memory. Beyond it, bodies are read back from the log;
    /// without a log, publishing is refused.
    pub max_memory: usize,
    /// Number of the broker in message ids: 0 to 1023. Brokers with different numbers use different
    /// ids.
    pub node_id: u16,
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
            node_id: 0,
        }
    }
}

/// All topics, channels, messages and sessions.
pub struct BrokerState {
    store: Store,
    topics: HashMap<TopicName, Topic>,
    channels: HashMap<ChannelId, Channel, ById>,
    sessions: Sessions,
    /// Counts the changes of the topics and channels registered with nsqlookupd.
    catalog_version: u64,
    /// The number that the next topic or channel gets.
    next_number: u32,
    /// True if new topics hold messages until their [known channels](Self::set_known_channels) are
    /// set.
    awaits_known_channels: bool,
    awaiting_channels: Vec<TopicName>,
    /// The log compaction in progress.
    compaction: Option<Compaction>,
    index: Index,
    latency: LatencySettings,
}

impl BrokerState {
    /// An empty state with these limits and this log.
    pub fn new(limits: StateLimits, log: Box<dyn Log>) -> Self {
        Self {
            store: Store::new(limits, log),
            topics: HashMap::new(),
            channels: HashMap::default(),
            sessions: Sessions::default(),
            catalog_version: 0,
            next_number: 1,
            awaits_known_channels: false,
            awaiting_channels: Vec::new(),
            compaction: None,
            index: Index::default(),
            latency: LatencySettings::default(),
        }
    }

    /// Measures the latency of messages from now on; latencies measured before are dropped.
    pub fn measure_latency(&mut self, settings: LatencySettings) {
        self.channels.values_mut().for_each(|channel| channel.latency = settings.new_window());
        self.latency = settings;
    }

    /// Writes the noted changes to the log.
    pub fn flush(&mut self) -> io::Result<()> {
        self.store.log.flush()
    }

    /// The reason why publishing would fail now, if one is known.
    pub fn failure(&mut self) -> Option<String> {
        let failure = self.store.log.failure().map(|why| format!("cannot write to the log: {why}"));
        failure.or_else(|| self.check_index().err().map(|error| error.to_string()))
    }

    /// Notifies when there may be [failure](Self::failure), though nothing was changed.
    pub fn failure_notify(&self) -> Arc<Notify> {
        self.store.log.failure_notify()
    }

    /// The next deadline: of a copy in flight or deferred, or of a resting channel.
    pub fn next_timer(&self) -> Option<Micros> {
        let timer = self.store.timers.first().map(|(when, ..)| *when);
        timer.into_iter().chain(self.store.rest.end()).min()
    }

    /// How much is in the log.
    pub fn position(&self) -> u64 {
        self.store.log.position()
    }

    /// A reader of bodies in the log, for use without the state; `None` without a log.
    pub fn detached_reader(&self) -> Option<DetachedReader> {
        self.store.log.detached_reader()
    }

    /// Makes the next start quick, when nothing changes any more. Takes as long as reading the log.
    pub fn checkpoint(&mut self) -> io::Result<()> {
        self.store.log.checkpoint()
    }

    /// The size of the log.
    pub fn log_usage(&self) -> LogUsage {
        self.store.log.usage()
    }

    /// The times of the log's syncs; `None` if it is never synced.
    pub fn sync_times(&self) -> Option<DurationCounts> {
        self.store.log.sync_times()
    }

    /// Sessions whose connections have something to do; each is returned once until its output is
    /// taken.
    pub fn woken(&mut self) -> std::vec::Drain<'_, SessionId> {
        self.sessions.woken()
    }

    /// Adds a session for a new connection. `remote_address` is for display only; `seed` is for
    /// message sampling (`sample_rate`).
    pub fn connect(&mut self, settings: SessionSettings, remote_address: String, seed: u64, now: Now) -> SessionId {
        self.sessions.insert(Session::new(settings, remote_address, seed, now.unix_nanos / 1_000_000_000))
    }

    /// Sets the settings negotiated by IDENTIFY.
    pub fn identify(&mut self, session: SessionId, settings: SessionSettings) {
        self.session(session).settings = settings;
    }

    /// The phase of a session.
    pub fn phase(&mut self, session: SessionId) -> SessionPhase {
        self.session(session).phase
    }

    /// Appends bytes to a session's output.
    pub fn reply(&mut self, session: SessionId, write: impl FnOnce(&mut WriteBuffer)) {
        write(&mut self.session(session).outbox);
    }

    /// Swaps `out`, which is empty, with the session's pending output; the session then has room
    /// for more. False if the session must end after that output.
    pub fn take_output(&mut self, id: SessionId, out: &mut WriteBuffer, now: Now) -> bool {
        let session = self.session(id);
        std::mem::swap(&mut session.outbox, out);
        session.woken = false;
        let goes_on = !session.ended;
        self.deliver_to(id, now);
        goes_on
    }

    /// Drops the pending output of a session that is about to end. Messages in that output are
    /// requeued when they time out.
    pub fn forget_output(&mut self, id: SessionId) {
        self.session(id).outbox = WriteBuffer::new();
    }

    /// Removes the session of a closed connection. Its messages in flight are requeued when they
    /// time out, as in nsqd.
    pub fn disconnect(&mut self, id: SessionId) {
        let session = self.sessions.remove(id);
        let Some(channel) = session.channel.and_then(|channel| self.channels.get_mut(&channel)) else { return };
        self.store.has_unserved = true;
        channel.sessions.retain(|other| *other != id);
        channel.ready_queue.retain(|other| *other != id);
        if channel.sessions.is_empty() && channel.name.is_ephemeral() {
            let (topic, name) = (channel.topic.clone(), channel.name.clone());
            self.delete_channel(&topic, &name).expect("it is there");
        }
    }

    fn session(&mut self, id: SessionId) -> &mut Session {
        self.sessions.get_mut(id).expect("a connection has its session until it disconnects")
    }
}

impl std::fmt::Debug for BrokerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerState")
            .field("topics", &self.topics.len())
            .field("channels", &self.channels.len())
            .finish_non_exhaustive()
    }
}

//! A session: the state of one client connection.

use std::collections::HashMap;

use bytes::Buf;

use super::super::log::ChannelId;
use super::channel::ById;
use crate::net::tls::Handshake;
use crate::proto::{TopicName, WriteBuffer};

/// Identifier of a session; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Bytes of pending output at which a session gets no more messages until the client reads, so a
/// client that never reads costs no more.
const MAX_PENDING_OUTPUT: usize = 64 * 1024;

/// Security of a session, as `/stats` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionSecurity {
    /// The TLS handshake; `None` without TLS.
    pub tls: Option<Handshake>,
    /// True with deflate.
    pub deflate: bool,
    /// True with snappy.
    pub snappy: bool,
    /// The identity and its URL, from the AUTH server.
    pub identity: Option<(String, String)>,
}

/// Settings negotiated by IDENTIFY.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The client's id, as sent by the client.
    pub client_id: String,
    /// The client's host name, as sent by the client.
    pub hostname: String,
    /// The client's user agent, as sent by the client.
    pub user_agent: String,
    /// Message timeout in milliseconds.
    pub msg_timeout: u64,
    /// Percentage of messages to deliver, plus one as in nsqd; 0 delivers all.
    pub sample_rate: i32,
    /// TLS, compression and AUTH, for the statistics.
    pub security: SessionSecurity,
}

impl Default for SessionSettings {
    /// A client that says nothing about itself, with nsqd's defaults.
    fn default() -> Self {
        Self {
            client_id: String::new(),
            hostname: String::new(),
            user_agent: String::new(),
            msg_timeout: 60_000,
            sample_rate: 0,
            security: SessionSecurity::default(),
        }
    }
}

/// Phase of a session, with nsqd's state numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPhase {
    /// Connected.
    New = 0,
    /// Subscribed to a channel: receives messages.
    Subscribed = 3,
    /// Closing after CLS: gets no more messages, but may answer those in flight.
    Closing = 4,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) settings: SessionSettings,
    pub(super) remote_address: String,
    /// When the client connected, in seconds since 1970.
    pub(super) connected: i64,
    pub(super) phase: SessionPhase,
    pub(super) channel: Option<ChannelId>,
    pub(super) ready: u64,
    pub(super) in_flight: u64,
    /// Pending output for the client.
    pub(super) outbox: WriteBuffer,
    /// True if the session is in its channel's line for messages.
    pub(super) in_ready_queue: bool,
    /// True if the session is among those that [`Sessions::woken`] returns, or its connection has
    /// not taken its output since.
    pub(super) woken: bool,
    /// True if its channel was deleted: the connection must end.
    pub(super) ended: bool,
    pub(super) message_count: u64,
    pub(super) finish_count: u64,
    pub(super) requeue_count: u64,
    /// Messages that the session published, by topic.
    pub(super) published: HashMap<TopicName, u64>,
    random: fastrand::Rng,
}

impl Session {
    pub(super) fn new(settings: SessionSettings, remote_address: String, seed: u64, connected: i64) -> Self {
        Self {
            settings,
            remote_address,
            connected,
            phase: SessionPhase::New,
            channel: None,
            ready: 0,
            in_flight: 0,
            outbox: WriteBuffer::new(),
            in_ready_queue: false,
            woken: false,
            ended: false,
            message_count: 0,
            finish_count: 0,
            requeue_count: 0,
            published: HashMap::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// True if the session may get a message now.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight < self.ready && self.outbox.remaining() < MAX_PENDING_OUTPUT && !self.ended
    }

    /// True if sampling skips the next message for this session (nsqd's `messagePump`).
    pub(super) fn skips(&mut self) -> bool {
        self.settings.sample_rate > 0 && self.random.i32(0..100) > self.settings.sample_rate
    }

    pub(super) fn count_published(&mut self, topic: &TopicName, count: u64) {
        match self.published.get_mut(topic) {
            Some(sum) => *sum += count,
            None => drop(self.published.insert(topic.clone(), count)),
        }
    }
}

/// All sessions, and those whose connections have something to do.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: HashMap<SessionId, Session, ById>,
    woken: Vec<SessionId>,
    last: u64,
}

impl Sessions {
    pub(super) fn insert(&mut self, session: Session) -> SessionId {
        self.last += 1;
        self.all.insert(SessionId(self.last), session);
        SessionId(self.last)
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.all.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Session {
        self.all.remove(&id).expect("a session disconnects once")
    }

    /// Marks a session's connection as having something to do.
    pub(super) fn wake(&mut self, id: SessionId) {
        if let Some(session) = self.all.get_mut(&id)
            && !session.woken
        {
            session.woken = true;
            self.woken.push(id);
        }
    }

    pub(super) fn woken(&mut self) -> std::vec::Drain<'_, SessionId> {
        self.woken.drain(..)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.all.iter().map(|(id, session)| (*id, session))
    }
}

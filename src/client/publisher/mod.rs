//! Publishing: every call ends when nsqd has acknowledged the message, or with an error.
//!
//! ```text
//!  publish(a) ─┐                    ┌─ link ══▶ nsqd 1    what has gathered goes out at once, as one MPUB;
//!  publish(b) ─┼─▶ Queue (waiting) ─┤                     the answer resolves each call in it
//!  publish(c) ─┘        ▲           └─ link ══▶ nsqd 2
//!                       └── what a lost connection left unacknowledged, to be sent again
//! ```
//!
//! There is no flush timer: a lone message is written at once, and messages that arrive while
//! another is unanswered go out together. A link takes requests only while it is connected, so an
//! unreachable nsqd is skipped. **At least once**: a message whose answer was lost is sent again,
//! to any nsqd, and may be duplicated. A message is retried until its deadline.

mod link;
mod queue;
#[cfg(feature = "tokio-nsq")]
mod tokio_nsq;
mod unacknowledged;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

use self::queue::{Payload, PublishQueue};
use super::connection::Connection;
use super::{Address, ClientBackend, ConnectConfig, Error};
use crate::plural;
use crate::proto::{ErrorCode, TopicName, WireError};

/// The largest message in bytes that NSQ's 31-bit size can express. nsqd's own limit,
/// `--max-msg-size`, is far below.
const MAX_SIZE: usize = i32::MAX as usize;

/// The configuration of a [`Publisher`].
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use mqueue::client::PublisherConfig;
///
/// let config = PublisherConfig::default().with_timeout(Duration::from_secs(5));
/// assert_eq!(config.timeout, Duration::from_secs(5));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PublisherConfig {
    /// Settings of the connections.
    pub connect: ConnectConfig,
    /// The time limit of a publish call, reconnects and retries included. Default: 30 s.
    pub timeout: Duration,
    /// The time after which an unanswered publish makes the connection count as lost. Default: 10
    /// s.
    pub answer_within: Duration,
    /// The implementation of NSQ's protocol.
    pub backend: ClientBackend,
    /// The limit of unacknowledged message bytes, above which publish calls wait. A single message
    /// may be larger. Default: 64 MiB.
    pub max_bytes: u32,
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self {
            connect: ConnectConfig::default(),
            timeout: Duration::from_secs(30),
            answer_within: Duration::from_secs(10),
            backend: ClientBackend::default(),
            max_bytes: 64 << 20,
        }
    }
}

impl PublisherConfig {
    /// Sets the settings of the connections.
    #[must_use]
    pub fn with_connect(mut self, connect: ConnectConfig) -> Self {
        self.connect = connect;
        self
    }

    /// Sets the time limit of a publish call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the time after which an unanswered publish makes the connection count as lost.
    #[must_use]
    pub fn with_answer_within(mut self, time: Duration) -> Self {
        self.answer_within = time;
        self
    }

    /// Sets the implementation of NSQ's protocol.
    #[must_use]
    pub fn with_backend(mut self, backend: ClientBackend) -> Self {
        self.backend = backend;
        self
    }

    /// Sets the limit of unacknowledged bytes.
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: u32) -> Self {
        self.max_bytes = bytes;
        self
    }
}

/// The error of a publish call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The message is empty, which nsqd refuses. It was not sent.
    #[error("empty message: nsqd takes messages of 1 byte and more")]
    Empty,
    /// The message, of this many bytes, is larger than NSQ's protocol allows. It was not sent.
    #[error("message of {0} bytes: NSQ allows at most {MAX_SIZE}")]
    TooLarge(usize),
    /// nsqd refused the message; sending it again would not help.
    #[error("{0}")]
    Refused(WireError),
    /// No nsqd acknowledged the message in time. It may have been published nevertheless.
    #[error("not acknowledged within {} s{}", .after.as_secs_f32(), .last.as_ref().map(|e| format!(" ({e})")).unwrap_or_default())]
    TimedOut {
        /// The time limit that passed.
        after: Duration,
        /// The last error of a connection.
        last: Option<Arc<Error>>,
    },
    /// The publisher was closed.
    #[error("the publisher is closed")]
    Closed,
}

impl PublishError {
    /// True if the error concerns a single message of the command, and the others may succeed.
    fn is_about_one_message(&self) -> bool {
        match self {
            Self::Empty | Self::TooLarge(_) => true,
            Self::Refused(error) => matches!(error.code, ErrorCode::BadMessage | ErrorCode::BadBody),
            Self::TimedOut { .. } | Self::Closed => false,
        }
    }
}

/// The messages that [`Publisher::publish_many`] did not publish; all others were published.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} not published; the first: {}", plural::count(.0.len(), "message"), .0[0].1)]
pub struct PublishManyError(
    /// The index of each message, from 0, and its error. Never empty.
    pub Vec<(usize, PublishError)>,
);

/// Counts of a publisher, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishCounts {
    /// Messages acknowledged by nsqd.
    pub acknowledged: u64,
    /// Messages sent again because a connection was lost before the answer.
    pub resent: u64,
}

/// A publisher to one or several nsqds. Cheap to clone; the connections end with the last clone.
///
/// Each message goes to one of the nsqds: whichever is connected and idle takes it. Calls that run
/// concurrently share commands (MPUB), so concurrency raises throughput.
///
/// # Examples
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mqueue::client::{Publisher, PublisherConfig};
/// use mqueue::proto::TopicName;
///
/// let nsqd = "127.0.0.1:4150".parse()?;
/// let publisher = Publisher::connect(&[nsqd], PublisherConfig::default()).await?;
/// publisher.publish(&TopicName::new("foo")?, "hello").await?; // nsqd answered OK
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Publisher {
    shared: Arc<PublishQueue>,
    links: TaskTracker,
    _close_on_last_drop: Arc<DropGuard>,
}

impl Publisher {
    /// Connects to all addresses. One reachable nsqd is enough; the others are retried in the
    /// background.
    ///
    /// # Errors
    /// The first address' error if no nsqd is reachable, and [`Error::NoAddress`] for no addresses.
    pub async fn connect(addresses: &[Address], config: PublisherConfig) -> Result<Self, Error> {
        config.backend.check(&config.connect.security)?;
        let tries = join_all(addresses.iter().map(|address| Connection::open(address, &config.connect))).await;
        if tries.iter().all(Result::is_err) {
            return Err(tries.into_iter().find_map(Result::err).unwrap_or(Error::NoAddress));
        }
        let (shared, links) = (Arc::new(PublishQueue::new(config)), TaskTracker::new());
        for (address, connection) in addresses.iter().zip(tries) {
            match shared.config.backend {
                ClientBackend::Own => links.spawn(link::run(shared.clone(), address.clone(), connection)),
                // tokio-nsq connects by itself: this connection has shown that it can
                #[cfg(feature = "tokio-nsq")]
                ClientBackend::TokioNsq => links.spawn(tokio_nsq::run(shared.clone(), address.clone())),
            };
        }
        links.close();
        let guard = shared.closing.clone().drop_guard();
        Ok(Self { shared, links, _close_on_last_drop: Arc::new(guard) })
    }

    /// Publishes one message; returns when nsqd has answered OK.
    ///
    /// # Errors
    /// The message is empty, too large or refused, or no nsqd acknowledges it within
    /// [`PublisherConfig::timeout`].
    ///
    /// # Cancel safety
    /// If the future is dropped before the message is sent, the message is not published. Dropped
    /// later, the message may be published or not.
    pub async fn publish(&self, topic: &TopicName, body: impl Into<Bytes>) -> Result<(), PublishError> {
        self.send(topic, Payload::One(body.into())).await
    }

    /// Publishes one message that nsqd delivers after `delay` (whole milliseconds, at most nsqd's
    /// `--max-req-timeout`: 1 h by default).
    ///
    /// # Errors
    /// As [`publish`](Self::publish); nsqd refuses a longer delay.
    pub async fn publish_deferred(
        &self,
        topic: &TopicName,
        body: impl Into<Bytes>,
        delay: Duration,
    ) -> Result<(), PublishError> {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.send(topic, Payload::Deferred(body.into(), delay)).await
    }

    /// Publishes several messages in as few commands as their size allows.
    ///
    /// # Errors
    /// The messages that were not published, each with its error; all others were published.
    pub async fn publish_many(&self, topic: &TopicName, bodies: Vec<Bytes>) -> Result<(), PublishManyError> {
        let mut failed = Vec::new();
        let mut first = 0;
        let sent = join_all(queue::chunks(bodies).map(|chunk| {
            let start = first;
            first += chunk.len();
            async move { (start, self.send(topic, Payload::Many(chunk.clone())).await, chunk) }
        }));
        for (start, result, chunk) in sent.await {
            match result {
                Ok(()) => {}
                // one of the messages is at fault: retries each on its own to find which
                Err(e) if e.is_about_one_message() => {
                    for (index, body) in chunk.iter().enumerate() {
                        let alone = self.send(topic, Payload::One(body.clone())).await;
                        failed.extend(alone.err().map(|e| (start + index, e)));
                    }
                }
                Err(e) => failed.extend((start..start + chunk.len()).map(|index| (index, e.clone()))),
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(PublishManyError(failed)) }
    }

    /// Closes the connections of all clones and waits until they are closed. Unacknowledged
    /// messages fail with [`PublishError::Closed`].
    pub async fn close(self) {
        self.shared.closing.cancel();
        self.links.wait().await;
    }

    /// The counts so far, of all clones.
    pub fn counts(&self) -> PublishCounts {
        PublishCounts {
            acknowledged: self.shared.acknowledged.load(Ordering::Relaxed),
            resent: self.shared.resent.load(Ordering::Relaxed),
        }
    }

    /// The number of nsqds that are connected now. It is 0 for a moment while a lost connection is
    /// replaced, and after nsqd has refused a message.
    pub fn connected(&self) -> usize {
        self.shared.connected.load(Ordering::Relaxed)
    }

    async fn send(&self, topic: &TopicName, payload: Payload) -> Result<(), PublishError> {
        payload.check()?;
        let shared = &self.shared;
        let deadline = Instant::now() + shared.config.timeout;
        let sending = async {
            let answer = shared.queue(topic.clone(), payload).await?;
            answer.await.unwrap_or(Err(PublishError::Closed))
        };
        tokio::time::timeout_at(deadline, sending).await.unwrap_or_else(|_| Err(shared.timed_out()))
    }
}

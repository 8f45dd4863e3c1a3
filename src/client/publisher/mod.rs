//! Publishing: every call ends when nsqd has the message, or with an error that says why not.
//!
//! ```text
//!  publish(a) ─┐                    ┌─ link ══▶ nsqd 1    what has gathered goes out at once, as one MPUB;
//!  publish(b) ─┼─▶ Queue (waiting) ─┤                     the answer resolves each call in it
//!  publish(c) ─┘        ▲           └─ link ══▶ nsqd 2
//!                       └── what a lost connection left unacknowledged, to be sent again
//! ```
//!
//! There is no flush timer: a lone message is written at once, and messages that come while another is on its way go out
//! together. A link takes work only while it is connected, so a dead nsqd is passed over. **At least once**: a message whose
//! answer was lost is sent again, to any nsqd, and may so be there twice; it is never given up before its deadline.

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
use crate::proto::{ErrorCode, TopicName, WireError};

/// Bytes of the largest message that NSQ has a size for: 31 bits of a number. nsqd's own limit, `--max-msg-size`, is far below.
const MAX_SIZE: usize = i32::MAX as usize;

/// How messages are published.
#[derive(Debug, Clone)]
pub struct PublisherConfig {
    /// How connections are made.
    pub connect: ConnectConfig,
    /// How long a publish may take, lost connections and all, before it fails.
    pub timeout: Duration,
    /// How long nsqd may leave a publish unanswered before the connection counts as lost.
    pub answer_within: Duration,
    /// Who speaks with nsqd.
    pub backend: ClientBackend,
    /// Bytes of messages that may wait and be on their way; beyond it publishing waits. One message may be larger.
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

/// Why a message was not published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// nsqd refuses empty messages; this one was not sent.
    #[error("empty message: nsqd takes messages of 1 byte and more")]
    Empty,
    /// NSQ has no such sizes; this one was not sent.
    #[error("message of {0} bytes: NSQ's sizes end at {MAX_SIZE}")]
    TooLarge(usize),
    /// nsqd refused it for good; sending it again would not help.
    #[error("{0}")]
    Refused(WireError),
    /// No nsqd acknowledged it in time. It may have been taken all the same.
    #[error("not acknowledged within {} s{}", .after.as_secs_f32(), .last.as_ref().map(|e| format!(" ({e})")).unwrap_or_default())]
    TimedOut {
        /// How long was tried.
        after: Duration,
        /// What happened to a connection last.
        last: Option<Arc<Error>>,
    },
    /// The publisher was closed.
    #[error("the publisher is closed")]
    Closed,
}

impl PublishError {
    /// True if one message of a command is at fault, and the others may be taken; any other error holds for all of them.
    fn is_about_one_message(&self) -> bool {
        match self {
            Self::Empty | Self::TooLarge(_) => true,
            Self::Refused(error) => matches!(error.code, ErrorCode::BadMessage | ErrorCode::BadBody),
            Self::TimedOut { .. } | Self::Closed => false,
        }
    }
}

/// The messages of a [`Publisher::publish_many`] that were not published; the others were.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} of the messages were not published; the first: {}", .0.len(), .0[0].1)]
pub struct PublishManyError(
    /// Their places in what was given, from 0, and why. Never empty.
    pub Vec<(usize, PublishError)>,
);

/// What a publisher has done, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishCounts {
    /// Acknowledged by nsqd.
    pub acknowledged: u64,
    /// Sent again because a connection was lost before the answer.
    pub resent: u64,
}

/// Publishes messages to one or several nsqds. Cheap to clone; the connections end with the last clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    shared: Arc<PublishQueue>,
    links: TaskTracker,
    _close_on_last_drop: Arc<DropGuard>,
}

impl Publisher {
    /// Connects to every address. Succeeds with the first one connected; the others are tried until they answer. Fails,
    /// with the first address' error, if none can be had now.
    pub async fn connect(addresses: &[Address], config: PublisherConfig) -> Result<Self, Error> {
        let tries = join_all(addresses.iter().map(|address| Connection::open(address, &config.connect))).await;
        if tries.iter().all(Result::is_err) {
            return Err(tries.into_iter().find_map(Result::err).unwrap_or(Error::NoAddress));
        }
        let (shared, links) = (Arc::new(PublishQueue::new(config)), TaskTracker::new());
        for (address, connection) in addresses.iter().zip(tries) {
            match shared.config.backend {
                ClientBackend::Own => links.spawn(link::run(shared.clone(), address.clone(), connection)),
                // it has to connect by itself: the connection has shown that it can
                #[cfg(feature = "tokio-nsq")]
                ClientBackend::TokioNsq => links.spawn(tokio_nsq::run(shared.clone(), address.clone())),
            };
        }
        links.close();
        let guard = shared.closing.clone().drop_guard();
        Ok(Self { shared, links, _close_on_last_drop: Arc::new(guard) })
    }

    /// Publishes one message; done when nsqd said OK. Dropping the future before it was sent takes the message back.
    pub async fn publish(&self, topic: &TopicName, body: impl Into<Bytes>) -> Result<(), PublishError> {
        self.send(topic, Payload::One(body.into())).await
    }

    /// Publishes one message that is delivered after `delay` (whole milliseconds; nsqd's `--max-req-timeout` is the most).
    pub async fn publish_deferred(
        &self,
        topic: &TopicName,
        body: impl Into<Bytes>,
        delay: Duration,
    ) -> Result<(), PublishError> {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.send(topic, Payload::Deferred(body.into(), delay)).await
    }

    /// Publishes several messages, in as few commands as their size allows. Fails with those that nsqd did not take, each with
    /// its reason; all others are published.
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
                // one of them is at fault: each on its own, to find which
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

    /// Ends the connections of all clones, and waits until they have ended. What was not acknowledged by then fails.
    pub async fn close(self) {
        self.shared.closing.cancel();
        self.links.wait().await;
    }

    /// What has been done so far.
    pub fn counts(&self) -> PublishCounts {
        PublishCounts {
            acknowledged: self.shared.acknowledged.load(Ordering::Relaxed),
            resent: self.shared.resent.load(Ordering::Relaxed),
        }
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

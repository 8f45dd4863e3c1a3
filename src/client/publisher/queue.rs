//! The queue of publish requests, shared by the callers and the links.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::{MAX_SIZE, PublishError, PublisherConfig};
use crate::client::Error;
use crate::proto::{Command, TopicName, WriteBuffer};

/// The most body bytes in one MPUB: well below nsqd's default `--max-body-size` (5 MiB), and large
/// enough to make the cost per command negligible.
const MERGE_BYTES: usize = 256 * 1024;

/// The messages of one request.
#[derive(Debug)]
pub(super) enum Payload {
    One(Bytes),
    Deferred(Bytes, u64),
    Many(Arc<Vec<Bytes>>),
}

impl Payload {
    pub(super) fn bodies(&self) -> &[Bytes] {
        match self {
            Self::One(body) | Self::Deferred(body, _) => std::slice::from_ref(body),
            Self::Many(bodies) => bodies,
        }
    }

    /// Fails for messages that NSQ cannot transmit.
    pub(super) fn check(&self) -> Result<(), PublishError> {
        self.bodies().iter().try_for_each(|body| match body.len() {
            0 => Err(PublishError::Empty),
            size if size > MAX_SIZE => Err(PublishError::TooLarge(size)),
            _ => Ok(()),
        })
    }
}

/// The messages of one call, pending until `answer` is sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) topic: TopicName,
    pub(super) payload: Payload,
    bytes: usize,
    /// True if the request needs a command of its own: nsqd refused a merged command that contained
    /// it.
    own_command: bool,
    /// True if the request has been sent before.
    sent: bool,
    answer: oneshot::Sender<Result<(), PublishError>>,
    _room: OwnedSemaphorePermit,
}

impl Request {
    pub(super) fn messages(&self) -> u64 {
        self.payload.bodies().len() as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Marks the request as sent; returns true if it was sent before, on a connection that was
    /// lost.
    pub(super) fn mark_sent(&mut self) -> bool {
        std::mem::replace(&mut self.sent, true)
    }

    /// Requires a command of its own. nsqd refused the command that contained the request, so it
    /// counts as never sent.
    pub(super) fn require_own_command(self) -> Self {
        Self { own_command: true, sent: false, ..self }
    }

    /// Sends the result to the caller, if it still waits.
    pub(super) fn resolve(self, result: Result<(), PublishError>) {
        let _ = self.answer.send(result);
    }

    fn merges_with(&self, next: &Request) -> bool {
        let deferred = |request: &Request| matches!(request.payload, Payload::Deferred(..));
        !(self.own_command || next.own_command || deferred(self) || deferred(next)) && self.topic == next.topic
    }
}

/// The request queue and the other state shared by links and callers. Locks are held for a few
/// lines.
#[derive(Debug)]
pub(super) struct PublishQueue {
    pub(super) config: PublisherConfig,
    waiting: Mutex<VecDeque<Request>>,
    /// Wakes one idle link.
    pub(super) ready: Notify,
    room: Arc<Semaphore>,
    last_error: Mutex<Option<Arc<Error>>>,
    pub(super) acknowledged: AtomicU64,
    pub(super) resent: AtomicU64,
    /// The number of open connections.
    pub(super) connected: AtomicUsize,
    pub(super) closing: CancellationToken,
}

/// Counts an open connection.
pub(super) struct OpenConnection<'a>(&'a PublishQueue);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PublishQueue {
    pub(super) fn new(config: PublisherConfig) -> Self {
        let room = Arc::new(Semaphore::new(config.max_bytes as usize));
        Self {
            config,
            waiting: Mutex::default(),
            ready: Notify::new(),
            room,
            last_error: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            connected: AtomicUsize::new(0),
            closing: CancellationToken::new(),
        }
    }

    /// Counts a connection as open until the guard is dropped.
    pub(super) fn count_connection(&self) -> OpenConnection<'_> {
        self.connected.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self)
    }

    /// Waits for room within `max_bytes` and adds a request; its result arrives on the returned
    /// channel.
    pub(super) async fn queue(
        &self,
        topic: TopicName,
        payload: Payload,
    ) -> Result<oneshot::Receiver<Result<(), PublishError>>, PublishError> {
        let bytes = payload.bodies().iter().map(Bytes::len).sum();
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.config.max_bytes);
        let room = self.room.clone().acquire_many_owned(permits).await.map_err(|_| PublishError::Closed)?;
        let (answer, answered) = oneshot::channel();
        self.waiting().push_back(Request {
            topic,
            payload,
            bytes,
            own_command: false,
            sent: false,
            answer,
            _room: room,
        });
        self.ready.notify_one();
        Ok(answered)
    }

    /// Takes the requests of the next command, at most `MERGE_BYTES` together; skips requests whose
    /// callers are gone.
    pub(super) fn take(&self, group: &mut VecDeque<Request>) -> usize {
        let mut waiting = self.waiting();
        let (mut taken, mut bytes) = (0, 0);
        while let Some(next) = waiting.front() {
            if next.answer.is_closed() {
                waiting.pop_front();
                continue;
            }
            let fits =
                taken == 0 || bytes + next.bytes <= MERGE_BYTES && group.back().is_some_and(|r| r.merges_with(next));
            if !fits {
                break;
            }
            bytes += next.bytes;
            taken += 1;
            group.extend(waiting.pop_front());
        }
        taken
    }

    /// True if requests are queued.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// Returns requests to the front of the queue, in their order, for the next idle link.
    pub(super) fn return_requests(&self, requests: VecDeque<Request>) {
        let mut waiting = self.waiting();
        for request in requests.into_iter().rev() {
            waiting.push_front(request);
        }
        if !waiting.is_empty() {
            self.ready.notify_one();
        }
    }

    /// Keeps a connection's error for publish calls that time out.
    pub(super) fn record_error(&self, error: Error) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(error));
    }

    pub(super) fn timed_out(&self) -> PublishError {
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PublishError::TimedOut { after: self.config.timeout, last }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the command that publishes these requests, at least one, which [`PublishQueue::take`] has
/// grouped.
pub(super) fn encode<'a>(requests: impl ExactSizeIterator<Item = &'a Request> + Clone, out: &mut WriteBuffer) {
    let Some(first) = requests.clone().next() else { return };
    let topic = first.topic.clone();
    if let Payload::Deferred(body, delay) = &first.payload {
        return Command::Dpub { topic, delay: *delay, body: body.clone() }.encode(out);
    }
    let bodies = requests.flat_map(|request| request.payload.bodies());
    let mut ahead = bodies.clone();
    match (ahead.next(), ahead.next()) {
        // nsqd's --max-body-size, by default 5 MiB, does not hold for PUB
        (Some(body), None) => Command::Pub { topic, body: body.clone() }.encode(out),
        _ => Command::encode_mpub(&topic, bodies, out),
    }
}

/// Splits messages into chunks of one command each.
pub(super) fn chunks(bodies: Vec<Bytes>) -> impl Iterator<Item = Arc<Vec<Bytes>>> {
    let mut rest = bodies.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut chunk = vec![rest.next()?];
        let mut bytes = chunk[0].len();
        while let Some(body) = rest.next_if(|body| bytes + body.len() <= MERGE_BYTES) {
            bytes += body.len();
            chunk.push(body);
        }
        Some(Arc::new(chunk))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn empty_and_oversized_messages_are_not_sent() {
        // untouched zeroed pages take no memory
        let body = |size| Bytes::from(vec![0; size]);
        let check = |size| Payload::Many(vec!["x".into(), body(size)].into()).check();
        assert!(matches!(check(0), Err(PublishError::Empty)));
        assert!(check(MAX_SIZE).is_ok());
        assert!(matches!(check(MAX_SIZE + 1), Err(PublishError::TooLarge(_))));
    }

    #[tokio::test]
    async fn a_single_body_is_sent_as_pub() {
        for payload in [Payload::One("x".into()), Payload::Many(vec!["x".into()].into())] {
            let shared = PublishQueue::new(PublisherConfig::default());
            let _answer = shared.queue(TopicName::new("t").unwrap(), payload).await.unwrap();
            let (mut requests, mut out) = (VecDeque::new(), WriteBuffer::new());
            assert_eq!(shared.take(&mut requests), 1);
            encode(requests.iter(), &mut out);
            assert_eq!(out.copy_to_bytes(out.remaining()), &b"PUB t\n\0\0\0\x01x"[..]);
        }
    }
}

//! Deliveries to the application, and the queue of replies to nsqd.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::client::{Address, ConnectionId};
use crate::proto::{Message, MessageId};

/// The reply to send to nsqd for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// FIN.
    Finish,
    /// REQ: the message failed.
    Requeue(Duration),
    /// REQ 0: the worker of the message went away; counts as a try.
    Abandon,
    /// BACK or REQ 0: the message was not tried.
    Release,
    /// BACK or REQ with a delay: the message could not be tried, for a reason outside the message.
    RequeueUntried(Duration),
    /// TOUCH.
    Touch,
}

impl Reply {
    /// The reply for a redelivered copy, which was not tried itself.
    pub(super) fn for_untried_copy(self) -> Self {
        match self {
            Self::Requeue(delay) => Self::RequeueUntried(delay),
            Self::Abandon => Self::Release,
            Self::Finish | Self::Release | Self::RequeueUntried(_) | Self::Touch => self,
        }
    }
}

/// A reply on its way to the link. `attempts` distinguishes a delivery from its own redelivery.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueuedReply {
    pub(super) id: MessageId,
    pub(super) attempts: u16,
    pub(super) reply: Reply,
}

/// The replies of one connection's deliveries. Each connection has its own queue, so an old
/// delivery never answers on a new connection.
#[derive(Debug)]
pub(super) struct ReplyQueue {
    pub(super) id: ConnectionId,
    address: Address,
    /// Replies that the link has not taken yet.
    answers: Mutex<Vec<QueuedReply>>,
    pub(super) wake: Notify,
    open: AtomicBool,
    /// Bytes of unanswered messages on all of the consumer's connections, ended ones included.
    bytes: Arc<AtomicUsize>,
    /// The unanswered messages of this nsqd. Each delivery of a repeated id counts.
    nsqd: Arc<HeldOfNsqd>,
}

/// The size of one nsqd's unanswered messages, including those of ended connections, so that
/// reconnecting does not raise a limit.
#[derive(Debug, Default)]
pub(super) struct HeldOfNsqd {
    messages: AtomicUsize,
    /// Bytes of the messages that were sent beyond RDY.
    bytes_beyond_rdy: AtomicUsize,
}

impl ReplyQueue {
    pub(super) fn new(id: ConnectionId, address: Address, bytes: Arc<AtomicUsize>, nsqd: Arc<HeldOfNsqd>) -> Self {
        let answers = Mutex::default();
        Self { id, address, answers, wake: Notify::new(), open: AtomicBool::new(true), bytes, nsqd }
    }

    /// The number of unanswered messages of this nsqd, those of ended connections included.
    pub(super) fn held_messages(&self) -> usize {
        self.nsqd.messages.load(Ordering::Relaxed)
    }

    /// Bytes of this nsqd's unanswered messages that were sent beyond RDY, those of ended
    /// connections included.
    pub(super) fn held_bytes_beyond_rdy(&self) -> usize {
        self.nsqd.bytes_beyond_rdy.load(Ordering::Relaxed)
    }

    /// Bytes of unanswered messages on all of the consumer's connections.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Swaps the queued replies with `spare`, which is empty and keeps its capacity.
    pub(super) fn take_replies(&self, spare: &mut Vec<QueuedReply>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *answers, spare);
    }

    /// Discards further replies: the connection has ended.
    pub(super) fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    fn answer(&self, answer: QueuedReply) {
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let first = answers.is_empty();
        answers.push(answer);
        drop(answers);
        if first {
            self.wake.notify_one();
        }
    }
}

/// A message in flight to this consumer. Each delivery is answered once; a delivery that is dropped
/// unanswered is requeued at once, untried.
///
/// The link sends TOUCH while the delivery exists, so handling may take up to nsqd's
/// `--max-msg-timeout` (15 minutes by default).
///
/// # Examples
/// ```no_run
/// # async fn example(mut consumer: mqueue::client::Consumer) {
/// use std::time::Duration;
///
/// while let Some(delivery) = consumer.recv().await {
///     match std::str::from_utf8(&delivery.message().body) {
///         Ok(text) => {
///             println!("{text}");
///             delivery.finish(); // FIN: the message leaves the channel
///         }
///         Err(_) => delivery.requeue(Duration::from_secs(5)), // REQ: redelivered in 5 s
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Delivery {
    message: Message,
    replies: Arc<ReplyQueue>,
    /// Earlier deliveries that are known to have been requeued untried.
    given_back: u16,
    answered: bool,
    is_beyond_rdy: bool,
}

impl Delivery {
    pub(super) fn new(message: Message, replies: Arc<ReplyQueue>, given_back: u16) -> Self {
        // counted only here and in `drop`, so that every path keeps the count right
        replies.bytes.fetch_add(memory_bytes(&message), Ordering::Relaxed);
        replies.nsqd.messages.fetch_add(1, Ordering::Relaxed);
        Self { message, replies, given_back, answered: false, is_beyond_rdy: false }
    }

    /// Counts the message as one that nsqd sent beyond RDY.
    pub(super) fn beyond_rdy(mut self) -> Self {
        self.is_beyond_rdy = true;
        self.replies.nsqd.bytes_beyond_rdy.fetch_add(memory_bytes(&self.message), Ordering::Relaxed);
        self
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The number of tries, this one included: the deliveries minus those known to have been
    /// requeued untried. mqueue's broker counts exactly; on nsqd, the consumer knows only the
    /// deliveries that this process requeued.
    pub fn tries(&self) -> u16 {
        self.message.attempts.saturating_sub(self.given_back).max(1)
    }

    /// The nsqd that delivered the message.
    pub fn nsqd(&self) -> &Address {
        &self.replies.address
    }

    /// True once the delivery's connection has ended. A reply is then ignored: nsqd delivers the
    /// message again.
    pub fn is_lost(&self) -> bool {
        !self.replies.open.load(Ordering::Acquire)
    }

    /// Finishes the message (FIN): it leaves the channel.
    pub fn finish(self) {
        self.answer(Reply::Finish);
    }

    /// Requeues the failed message for `delay` (REQ; whole milliseconds, at most nsqd's
    /// `--max-req-timeout`). Counts as a failure for the consumer's backoff.
    pub fn requeue(self, delay: Duration) {
        self.answer(Reply::Requeue(delay));
    }

    /// Requeues the message at once (REQ 0), as a try whose worker went away. Does not count as a
    /// failure for the consumer's backoff.
    pub fn abandon(self) {
        self.answer(Reply::Abandon);
    }

    /// Requeues the message at once, untried: the delivery does not count as a try. The same as
    /// dropping it.
    pub fn release(self) {}

    /// Requeues the message for `delay`, untried, because of a problem outside the message: the
    /// delivery does not count as a try. Counts as a failure for the consumer's backoff.
    pub fn requeue_untried(self, delay: Duration) {
        self.answer(Reply::RequeueUntried(delay));
    }

    /// Resets the message's timeout (TOUCH). The link does so by itself; calling this is never
    /// necessary.
    pub fn touch(&self) {
        self.push_reply(Reply::Touch);
    }

    fn answer(mut self, reply: Reply) {
        self.answered = true;
        self.push_reply(reply);
    }

    fn push_reply(&self, reply: Reply) {
        self.replies.answer(QueuedReply { id: self.message.id, attempts: self.message.attempts, reply });
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.answered {
            self.push_reply(Reply::Release);
        }
        self.replies.bytes.fetch_sub(memory_bytes(&self.message), Ordering::Relaxed);
        self.replies.nsqd.messages.fetch_sub(1, Ordering::Relaxed);
        if self.is_beyond_rdy {
            self.replies.nsqd.bytes_beyond_rdy.fetch_sub(memory_bytes(&self.message), Ordering::Relaxed);
        }
    }
}

/// The memory in bytes of an unanswered message: its body and its bookkeeping.
fn memory_bytes(message: &Message) -> usize {
    message.body.len() + size_of::<Delivery>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn messages_count_until_the_delivery_is_dropped_even_after_its_connection_ended() {
        let (bytes, nsqd) = (Arc::new(AtomicUsize::new(0)), Arc::new(HeldOfNsqd::default()));
        let address: Address = "127.0.0.1:4150".parse().unwrap();
        let id = MessageId::from_slice(b"0123456789abcdef").unwrap();
        let deliver = |number| {
            let replies = Arc::new(ReplyQueue::new(ConnectionId(number), address.clone(), bytes.clone(), nsqd.clone()));
            let message = Message { timestamp: 0, attempts: 1, id, body: Bytes::from_static(&[0; 1000]) };
            (Delivery::new(message, replies.clone(), 0), replies)
        };
        let (lost, first) = deliver(1);
        let lost = lost.beyond_rdy();
        let one = first.held_bytes();
        assert!(one > 1000, "{one}");
        first.close();
        let (answered, second) = deliver(2);
        assert_eq!(second.held_bytes(), 2 * one, "the connection that ended counts on");
        assert_eq!((second.held_messages(), second.held_bytes_beyond_rdy()), (2, one));
        lost.finish();
        assert_eq!((second.held_bytes(), second.held_bytes_beyond_rdy()), (one, 0));
        answered.finish();
        assert_eq!((second.held_bytes(), second.held_messages()), (0, 0));
    }
}

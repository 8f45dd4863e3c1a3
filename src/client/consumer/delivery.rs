//! A message in the hands of the application, and the way back for its answer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::client::{Address, ConnectionId};
use crate::proto::{Message, MessageId};

/// What is to be said to nsqd about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// FIN.
    Finish,
    /// REQ after a failure.
    Requeue(Duration),
    /// REQ 0 of a message that was being worked on by somebody who went away.
    Abandon,
    /// A message that was not tried goes back at once.
    Release,
    /// A message that could not be tried, for a reason that is not its own, goes back for a while.
    RequeueUntried(Duration),
    /// TOUCH.
    Touch,
}

impl Reply {
    /// This answer, for a copy that came while the message was being worked on, and that nobody tried.
    pub(super) fn for_untried_copy(self) -> Self {
        match self {
            Self::Requeue(delay) => Self::RequeueUntried(delay),
            Self::Abandon => Self::Release,
            Self::Finish | Self::Release | Self::RequeueUntried(_) | Self::Touch => self,
        }
    }
}

/// An answer on its way to the link. The attempt tells a message from its own redelivery.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueuedReply {
    pub(super) id: MessageId,
    pub(super) attempts: u16,
    pub(super) reply: Reply,
}

/// A connection as its deliveries see it. It is made anew for each connection, so an old delivery never speaks on a new one.
#[derive(Debug)]
pub(super) struct ReplyQueue {
    pub(super) id: ConnectionId,
    address: Address,
    /// Answers gather here until the link takes all of them at once.
    answers: Mutex<Vec<QueuedReply>>,
    pub(super) wake: Notify,
    open: AtomicBool,
    /// Bytes of the messages that the application holds, over all of the consumer's connections, ended ones too.
    bytes: Arc<AtomicUsize>,
    /// How many messages of this nsqd the application holds, those of ended connections too. An id that nsqd repeats counts each time.
    messages: Arc<AtomicUsize>,
}

impl ReplyQueue {
    pub(super) fn new(id: ConnectionId, address: Address, bytes: Arc<AtomicUsize>, messages: Arc<AtomicUsize>) -> Self {
        let answers = Mutex::default();
        Self { id, address, answers, wake: Notify::new(), open: AtomicBool::new(true), bytes, messages }
    }

    /// How many messages of this nsqd the application holds, those of ended connections too.
    pub(super) fn held_messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    /// Bytes of messages that the application holds, over all of the consumer's connections.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes what has gathered, leaving `spare` (empty, with its room) in its place.
    pub(super) fn take_replies(&self, spare: &mut Vec<QueuedReply>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *answers, spare);
    }

    /// The connection ended: answers are not wanted any more.
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

/// A message that is in flight to this consumer. It is answered once; dropped unanswered, it is given back to the queue.
#[derive(Debug)]
pub struct Delivery {
    message: Message,
    replies: Arc<ReplyQueue>,
    /// Earlier deliveries that are known to have been given back untried.
    given_back: u16,
    answered: bool,
}

impl Delivery {
    pub(super) fn new(message: Message, replies: Arc<ReplyQueue>, given_back: u16) -> Self {
        // here and in `drop` alone, so that no way out of the link leaves the count wrong
        replies.bytes.fetch_add(cost(&message), Ordering::Relaxed);
        replies.messages.fetch_add(1, Ordering::Relaxed);
        Self { message, replies, given_back, answered: false }
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// How often the message was tried, this time included: its deliveries, without those that were given back untried as far as that is
    /// known. mqueue's broker knows it exactly; of nsqd's deliveries the consumer knows those that this process gave back.
    pub fn tries(&self) -> u16 {
        self.message.attempts.saturating_sub(self.given_back).max(1)
    }

    /// The nsqd that it came from.
    pub fn nsqd(&self) -> &Address {
        &self.replies.address
    }

    /// True once the connection that it came on has ended. Its answer is then void: nsqd delivers the message again when its time
    /// is up.
    pub fn is_lost(&self) -> bool {
        !self.replies.open.load(Ordering::Acquire)
    }

    /// The work is done: the message leaves the queue (FIN).
    pub fn finish(self) {
        self.answer(Reply::Finish);
    }

    /// The work failed: the message comes again after `delay` (REQ). Counts as a failure for the consumer's backoff.
    pub fn requeue(self, delay: Duration) {
        self.answer(Reply::Requeue(delay));
    }

    /// Somebody was working on the message and went away: it comes again at once (REQ 0), and this was a try. Does not count as a
    /// failure for the consumer's backoff.
    pub fn abandon(self) {
        self.answer(Reply::Abandon);
    }

    /// The message was not tried: it goes back at once, and this was no try. The same as dropping it.
    pub fn release(self) {}

    /// The message could not be tried, and is not to blame: it comes again after `delay`, and this was no try. Counts as a failure for
    /// the consumer's backoff.
    pub fn requeue_untried(self, delay: Duration) {
        self.answer(Reply::RequeueUntried(delay));
    }

    /// The work needs more time (TOUCH). The link does this by itself; a call is never needed.
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
        self.replies.bytes.fetch_sub(cost(&self.message), Ordering::Relaxed);
        self.replies.messages.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that a message takes while the application holds it: its body, and what is kept beside it.
fn cost(message: &Message) -> usize {
    message.body.len() + size_of::<Delivery>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn messages_count_until_the_delivery_is_dropped_whether_its_connection_is_open_or_not() {
        let [bytes, messages] = [0, 0].map(|none| Arc::new(AtomicUsize::new(none)));
        let address: Address = "127.0.0.1:4150".parse().unwrap();
        let id = MessageId::from_slice(b"0123456789abcdef").unwrap();
        let deliver = |number| {
            let replies =
                Arc::new(ReplyQueue::new(ConnectionId(number), address.clone(), bytes.clone(), messages.clone()));
            let message = Message { timestamp: 0, attempts: 1, id, body: Bytes::from_static(&[0; 1000]) };
            (Delivery::new(message, replies.clone(), 0), replies)
        };
        let (lost, first) = deliver(1);
        let one = first.held_bytes();
        assert!(one > 1000, "{one}");
        first.close();
        let (answered, second) = deliver(2);
        assert_eq!(second.held_bytes(), 2 * one, "the connection that ended counts on");
        assert_eq!(second.held_messages(), 2);
        lost.finish();
        assert_eq!(second.held_bytes(), one);
        answered.finish();
        assert_eq!((second.held_bytes(), second.held_messages()), (0, 0));
    }
}

//! Commands of consumers: FIN, REQ and TOUCH answer messages; RDY and CLS set how many the consumer
//! accepts.

use super::channel::{Channel, QueuedRun};
use super::session::{Session, SessionId, SessionPhase};
use super::store::Store;
use super::time::Millis;
use super::{BrokerState, Now};
use crate::proto::MessageId;

/// The client may not answer the message; with nsqd's error texts (`nsqd/channel.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOwned {
    /// The message is not in flight: it was answered or timed out.
    #[error("ID not in flight")]
    NotInFlight,
    /// The message is in flight to another client.
    #[error("client does not own message")]
    Others,
}

impl BrokerState {
    /// Sets the session's RDY count: how many messages may be in flight to it.
    pub fn ready(&mut self, id: SessionId, count: u64, now: Now) {
        let session = self.session(id);
        if session.phase == SessionPhase::Subscribed {
            session.ready = count;
            self.deliver_to(id, now);
        }
    }

    /// Stops deliveries to the session (CLS).
    pub fn close(&mut self, id: SessionId) {
        let session = self.session(id);
        session.phase = SessionPhase::Closing;
        session.ready = 0;
    }

    /// Finishes a message (FIN).
    pub fn finish(&mut self, id: SessionId, message: &MessageId, now: Now) -> Result<(), NotOwned> {
        let (channel, store, session) = self.replying(id)?;
        let (number, copy) = channel.remove_in_flight(id, message, store)?;
        channel.note_finished(number, store);
        if let Some(latency) = &mut channel.latency {
            latency.record(store.batches.timestamp(copy.run.key), now);
        }
        store.release(copy.run);
        session.in_flight -= 1;
        session.finish_count += 1;
        self.deliver_to(id, now);
        Ok(())
    }

    /// Requeues a message that was tried (REQ), for delivery `delay` milliseconds from now.
    pub fn requeue(&mut self, id: SessionId, message: &MessageId, delay: u64, now: Now) -> Result<(), NotOwned> {
        self.requeue_copy(id, message, delay, now, |attempts| attempts)
    }

    /// Requeues a message that was not tried: like [`requeue`](Self::requeue), but this delivery
    /// does not count as an attempt.
    pub fn give_back(&mut self, id: SessionId, message: &MessageId, delay: u64, now: Now) -> Result<(), NotOwned> {
        self.requeue_copy(id, message, delay, now, |attempts| attempts.wrapping_sub(1))
    }

    fn requeue_copy(
        &mut self,
        id: SessionId,
        message: &MessageId,
        delay: u64,
        now: Now,
        attempts: impl FnOnce(u16) -> u16,
    ) -> Result<(), NotOwned> {
        let (channel, store, session) = self.replying(id)?;
        let (number, mut copy) = channel.remove_in_flight(id, message, store)?;
        copy.attempts = attempts(copy.attempts);
        let delay = delay.min(store.limits.max_req_timeout);
        let due = (delay > 0).then(|| now.due_in(Millis(delay)));
        channel.note_requeued(number, copy.attempts, due, store);
        let run = store.split_copy(copy.run);
        match due {
            Some(due) => channel.defer(run, copy.attempts, due, store, now),
            None => channel.enqueue(QueuedRun { run, attempts: copy.attempts }, store),
        }
        channel.requeue_count += 1;
        session.in_flight -= 1;
        session.requeue_count += 1;
        self.deliver_to(id, now);
        Ok(())
    }

    /// The session, its channel and the store, which an answer changes.
    pub(super) fn replying(&mut self, id: SessionId) -> Result<(&mut Channel, &mut Store, &mut Session), NotOwned> {
        let session = self.sessions.get_mut(id).expect("a connection has its session until it disconnects");
        let channel = session.channel.and_then(|channel| self.channels.get_mut(&channel));
        Ok((channel.ok_or(NotOwned::NotInFlight)?, &mut self.store, session))
    }
}

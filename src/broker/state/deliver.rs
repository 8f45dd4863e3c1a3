//! Delivery: a channel's first message goes to the first session in the channel's line.

use std::io;

use super::super::log::{Change, UnixMillis};
use super::channel::{Channel, QueuedRun};
use super::in_flight::InFlightCopy;
use super::message_store::NextMessage;
use super::session::{Session, SessionId, Sessions};
use super::store::Store;
use super::time::Millis;
use super::{BrokerState, Now};
use crate::io_error::describe;
use crate::proto::Frame;

impl BrokerState {
    /// Puts a session that may have room now in its channel's line, and sends queued messages.
    pub(super) fn deliver_to(&mut self, id: SessionId, now: Now) {
        let Some(channel) = self.session(id).channel else { return };
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.enqueue_ready(id, &mut self.sessions);
            channel.deliver(&mut self.store, &mut self.sessions, now);
        }
    }

    /// True if, since the last call, a channel had more messages than its consumers are enough for,
    /// or a consumer came or went. A channel without a consumer needs one for its first message.
    pub fn take_unserved(&mut self) -> bool {
        std::mem::take(&mut self.store.has_unserved)
    }

    /// Sets the number of messages for which one consumer is enough.
    pub fn set_messages_per_consumer(&mut self, messages: usize) {
        self.store.messages_per_consumer = messages;
    }

    /// Requeues expired in-flight and deferred messages, wakes rested channels; returns the next
    /// deadline.
    pub fn advance(&mut self, now: Now) -> Option<super::Micros> {
        for id in self.store.rest.rested(now.at) {
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            channel.rests = false;
            channel.deliver(&mut self.store, &mut self.sessions, now);
        }
        while let Some((_, id, message)) = self.store.timers.first().copied().filter(|(when, ..)| *when <= now.at) {
            self.store.timers.pop_first();
            self.requeue_expired(id, message, now);
        }
        self.next_timer()
    }
}

impl Channel {
    /// Puts a session in line, if it has room and is not in line yet.
    pub(super) fn enqueue_ready(&mut self, id: SessionId, sessions: &mut Sessions) {
        let Some(session) = sessions.get_mut(id) else { return };
        if session.has_room() && !session.in_ready_queue {
            session.in_ready_queue = true;
            self.ready_queue.push_back(id);
        }
    }

    /// Sends queued messages as long as a session has room.
    pub(super) fn deliver(&mut self, store: &mut Store, sessions: &mut Sessions, now: Now) {
        while !self.paused && !self.rests && !self.queue.is_empty() {
            let Some(id) = self.ready_queue.pop_front() else {
                let enough = self.sessions.len().saturating_mul(store.messages_per_consumer);
                store.has_unserved |= self.depth > enough;
                return;
            };
            let session = sessions.get_mut(id).expect("a removed session leaves the queue");
            session.in_ready_queue = false;
            if session.has_room() {
                self.send(id, session, store, now);
                sessions.wake(id);
                self.enqueue_ready(id, sessions);
            }
        }
    }

    /// Sends the next copy. If the log cannot read its body, the copy is deferred and tried again
    /// later.
    fn send(&mut self, id: SessionId, session: &mut Session, store: &mut Store, now: Now) {
        let (next, attempts) = match self.next(store) {
            Ok(next) => next,
            Err((QueuedRun { run, attempts }, error)) => {
                let delay = store.batches.retry_delay(run.key, now.at);
                let (topic, channel, messages, retry_s) = (&self.topic, &self.name, run.count, delay.0.div_ceil(1_000));
                tracing::error!(%topic, %channel, messages, error = %describe(&error), retry_s, "cannot read from the log; messages deferred");
                self.rests = store.rest.failed(self.id, now.at);
                return self.defer(run, attempts, now.due_in(delay), store, now);
            }
        };
        if session.skips() {
            self.note_finished(next.id, store);
            return store.release(next.run);
        }
        // nsqd's count wraps around, too
        let attempts = attempts.wrapping_add(1);
        let (bytes, body) = store.batches.body(&next);
        Frame::encode_message(next.timestamp, attempts, &store.wire_id(next.id), bytes, body, &mut session.outbox);
        session.in_flight += 1;
        session.message_count += 1;
        let deadline = now.after(Millis(session.settings.msg_timeout));
        store.timers.insert((deadline, self.id, next.id));
        let copy = InFlightCopy { run: next.run, attempts, session: id, delivered: now.at, deadline };
        self.in_flight.insert(next.id, copy);
    }

    /// Takes the first copy from the queue, which must not be empty. On a read error, takes the
    /// queue's whole first run.
    fn next(&mut self, store: &mut Store) -> Result<(NextMessage, u16), (QueuedRun, io::Error)> {
        let first = self.queue.front_mut().expect("the queue is not empty");
        let (whole, attempts) = (*first, first.attempts);
        let next = store.batches.next(&mut first.run, &mut *store.log);
        let taken = if next.is_ok() { whole.run.truncated(1) } else { whole.run };
        self.depth -= taken.count as usize;
        self.backlog -= store.backlog(&taken);
        if taken.count == whole.run.count {
            self.queue.pop_front();
            self.popped += 1;
        }
        next.map(|next| (next, attempts)).map_err(|error| (whole, error))
    }

    pub(super) fn note_finished(&self, message: u64, store: &mut Store) {
        if self.is_logged() {
            store.note(&Change::Finished(self.id, message));
        }
    }

    pub(super) fn note_requeued(&self, message: u64, attempts: u16, due: Option<UnixMillis>, store: &mut Store) {
        if self.is_logged() {
            store.note(&Change::Requeued(self.id, message, attempts, due));
        }
    }
}

//! Messages go out: the channel's first to the session that stands first in its line.

use super::super::log::{Change, ChannelId};
use super::channel::{Channel, InFlight, Waiting};
use super::messages::to_wire;
use super::session::{Session, SessionId, Sessions};
use super::store::Store;
use super::{Now, State};
use crate::proto::Frame;

/// A message whose body the log could not give is tried again after so many milliseconds.
const UNREADABLE: u64 = 1000;

impl State {
    /// A session may have room now: it gets in line, and its channel sends what waits.
    pub(super) fn make_room(&mut self, id: SessionId, now: Now) {
        let Some(channel) = self.session(id).channel else { return };
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.line_up(id, &mut self.sessions);
            channel.pump(&mut self.store, &mut self.sessions, now);
        }
    }

    /// What has to come back by now comes back; says when there will be more.
    pub fn advance(&mut self, now: Now) -> Option<super::Micros> {
        while let Some((when, id, message)) = self.store.timers.first().copied() {
            if when > now.at {
                return Some(when);
            }
            self.store.timers.pop_first();
            self.come_back(id, message, now);
        }
        None
    }

    /// A copy's time is over: it waits again.
    fn come_back(&mut self, id: ChannelId, message: u64, now: Now) {
        let channel = self.channels.get_mut(&id).expect("a channel takes its timers with it");
        if let Some(copy) = channel.deferred.remove(&message) {
            channel.wait(Waiting { key: copy.key, attempts: copy.attempts }, &self.store);
        } else {
            let copy = channel.in_flight.remove(&message).expect("each timer has its copy");
            channel.timeout_count += 1;
            channel.note_requeued(message, copy.attempts, None, &mut self.store);
            channel.wait(Waiting { key: copy.key, attempts: copy.attempts }, &self.store);
            if let Some(session) = self.sessions.get_mut(copy.session) {
                session.in_flight -= 1;
                channel.line_up(copy.session, &mut self.sessions);
            }
        }
        channel.pump(&mut self.store, &mut self.sessions, now);
    }
}

impl Channel {
    /// A session gets in line, if it has room and does not stand there.
    pub(super) fn line_up(&mut self, id: SessionId, sessions: &mut Sessions) {
        let Some(session) = sessions.get_mut(id) else { return };
        if session.has_room() && !session.in_line {
            session.in_line = true;
            self.line.push_back(id);
        }
    }

    /// Sends what waits, as long as somebody has room.
    pub(super) fn pump(&mut self, store: &mut Store, sessions: &mut Sessions, now: Now) {
        while !self.paused && !self.queue.is_empty() {
            let Some(id) = self.line.pop_front() else { return };
            let session = sessions.get_mut(id).expect("who leaves leaves the line");
            session.in_line = false;
            if session.has_room() {
                let waiting = self.next(store).expect("the queue is not empty");
                self.send(waiting, id, session, store, now);
                sessions.wake(id);
                self.line_up(id, sessions);
            }
        }
    }

    fn send(&mut self, waiting: Waiting, id: SessionId, session: &mut Session, store: &mut Store, now: Now) {
        let message = store.messages.get(waiting.key);
        let (number, timestamp) = (message.id, message.timestamp);
        if session.skips() {
            self.note_finished(number, store);
            return store.release(waiting.key);
        }
        let body = match store.messages.body(waiting.key, &mut *store.log) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!("cannot read a message of {} from the log: {error}", self.topic);
                return self.defer(waiting.key, waiting.attempts, now.due_in(UNREADABLE), store, now);
            }
        };
        // nsqd's count wraps around, too
        let attempts = waiting.attempts.wrapping_add(1);
        Frame::encode_message(timestamp, attempts, &to_wire(number), &body, &mut session.outbox);
        session.in_flight += 1;
        session.message_count += 1;
        let deadline = now.after(session.settings.msg_timeout);
        store.timers.insert((deadline, self.id, number));
        let copy = InFlight { key: waiting.key, attempts, session: id, delivered: now.at, deadline };
        self.in_flight.insert(number, copy);
    }

    pub(super) fn note_finished(&self, message: u64, store: &mut Store) {
        if self.is_logged() {
            store.note(&Change::Finished(self.id, message));
        }
    }

    pub(super) fn note_requeued(&self, message: u64, attempts: u16, due: Option<u64>, store: &mut Store) {
        if self.is_logged() {
            store.note(&Change::Requeued(self.id, message, attempts, due));
        }
    }
}

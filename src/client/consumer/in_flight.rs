//! The messages that one connection has delivered and that are not yet answered. Pure.
//!
//! A message whose time ran out while it is being handled (this process was frozen, say) may be delivered again to the same connection. It is
//! the same message, and it is being worked on: the copy is held, and not handed out. The handler's answer is then the copy's. Success
//! finishes it: the work is done. A failure never does: the copy goes back to the queue, and counts as untried.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use crate::proto::{Message, MessageId};

/// What is in flight on one connection.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    messages: HashMap<MessageId, InFlightMessage>,
}

#[derive(Debug)]
struct InFlightMessage {
    /// The attempt that was handed out.
    attempts: u16,
    /// The newest attempt, which nsqd has in flight.
    newest: u16,
    /// How many copies came after the one that was handed out.
    copies: u16,
    timestamp: i64,
    /// When nsqd last gave it more time: at its delivery, or at a TOUCH.
    fresh: Instant,
}

/// What a delivery is to this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Not here yet.
    New,
    /// Another message of the same id, which takes the place of the one before.
    Replaces,
    /// A later attempt of a message that is being worked on here: not to be handed out.
    Copy,
}

/// A message that was answered for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) timestamp: i64,
    /// How many copies came meanwhile, which nobody tried.
    pub(super) copies: u16,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// A message arrived.
    pub(super) fn arrived(&mut self, message: &Message, now: Instant) -> Arrival {
        let Message { attempts, timestamp, .. } = *message;
        let attempt = InFlightMessage { attempts, newest: attempts, copies: 0, timestamp, fresh: now };
        match self.messages.entry(message.id) {
            Entry::Vacant(place) => {
                place.insert(attempt);
                Arrival::New
            }
            Entry::Occupied(mut held) if held.get().is_followed_by(message) => {
                let held = held.get_mut();
                (held.newest, held.copies, held.fresh) = (attempts, held.copies.saturating_add(1), now);
                Arrival::Copy
            }
            Entry::Occupied(mut held) => {
                held.insert(attempt);
                Arrival::Replaces
            }
        }
    }

    /// A message is answered for good. `None`, and nothing is to be said, if this attempt is not held (any more).
    pub(super) fn answered(&mut self, id: MessageId, attempts: u16) -> Option<Settled> {
        match self.messages.entry(id) {
            Entry::Occupied(held) if held.get().attempts == attempts => {
                let InFlightMessage { timestamp, copies, .. } = held.remove();
                Some(Settled { timestamp, copies })
            }
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        }
    }

    /// A message is touched. False, and nothing is to be said, if this attempt is not held.
    pub(super) fn touched(&mut self, id: MessageId, attempts: u16, now: Instant) -> bool {
        let held = self.messages.get_mut(&id).filter(|held| held.attempts == attempts);
        held.map(|held| held.fresh = now).is_some()
    }

    /// The messages that were not fresh for `age`; they are from now on, as the caller touches them.
    pub(super) fn stale(&mut self, age: Duration, now: Instant) -> Vec<MessageId> {
        let old = self.messages.iter_mut().filter(|(_, held)| now.saturating_duration_since(held.fresh) >= age);
        old.map(|(id, held)| {
            held.fresh = now;
            *id
        })
        .collect()
    }
}

impl InFlightMessage {
    /// True if `message` is this one, at a later attempt. An nsqd that started anew may give an id again, with another time.
    fn is_followed_by(&self, message: &Message) -> bool {
        self.timestamp == message.timestamp && self.newest != message.attempts
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(attempts: u16) -> Message {
        Message { timestamp: 0, attempts, id: MessageId(*b"0123456789abcdef"), body: Bytes::new() }
    }

    #[test]
    fn a_copy_of_what_is_being_worked_on_is_answered_with_it() {
        let (mut held, now) = (InFlight::default(), Instant::now());
        assert_eq!(held.arrived(&message(1), now), Arrival::New);
        for copy in [2, 3] {
            assert_eq!(held.arrived(&message(copy), now), Arrival::Copy);
            assert_eq!(held.len(), 1);
        }
        let id = message(1).id;
        assert_eq!(held.answered(id, 3), None, "it was never handed out");
        assert!(held.touched(id, 1, now), "whoever works on it may ask for time");
        assert_eq!(held.answered(id, 1), Some(Settled { timestamp: 0, copies: 2 }));
        assert_eq!(held.answered(id, 1), None, "answered once only");
        assert!(held.is_empty());
    }

    #[test]
    fn another_message_of_the_same_id_is_not_finished_by_the_answer_of_the_first() {
        let (mut held, now) = (InFlight::default(), Instant::now());
        let other = Message { timestamp: 1, ..message(2) };
        held.arrived(&message(1), now);
        assert_eq!(held.arrived(&other, now), Arrival::Replaces);
        assert_eq!(held.answered(other.id, 1), None);
        assert_eq!(held.answered(other.id, 2), Some(Settled { timestamp: 1, copies: 0 }));
    }

    #[test]
    fn only_what_grew_old_is_touched_and_then_it_is_fresh() {
        let (mut held, start) = (InFlight::default(), Instant::now());
        held.arrived(&message(1), start);
        let age = Duration::from_secs(15);
        assert!(held.stale(age, start + age / 2).is_empty());
        assert_eq!(held.stale(age, start + age).len(), 1);
        assert!(held.stale(age, start + age * 3 / 2).is_empty());
    }
}

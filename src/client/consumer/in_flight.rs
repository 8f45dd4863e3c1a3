//! The messages in flight on one connection. Pure.
//!
//! A message that times out while it is being handled (because this process was frozen, say) may be
//! redelivered on the same connection. The copy is held back, and the handler's result decides
//! about it: success finishes it, since the work is done; a failure requeues it, and the copy
//! counts as untried.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use tokio::time::Instant;

use crate::proto::{Message, MessageId};

/// The limit of copies of one message. nsqd sends one for each message timeout, at most for as long
/// as a frozen client stays connected.
pub(super) const MAX_COPIES: u16 = 1000;
/// The limit, for one connection, of messages with the id of a message in flight that are no later
/// attempts of it. nsqd sends none.
const MAX_REPEATS: u32 = 16;

/// The messages in flight on one connection.
#[derive(Debug, Default)]
pub(super) struct InFlightMessages {
    messages: HashMap<MessageId, InFlightEntry>,
    /// The number of messages so far with the id of a message in flight that were no later
    /// attempts.
    repeats: u32,
}

#[derive(Debug)]
struct InFlightEntry {
    /// The attempt that was delivered to the application.
    attempts: u16,
    /// The latest attempt, which nsqd has in flight.
    newest: u16,
    /// The number of copies that arrived after the delivered attempt.
    copies: u16,
    timestamp: i64,
    /// The time of the last delivery or TOUCH, which reset the timeout.
    fresh: Instant,
}

/// The relation of an arriving message to those in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A message that is not in flight here.
    New,
    /// Another message with the same id, which replaces the earlier one.
    Replaces,
    /// A redelivery or a repeat of a message that is being handled here; it is not delivered again.
    Copy,
    /// One copy or repeat too many: nsqd violates the protocol.
    Excess,
}

/// A message with a final reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AnsweredMessage {
    pub(super) timestamp: i64,
    /// The number of copies that arrived meanwhile and were not tried.
    pub(super) copies: u16,
}

impl InFlightMessages {
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Registers an arriving message.
    pub(super) fn arrived(&mut self, message: &Message, now: Instant) -> Arrival {
        let Message { attempts, timestamp, .. } = *message;
        let attempt = InFlightEntry { attempts, newest: attempts, copies: 0, timestamp, fresh: now };
        let mut held = match self.messages.entry(message.id) {
            Entry::Vacant(place) => {
                place.insert(attempt);
                return Arrival::New;
            }
            Entry::Occupied(held) => held,
        };
        let is_same = held.get().timestamp == timestamp;
        if is_same && held.get().newest != attempts {
            let held = held.get_mut();
            (held.newest, held.copies, held.fresh) = (attempts, held.copies.saturating_add(1), now);
            return if held.copies > MAX_COPIES { Arrival::Excess } else { Arrival::Copy };
        }
        self.repeats += 1;
        if self.repeats > MAX_REPEATS {
            return Arrival::Excess;
        }
        if is_same {
            return Arrival::Copy;
        }
        // a restarted nsqd may assign an id again, with another timestamp
        held.insert(attempt);
        Arrival::Replaces
    }

    /// Removes a message with a final reply; `None` if this attempt is not (or no longer) in
    /// flight, and then no reply may be sent.
    pub(super) fn answered(&mut self, id: MessageId, attempts: u16) -> Option<AnsweredMessage> {
        match self.messages.entry(id) {
            Entry::Occupied(held) if held.get().attempts == attempts => {
                let InFlightEntry { timestamp, copies, .. } = held.remove();
                Some(AnsweredMessage { timestamp, copies })
            }
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        }
    }

    /// Registers a TOUCH; false if this attempt is not in flight, and then no TOUCH may be sent.
    pub(super) fn touched(&mut self, id: MessageId, attempts: u16, now: Instant) -> bool {
        let held = self.messages.get_mut(&id).filter(|held| held.attempts == attempts);
        held.map(|held| held.fresh = now).is_some()
    }

    /// The messages whose timeout was last reset at least `age` ago. They count as touched now,
    /// since the caller touches them.
    pub(super) fn take_stale(&mut self, age: Duration, now: Instant) -> Vec<MessageId> {
        let old = self.messages.iter_mut().filter(|(_, held)| now.saturating_duration_since(held.fresh) >= age);
        old.map(|(id, held)| {
            held.fresh = now;
            *id
        })
        .collect()
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
    fn a_redelivered_copy_is_held_back_and_answered_with_the_first() {
        let (mut held, now) = (InFlightMessages::default(), Instant::now());
        assert_eq!(held.arrived(&message(1), now), Arrival::New);
        for copy in [2, 3] {
            assert_eq!(held.arrived(&message(copy), now), Arrival::Copy);
            assert_eq!(held.len(), 1);
        }
        let id = message(1).id;
        assert_eq!(held.answered(id, 3), None, "it was never handed out");
        assert!(held.touched(id, 1, now), "whoever works on it may ask for time");
        assert_eq!(held.answered(id, 1), Some(AnsweredMessage { timestamp: 0, copies: 2 }));
        assert_eq!(held.answered(id, 1), None, "answered once only");
        assert!(held.is_empty());
    }

    #[test]
    fn a_reply_does_not_finish_another_message_with_the_same_id() {
        let (mut held, now) = (InFlightMessages::default(), Instant::now());
        let other = Message { timestamp: 1, ..message(2) };
        held.arrived(&message(1), now);
        assert_eq!(held.arrived(&other, now), Arrival::Replaces);
        assert_eq!(held.answered(other.id, 1), None);
        assert_eq!(held.answered(other.id, 2), Some(AnsweredMessage { timestamp: 1, copies: 0 }));
    }

    #[test]
    fn a_repeated_attempt_is_held_back_and_many_are_too_many() {
        let (mut held, now) = (InFlightMessages::default(), Instant::now());
        held.arrived(&message(1), now);
        for _ in 0..MAX_REPEATS {
            assert_eq!(held.arrived(&message(1), now), Arrival::Copy);
        }
        assert_eq!(held.arrived(&message(1), now), Arrival::Excess);
        assert_eq!(held.answered(message(1).id, 1), Some(AnsweredMessage { timestamp: 0, copies: 0 }));
        held.arrived(&message(1), now);
        let other = Message { timestamp: 1, ..message(1) };
        assert_eq!(held.arrived(&other, now), Arrival::Excess, "repeats count for the connection");
    }

    #[test]
    fn the_copies_of_a_message_are_limited() {
        let (mut held, now) = (InFlightMessages::default(), Instant::now());
        held.arrived(&message(1), now);
        for copy in 2..=1 + MAX_COPIES {
            assert_eq!(held.arrived(&message(copy), now), Arrival::Copy);
        }
        assert_eq!(held.arrived(&message(2 + MAX_COPIES), now), Arrival::Excess);
    }

    #[test]
    fn only_messages_not_touched_recently_are_touched() {
        let (mut held, start) = (InFlightMessages::default(), Instant::now());
        held.arrived(&message(1), start);
        let age = Duration::from_secs(15);
        assert!(held.take_stale(age, start + age / 2).is_empty());
        assert_eq!(held.take_stale(age, start + age).len(), 1);
        assert!(held.take_stale(age, start + age * 3 / 2).is_empty());
    }
}

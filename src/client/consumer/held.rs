//! The messages that one connection has delivered and that are not yet answered. Pure.
//!
//! A message whose time ran out may be delivered again to the same connection while its first handler still runs. nsqd cannot tell
//! the two apart (a FIN names only the id), so the first one's answer would finish the second. Here they differ by their
//! attempt: the newest is held, and the answer of an older one is not sent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use crate::proto::{Message, MessageId};

/// What is in flight on one connection.
#[derive(Debug, Default)]
pub(super) struct Held {
    messages: HashMap<MessageId, Attempt>,
}

#[derive(Debug)]
struct Attempt {
    attempts: u16,
    /// When nsqd last gave it more time: at its delivery, or at a TOUCH.
    fresh: Instant,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// A message arrived. True if it takes the place of an earlier attempt, whose time ran out.
    pub(super) fn arrived(&mut self, message: &Message, now: Instant) -> bool {
        let attempt = Attempt { attempts: message.attempts, fresh: now };
        self.messages.insert(message.id, attempt).is_some()
    }

    /// A message is answered for good. False, and nothing is to be said, if this attempt is not held (any more).
    pub(super) fn answered(&mut self, id: MessageId, attempts: u16) -> bool {
        match self.messages.entry(id) {
            Entry::Occupied(held) if held.get().attempts == attempts => {
                held.remove();
                true
            }
            Entry::Occupied(_) | Entry::Vacant(_) => false,
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(attempts: u16) -> Message {
        Message { timestamp: 0, attempts, id: MessageId(*b"0123456789abcdef"), body: Bytes::new() }
    }

    #[test]
    fn a_late_answer_does_not_finish_the_redelivery() {
        let (mut held, now) = (Held::default(), Instant::now());
        let (first, second) = (message(1), message(2));
        assert!(!held.arrived(&first, now));
        assert!(held.arrived(&second, now));
        assert!(!held.answered(first.id, first.attempts));
        assert!(held.answered(second.id, second.attempts));
        assert!(!held.answered(second.id, second.attempts), "answered once only");
        assert!(held.is_empty());
    }

    #[test]
    fn only_what_grew_old_is_touched_and_then_it_is_fresh() {
        let (mut held, start) = (Held::default(), Instant::now());
        held.arrived(&message(1), start);
        let age = Duration::from_secs(15);
        assert!(held.stale(age, start + age / 2).is_empty());
        assert_eq!(held.stale(age, start + age).len(), 1);
        assert!(held.stale(age, start + age * 3 / 2).is_empty());
    }
}

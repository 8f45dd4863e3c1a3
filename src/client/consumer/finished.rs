//! The messages of one nsqd that this consumer finished last. Pure.
//!
//! A process that was frozen finds several copies of a message in its socket, one for each timeout;
//! a lost connection may lose a FIN. Such copies are answered with FIN and not handled again. Only
//! redelivered messages are looked up.

use crate::proto::{Message, MessageId};

/// The capacity of the ring.
const CAPACITY: usize = 2_048;

/// A ring of finished messages. The timestamp distinguishes messages with the same id, which a
/// restarted nsqd may assign again.
#[derive(Debug, Default)]
pub(super) struct RecentlyFinished {
    messages: Vec<FinishedMessage>,
    /// The index of the oldest entry once the ring is full.
    oldest: usize,
}

#[derive(Debug)]
struct FinishedMessage {
    timestamp: i64,
    id: MessageId,
    /// The number of copies that arrived since.
    copies: u16,
}

impl RecentlyFinished {
    /// Records a finished message.
    pub(super) fn add(&mut self, timestamp: i64, id: MessageId) {
        let message = FinishedMessage { timestamp, id, copies: 0 };
        if self.messages.len() < CAPACITY {
            return self.messages.push(message);
        }
        self.messages[self.oldest] = message;
        self.oldest = (self.oldest + 1) % CAPACITY;
    }

    /// Registers an arriving message: the number of copies so far if it is a redelivery of a
    /// finished message, otherwise `None`.
    pub(super) fn arrived(&mut self, message: &Message) -> Option<u16> {
        if message.attempts <= 1 {
            return None;
        }
        let is_it =
            |finished: &&mut FinishedMessage| (finished.timestamp, finished.id) == (message.timestamp, message.id);
        let finished = self.messages.iter_mut().find(is_it)?;
        finished.copies = finished.copies.saturating_add(1);
        Some(finished.copies)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(number: usize, attempts: u16) -> Message {
        let id = MessageId::from_slice(format!("{number:016x}").as_bytes()).unwrap();
        Message { timestamp: number as i64, attempts, id, body: Bytes::new() }
    }

    #[test]
    fn only_redeliveries_of_a_finished_message_are_copies() {
        let mut finished = RecentlyFinished::default();
        finished.add(7, message(7, 1).id);
        assert_eq!([2, 3].map(|attempts| finished.arrived(&message(7, attempts))), [Some(1), Some(2)]);
        assert_eq!(finished.arrived(&message(7, 1)), None, "a first attempt is no copy");
        assert_eq!(finished.arrived(&message(8, 2)), None);
        let other = Message { timestamp: 8, ..message(7, 2) };
        assert_eq!(finished.arrived(&other), None, "the id was given to another message");
    }

    #[test]
    fn the_last_finished_messages_are_known_and_memory_is_bounded() {
        let mut finished = RecentlyFinished::default();
        for number in 0..3 * CAPACITY + 5 {
            finished.add(number as i64, message(number, 1).id);
        }
        let known = (0..3 * CAPACITY + 5).filter(|number| finished.arrived(&message(*number, 2)).is_some());
        assert_eq!(known.collect::<Vec<_>>(), (2 * CAPACITY + 5..3 * CAPACITY + 5).collect::<Vec<_>>());
        assert_eq!(finished.messages.len(), CAPACITY);
    }
}

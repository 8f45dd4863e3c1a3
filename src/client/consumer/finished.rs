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
    messages: Vec<(i64, MessageId)>,
    /// The index of the oldest entry once the ring is full.
    oldest: usize,
}

impl RecentlyFinished {
    /// Records a finished message.
    pub(super) fn add(&mut self, timestamp: i64, id: MessageId) {
        if self.messages.len() < CAPACITY {
            return self.messages.push((timestamp, id));
        }
        self.messages[self.oldest] = (timestamp, id);
        self.oldest = (self.oldest + 1) % CAPACITY;
    }

    /// True if `message` is a redelivery of a finished message.
    pub(super) fn contains(&self, message: &Message) -> bool {
        message.attempts > 1 && self.messages.contains(&(message.timestamp, message.id))
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
        assert!(finished.contains(&message(7, 2)));
        assert!(!finished.contains(&message(7, 1)), "a first attempt is no copy");
        assert!(!finished.contains(&message(8, 2)));
        assert!(!finished.contains(&Message { timestamp: 8, ..message(7, 2) }), "the id was given to another message");
    }

    #[test]
    fn the_last_finished_messages_are_known_and_memory_is_bounded() {
        let mut finished = RecentlyFinished::default();
        for number in 0..3 * CAPACITY + 5 {
            finished.add(number as i64, message(number, 1).id);
        }
        let known = (0..3 * CAPACITY + 5).filter(|number| finished.contains(&message(*number, 2)));
        assert_eq!(known.collect::<Vec<_>>(), (2 * CAPACITY + 5..3 * CAPACITY + 5).collect::<Vec<_>>());
        assert_eq!(finished.messages.len(), CAPACITY);
    }
}

//! Copies of a topic's messages in its channels, so that a message that several channels have is
//! stored once. A copy takes 32 bytes.

use super::queue_file::MessageHead;

/// Properties by which nsqd's copies of one message are known.
type MessageKey = (u64, i64, u32);

/// A channel's copy of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexedCopy {
    head: MessageHead,
    /// The index of the channel in the topic's list.
    pub(super) channel: u32,
    /// True if the message was written to the log.
    is_written: bool,
}

impl IndexedCopy {
    fn key(&self) -> MessageKey {
        key(&self.head)
    }

    /// The number of deliveries.
    pub(super) fn attempts(&self) -> u16 {
        self.head.attempts
    }
}

fn key(head: &MessageHead) -> MessageKey {
    (head.id, head.timestamp, head.length)
}

/// Index of a topic's copies, built first and then read.
#[derive(Debug, Default)]
pub(super) struct CopyIndex(Vec<IndexedCopy>);

impl CopyIndex {
    pub(super) fn add(&mut self, channel: u32, head: MessageHead) {
        self.0.push(IndexedCopy { head, channel, is_written: false });
    }

    /// Sorts the copies. A message that a killed nsqd left twice in one queue counts once.
    pub(super) fn sort(&mut self) {
        let of_channel = |copy: &IndexedCopy| (copy.key(), copy.channel);
        self.0.sort_unstable_by_key(|copy| (of_channel(copy), std::cmp::Reverse(copy.head.attempts)));
        self.0.dedup_by_key(|copy| of_channel(copy));
    }

    /// The copies of a message, unless they were written.
    pub(super) fn unwritten(&self, head: &MessageHead) -> Option<&[IndexedCopy]> {
        let begin = self.0.partition_point(|copy| copy.key() < key(head));
        let copies = self.0[begin..].split(|copy| copy.key() != key(head)).next()?;
        copies.first().is_some_and(|copy| !copy.is_written).then_some(copies)
    }

    /// Marks the copies of a message as written.
    pub(super) fn set_written(&mut self, head: &MessageHead) {
        let begin = self.0.partition_point(|copy| copy.key() < key(head));
        let copies = self.0[begin..].iter_mut().take_while(|copy| copy.key() == key(head));
        copies.for_each(|copy| copy.is_written = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_message_are_found_together_until_they_are_written() {
        let head = |id, timestamp, attempts| MessageHead { id, timestamp, attempts, length: 1 };
        let mut index = CopyIndex::default();
        for (channel, head) in [
            (1, head(7, 1, 0)),
            (0, head(7, 1, 3)),
            (0, head(7, 2, 0)),
            (0, head(7, 1, 4)),
            (0, head(6, 1, 0)),
            (1, head(8, 1, 0)),
        ] {
            index.add(channel, head);
        }
        index.sort();
        let found = |index: &CopyIndex, head| {
            let copies = index.unwritten(&head).into_iter().flatten();
            copies.map(|copy| (copy.channel, copy.attempts())).collect::<Vec<_>>()
        };
        assert_eq!(found(&index, head(7, 1, 0)), [(0, 4), (1, 0)]);
        index.set_written(&head(7, 1, 9));
        assert_eq!(found(&index, head(7, 1, 0)), []);
        assert_eq!(found(&index, head(7, 2, 0)), [(0, 0)], "another message, if a clock was set back");
        assert_eq!((found(&index, head(8, 1, 0)), found(&index, head(9, 1, 0))), (vec![(1, 0)], vec![]));
        assert_eq!(size_of::<IndexedCopy>(), 32);
    }
}

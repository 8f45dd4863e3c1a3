//! Blocks of messages, pure: their heads and contents.
//!
//! ```text
//!  ┌──────────┬────────────┬──────────┬───────────┬───────────┬──────────┬─────────┬──────────┬──────────┐
//!  │ mark (4) │ stored (4) │ size (4) │ count (4) │ first (8) │ last (8) │ crc (4) │ head (4) │ contents │
//!  └──────────┴────────────┴──────────┴───────────┴───────────┴──────────┴─────────┴──────────┴──────────┘
//!    stored: bytes of the contents, compressed; size: uncompressed; first, last: publish times;
//!    crc: of the contents as stored; head: crc of the 36 bytes before; both start from the salt
//! ```

use bytes::{Buf, Bytes};
use mqueue::proto::{Message, MessageId};

use super::index::TimeRange;

/// Bytes of a block's head.
pub(super) const BLOCK_HEAD: usize = 40;
/// The first bytes of a block.
pub(super) const BLOCK_MARK: [u8; 4] = *b"mqb\x01";
/// The limit on the bytes of a block, compressed or not: a message has at most 256 MiB.
pub(super) const MAX_BLOCK: u32 = 320 << 20;

/// The head of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub(super) stored: u32,
    pub(super) size: u32,
    pub(super) count: u32,
    pub(super) times: TimeRange,
    pub(super) crc: u32,
}

/// Computes the CRC-32 of bytes, from a salt.
pub(super) fn salted_crc(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

impl BlockHead {
    /// Writes the head.
    pub(super) fn encode(&self, salt: u32) -> [u8; BLOCK_HEAD] {
        let mut head = Vec::with_capacity(BLOCK_HEAD);
        head.extend_from_slice(&BLOCK_MARK);
        for number in [self.stored, self.size, self.count] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        for time in [self.times.first, self.times.last] {
            head.extend_from_slice(&time.to_le_bytes());
        }
        head.extend_from_slice(&self.crc.to_le_bytes());
        let crc = salted_crc(salt, &head);
        head.extend_from_slice(&crc.to_le_bytes());
        head.try_into().expect("all fields have fixed sizes")
    }

    /// Reads a head; `None` if the bytes are none.
    pub(super) fn decode(salt: u32, bytes: &[u8]) -> Option<Self> {
        let head = bytes.get(..BLOCK_HEAD)?;
        let (mut fields, mut crc) = head.split_at(BLOCK_HEAD - 4);
        if !fields.starts_with(&BLOCK_MARK) || salted_crc(salt, fields) != crc.get_u32_le() {
            return None;
        }
        fields.advance(BLOCK_MARK.len());
        let (stored, size, count) = (fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le());
        let times = TimeRange { first: fields.get_i64_le(), last: fields.get_i64_le() };
        let head = Self { stored, size, count, times, crc: fields.get_u32_le() };
        (stored <= MAX_BLOCK && size <= MAX_BLOCK && times.first <= times.last).then_some(head)
    }
}

/// Unpacks the contents of a block; `Err` says why they cannot be used.
pub(super) fn unpack(head: &BlockHead, salt: u32, stored: &[u8]) -> Result<Vec<Message>, &'static str> {
    if salted_crc(salt, stored) != head.crc {
        return Err("wrong checksum");
    }
    let contents = zstd::bulk::decompress(stored, head.size as usize).map_err(|_| "it cannot be unpacked")?;
    if contents.len() != head.size as usize {
        return Err("wrong size");
    }
    messages(Bytes::from(contents), head.count).ok_or("its messages do not fit its size")
}

fn messages(mut contents: Bytes, count: u32) -> Option<Vec<Message>> {
    // the count may be wrong: memory is taken for messages that are there
    let mut messages = Vec::with_capacity((count as usize).min(contents.len() / super::MESSAGE_HEAD));
    for _ in 0..count {
        if contents.len() < super::MESSAGE_HEAD {
            return None;
        }
        let (timestamp, attempts) = (contents.get_i64_le(), contents.get_u16_le());
        let id = MessageId::from_slice(&contents.split_to(MessageId::LENGTH))?;
        let length = contents.get_u32_le() as usize;
        if contents.len() < length {
            return None;
        }
        messages.push(Message { timestamp, attempts, id, body: contents.split_to(length) });
    }
    contents.is_empty().then_some(messages)
}

#[cfg(test)]
mod tests {
    use super::super::add_message;
    use super::*;

    fn message(timestamp: i64, body: &[u8]) -> Message {
        Message { timestamp, attempts: 3, id: MessageId(*b"0123456789abcdef"), body: Bytes::copy_from_slice(body) }
    }

    fn block(messages: &[Message], salt: u32) -> (BlockHead, Vec<u8>) {
        let mut contents = Vec::new();
        messages.iter().for_each(|message| add_message(message, &mut contents));
        let stored = zstd::bulk::compress(&contents, 3).unwrap();
        let head = BlockHead {
            stored: stored.len() as u32,
            size: contents.len() as u32,
            count: messages.len() as u32,
            times: TimeRange { first: -5, last: 9 },
            crc: salted_crc(salt, &stored),
        };
        (head, stored)
    }

    #[test]
    fn messages_are_read_byte_for_byte() {
        let written = [message(9, b"one"), message(-5, b"\0\xff\n"), message(0, &[7; 100_000])];
        let (head, stored) = block(&written, 77);
        assert_eq!(BlockHead::decode(77, &head.encode(77)), Some(head));
        assert_eq!(unpack(&head, 77, &stored).unwrap(), written);
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let (head, stored) = block(&[message(9, b"one"), message(-5, b"two")], 77);
        let bytes = head.encode(77);
        assert_eq!(BlockHead::decode(78, &bytes), None, "another segment's salt");
        assert_eq!(BlockHead::decode(77, &bytes[1..]), None);
        for at in 0..BLOCK_HEAD {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(BlockHead::decode(77, &damaged), None, "byte {at}");
        }
        for at in 0..stored.len() {
            let mut damaged = stored.clone();
            damaged[at] ^= 1;
            assert!(unpack(&head, 77, &damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn sizes_and_counts_that_do_not_fit_are_refused() {
        let (head, stored) = block(&[message(9, b"one"), message(-5, b"two")], 0);
        for wrong in [
            BlockHead { count: 1, ..head },
            BlockHead { count: u32::MAX, ..head },
            BlockHead { size: head.size - 1, ..head },
            BlockHead { size: head.size + 1, ..head },
        ] {
            assert!(unpack(&wrong, 0, &stored).is_err(), "{wrong:?}");
        }
        let backwards = BlockHead { times: TimeRange { first: 1, last: 0 }, ..head };
        assert_eq!(BlockHead::decode(0, &backwards.encode(0)), None);
        let huge = BlockHead { size: MAX_BLOCK + 1, ..head };
        assert_eq!(BlockHead::decode(0, &huge.encode(0)), None, "no memory is taken for it");
    }
}

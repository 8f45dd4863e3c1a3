//! The index of a finished segment, pure: places and times of its blocks, and the segment's end.
//!
//! ```text
//!  for each block:  offset (8) │ bytes (4) │ count (4) │ first (8) │ last (8)
//!  the end:         index at (8) │ blocks (4) │ messages (8) │ first (8) │ last (8) │
//!                   crc of the index (4) │ mark (4) │ crc of the 44 bytes before (4)
//! ```

use bytes::Buf;

use super::block::salted_crc;

/// Bytes of an entry.
const ENTRY: usize = 32;
/// Bytes of a segment's end.
pub(super) const SEGMENT_END: usize = 48;
/// The mark in a segment's end.
const END_MARK: [u8; 4] = *b"mqe\x01";

/// A range of publish times, in nanoseconds since 1970, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeRange {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

impl TimeRange {
    /// A range that has every time.
    pub(crate) const ALL: Self = Self { first: i64::MIN, last: i64::MAX };

    /// Returns the range of one time.
    pub(crate) fn of(time: i64) -> Self {
        Self { first: time, last: time }
    }

    /// Returns the smallest range that has both.
    pub(crate) fn with(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// Returns true if the ranges have a time in common.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Returns true if the time is in the range.
    pub(crate) fn has(self, time: i64) -> bool {
        self.meets(Self::of(time))
    }
}

/// The place of a block in its segment, and the publish times of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    pub(crate) offset: u64,
    /// Bytes of the block, its head included.
    pub(crate) bytes: u32,
    /// Number of messages.
    pub(crate) count: u32,
    pub(crate) times: TimeRange,
}

/// The end of a finished segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentEnd {
    pub(super) index_at: u64,
    pub(super) blocks: u32,
    pub(super) messages: u64,
    pub(super) times: TimeRange,
    pub(super) index_crc: u32,
}

/// Writes the index of these blocks, which begins at `index_at`, and the segment's end.
pub(super) fn encode(blocks: &[BlockPlace], index_at: u64, salt: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks.len() * ENTRY + SEGMENT_END);
    for block in blocks {
        bytes.extend_from_slice(&block.offset.to_le_bytes());
        bytes.extend_from_slice(&block.bytes.to_le_bytes());
        bytes.extend_from_slice(&block.count.to_le_bytes());
        bytes.extend_from_slice(&block.times.first.to_le_bytes());
        bytes.extend_from_slice(&block.times.last.to_le_bytes());
    }
    let index_crc = salted_crc(salt, &bytes);
    let times = blocks.iter().map(|block| block.times).reduce(TimeRange::with).unwrap_or(TimeRange::of(0));
    let messages: u64 = blocks.iter().map(|block| u64::from(block.count)).sum();
    let mut end = Vec::with_capacity(SEGMENT_END);
    end.extend_from_slice(&index_at.to_le_bytes());
    end.extend_from_slice(&u32::try_from(blocks.len()).expect("a segment is far smaller").to_le_bytes());
    end.extend_from_slice(&messages.to_le_bytes());
    end.extend_from_slice(&times.first.to_le_bytes());
    end.extend_from_slice(&times.last.to_le_bytes());
    end.extend_from_slice(&index_crc.to_le_bytes());
    end.extend_from_slice(&END_MARK);
    let crc = salted_crc(salt, &end);
    end.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&end);
    bytes
}

/// Reads the end of a segment of `length` bytes; `None` if the bytes are none.
pub(super) fn decode_end(bytes: &[u8], length: u64, salt: u32) -> Option<SegmentEnd> {
    if bytes.len() != SEGMENT_END {
        return None;
    }
    let (mut fields, mut crc) = bytes.split_at(SEGMENT_END - 4);
    if !fields.ends_with(&END_MARK) || salted_crc(salt, fields) != crc.get_u32_le() {
        return None;
    }
    let (index_at, blocks, messages) = (fields.get_u64_le(), fields.get_u32_le(), fields.get_u64_le());
    let times = TimeRange { first: fields.get_i64_le(), last: fields.get_i64_le() };
    let end = SegmentEnd { index_at, blocks, messages, times, index_crc: fields.get_u32_le() };
    let expected = u64::from(blocks) * ENTRY as u64 + SEGMENT_END as u64;
    (index_at.checked_add(expected)? == length).then_some(end)
}

/// Reads the index before `end`; `None` if it is damaged.
pub(super) fn decode_entries(end: &SegmentEnd, mut bytes: &[u8], salt: u32) -> Option<Vec<BlockPlace>> {
    if bytes.len() != end.blocks as usize * ENTRY || salted_crc(salt, bytes) != end.index_crc {
        return None;
    }
    let mut blocks = Vec::with_capacity(end.blocks as usize);
    while bytes.has_remaining() {
        let (offset, length, count) = (bytes.get_u64_le(), bytes.get_u32_le(), bytes.get_u32_le());
        let times = TimeRange { first: bytes.get_i64_le(), last: bytes.get_i64_le() };
        blocks.push(BlockPlace { offset, bytes: length, count, times });
    }
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_as_it_was_written_and_damage_is_noticed() {
        let block = |n: u64| BlockPlace {
            offset: 100 + n * 50,
            bytes: 50,
            count: n as u32,
            times: TimeRange { first: -(n as i64), last: 10 * n as i64 },
        };
        let blocks: Vec<BlockPlace> = (1..=20).map(block).collect();
        let bytes = encode(&blocks, 1150, 5);
        let length = 1150 + bytes.len() as u64;
        let (index, end) = bytes.split_at(bytes.len() - SEGMENT_END);
        let read = decode_end(end, length, 5).unwrap();
        assert_eq!((read.messages, read.times), (210, TimeRange { first: -20, last: 200 }));
        assert_eq!(decode_entries(&read, index, 5).unwrap(), blocks);
        assert_eq!(decode_end(end, length + 1, 5), None, "something was appended");
        for at in 0..end.len() {
            let mut damaged = end.to_vec();
            damaged[at] ^= 0x10;
            assert_eq!(decode_end(&damaged, length, 5), None, "byte {at}");
        }
        for at in 0..index.len() {
            let mut damaged = index.to_vec();
            damaged[at] ^= 0x10;
            assert_eq!(decode_entries(&read, &damaged, 5), None, "byte {at}");
        }
    }

    #[test]
    fn ranges_meet_at_their_ends() {
        let range = |first, last| TimeRange { first, last };
        assert!(range(1, 5).meets(range(5, 9)) && range(5, 9).meets(range(1, 5)) && range(1, 9).meets(range(3, 4)));
        assert!(!range(1, 4).meets(range(5, 9)) && range(5, 9).has(9) && !range(5, 9).has(10));
    }
}

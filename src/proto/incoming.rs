//! Room for bytes on their way in.

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};

/// Bytes that a read has room for where nothing is known of what comes.
const READ_SIZE: usize = 64 * 1024;
/// Below this much room (bytes) there is to be more.
const LITTLE_ROOM: usize = 4 * 1024;
/// An announced size alone allocates nothing: there is room for so many times of what is here, at most.
const AHEAD: usize = 8;

/// Where a read goes on behind what `buffer` has: the beginning of something of `length` bytes, where that is known by now.
///
/// What is large is read to its end and no further, so that it has its memory for itself, without a gap.
pub(crate) fn room(buffer: &mut BytesMut, length: Option<usize>) -> Limit<&mut BytesMut> {
    let here = buffer.len();
    let missing = length.filter(|length| *length >= READ_SIZE).and_then(|length| length.checked_sub(here));
    let most = missing.filter(|missing| *missing > 0).unwrap_or(usize::MAX);
    if buffer.capacity() - here < LITTLE_ROOM.min(most) {
        let ahead = if most == usize::MAX { 0 } else { (AHEAD - 1) * here };
        buffer.reserve(most.min(READ_SIZE.max(ahead)));
    }
    buffer.limit(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as much as there is room for; gives the bytes that each read got.
    fn read(buffer: &mut BytesMut, length: usize, mut from: usize) -> Vec<usize> {
        let mut reads = Vec::new();
        while from > 0 && buffer.len() < length {
            let known = (buffer.len() >= 4).then_some(length);
            let here = buffer.len();
            let mut room = room(buffer, known);
            let count = from.min(room.chunk_mut().len());
            room.put_bytes(b'x', count);
            assert!(buffer.capacity() <= READ_SIZE + AHEAD * here.max(READ_SIZE), "{} for {here}", buffer.capacity());
            from -= count;
            reads.push(count);
        }
        reads
    }

    #[test]
    fn what_is_large_has_its_memory_for_itself() {
        for length in [READ_SIZE, READ_SIZE + 1, 1_000_000, 5 << 20] {
            let mut buffer = BytesMut::new();
            let reads = read(&mut buffer, length, 8 << 20);
            assert_eq!(buffer.len(), length, "{reads:?}");
            assert!(reads.len() <= 4, "{reads:?}");
        }
    }

    #[test]
    fn what_is_small_is_read_with_what_follows() {
        let mut buffer = BytesMut::new();
        assert_eq!(read(&mut buffer, 300, 1 << 20), [READ_SIZE]);
        // what is whole already ends no read
        assert!(room(&mut buffer, Some(READ_SIZE)).has_remaining_mut());
    }
}

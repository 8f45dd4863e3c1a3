//! Buffer space for socket reads.

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};

/// Space in bytes for a read when the length of the incoming frame or command is unknown.
const READ_SIZE: usize = 64 * 1024;
/// Free space in bytes below which the buffer grows.
const MIN_ROOM: usize = 4 * 1024;
/// The buffer grows to at most this many times the received bytes, so an announced size alone
/// allocates nothing.
const MAX_GROWTH: usize = 8;

/// The space in `buffer` for the next read. `length` is the announced length of the incomplete
/// frame or command at the beginning of `buffer`, if known.
///
/// A large frame is read exactly to its end, so that it gets a contiguous buffer of its own.
pub(crate) fn read_room(buffer: &mut BytesMut, length: Option<usize>) -> Limit<&mut BytesMut> {
    let here = buffer.len();
    let missing = length.filter(|length| *length >= READ_SIZE).and_then(|length| length.checked_sub(here));
    let most = missing.filter(|missing| *missing > 0).unwrap_or(usize::MAX);
    if buffer.capacity() - here < MIN_ROOM.min(most) {
        let ahead = if most == usize::MAX { 0 } else { (MAX_GROWTH - 1) * here };
        buffer.reserve(most.min(READ_SIZE.max(ahead)));
    }
    buffer.limit(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as many bytes as there is space for; returns the size of each read.
    fn read(buffer: &mut BytesMut, length: usize, mut from: usize) -> Vec<usize> {
        let mut reads = Vec::new();
        while from > 0 && buffer.len() < length {
            let known = (buffer.len() >= 4).then_some(length);
            let here = buffer.len();
            let mut room = read_room(buffer, known);
            let count = from.min(room.chunk_mut().len());
            room.put_bytes(b'x', count);
            assert!(
                buffer.capacity() <= READ_SIZE + MAX_GROWTH * here.max(READ_SIZE),
                "{} for {here}",
                buffer.capacity()
            );
            from -= count;
            reads.push(count);
        }
        reads
    }

    #[test]
    fn large_frames_get_a_buffer_of_their_own() {
        for length in [READ_SIZE, READ_SIZE + 1, 1_000_000, 5 << 20] {
            let mut buffer = BytesMut::new();
            let reads = read(&mut buffer, length, 8 << 20);
            assert_eq!(buffer.len(), length, "{reads:?}");
            assert!(reads.len() <= 4, "{reads:?}");
        }
    }

    #[test]
    fn small_frames_are_read_with_the_bytes_after_them() {
        let mut buffer = BytesMut::new();
        assert_eq!(read(&mut buffer, 300, 1 << 20), [READ_SIZE]);
        // a complete frame does not limit the next read
        assert!(read_room(&mut buffer, Some(READ_SIZE)).has_remaining_mut());
    }
}

//! A buffer of bytes to send, which does not copy large bodies.
//!
//! Small pieces are copied together; a body of [`LARGE`] bytes or more is shared, and goes out by a
//! vectored write between its neighbours.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

/// The size in bytes from which a body is shared rather than copied.
const LARGE: usize = 8 * 1024;

/// A queue of bytes to write. It is a [`Buf`], so `write_buf` advances it by the bytes that the
/// socket accepted.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    /// Pieces in front of `tail`, in order.
    pieces: VecDeque<Bytes>,
    /// The sum of the pieces' lengths.
    pieces_length: usize,
    /// The last piece, to which small pieces are appended.
    tail: BytesMut,
}

impl WriteBuffer {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a copy of `bytes`.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Adds `bytes`; shares them if they are large.
    pub fn put_bytes(&mut self, bytes: &Bytes) {
        self.put_shared(bytes, 0..bytes.len());
    }

    /// Adds the range `part` of `bytes`; shares it if it is large.
    pub fn put_shared(&mut self, bytes: &Bytes, part: Range<usize>) {
        if part.len() < LARGE {
            return self.put_slice(&bytes[part]);
        }
        if !self.tail.is_empty() {
            let run = self.tail.split().freeze();
            self.push(run);
        }
        self.push(bytes.slice(part));
    }

    /// Adds a 32-bit big-endian length. Callers have checked lengths against [`super::Limits`].
    pub fn put_length(&mut self, length: usize) {
        let length = u32::try_from(length).expect("what is written is far below 4 GiB");
        self.put_slice(&length.to_be_bytes());
    }

    /// Adds a number in decimal.
    pub fn put_decimal(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return self.put_slice(&digits[at..]);
            }
        }
    }

    fn push(&mut self, piece: Bytes) {
        self.pieces_length += piece.len();
        self.pieces.push_back(piece);
    }
}

impl Buf for WriteBuffer {
    fn remaining(&self) -> usize {
        self.pieces_length + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&self.tail, |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let all = self.pieces.iter().map(|piece| &piece[..]).chain([&self.tail[..]]);
        let mut filled = 0;
        for (slot, bytes) in slices.iter_mut().zip(all.filter(|bytes| !bytes.is_empty())) {
            *slot = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.pieces.front_mut() {
            let step = count.min(first.len());
            self.pieces_length -= step;
            count -= step;
            if step < first.len() {
                return first.advance(step);
            }
            self.pieces.pop_front();
        }
        self.tail.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_writes_keep_the_order_of_small_and_large_pieces() {
        let large = Bytes::from(vec![7; LARGE]);
        let mut out = WriteBuffer::new();
        out.put_slice(b"head");
        out.put_bytes(&large);
        out.put_decimal(u64::MAX);
        out.put_bytes(&Bytes::from_static(b"small"));
        let expected = [b"head", &large[..], b"18446744073709551615small"].concat();
        assert_eq!(out.remaining(), expected.len());

        let mut written = Vec::new();
        while out.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = out.chunks_vectored(&mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).take(1000).collect();
            written.extend_from_slice(&bytes);
            out.advance(bytes.len());
        }
        assert_eq!(written, expected);
    }

    #[test]
    fn a_large_body_is_not_copied() {
        let large = Bytes::from(vec![7; LARGE]);
        let mut out = WriteBuffer::new();
        out.put_bytes(&large);
        assert_eq!(out.chunk().as_ptr(), large.as_ptr());
    }
}

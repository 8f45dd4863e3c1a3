//! Properties of decompression that hold for any bytes of a peer, as a function that panics on a
//! violation: the body of a fuzz target (`fuzz/`); a short test runs it over mutated streams.
//!
//! ```text
//!  input: │ compression, mod 2 (1) │ size of reads, less 1 (1) │ the bytes that a peer sends │
//! ```
//!
//! - However well the bytes compress, the stream holds little more than one step decompressed, and
//!   the output is in proportion to the input.
//! - The same bytes give the same output up to an error, however they arrive and are asked for.
//! - Bytes compressed here are the same bytes again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Compressed, Compression};

/// The most that the stream may hold, in bytes.
const MAX_HELD: usize = 512 * 1024;
/// Deflate's best ratio, with a margin; snappy's is far lower.
const MAX_RATIO: usize = 1040;
/// Output at which a check ends: more of it shows nothing new.
const ENOUGH: usize = 1 << 20;

/// A peer's bytes, and what is written to it. It never waits.
#[derive(Debug)]
struct Peer<'a> {
    sends: &'a [u8],
    /// The most bytes of one read.
    at_once: usize,
    received: Vec<u8>,
}

impl AsyncRead for Peer<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.sends.len().min(self.at_once).min(into.remaining());
        let (now, later) = self.sends.split_at(count);
        into.put_slice(now);
        self.sends = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.received.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Checks [`Compressed`]. Panics on a violation.
pub fn decompression(input: &[u8]) {
    let [kind, size, bytes @ ..] = input else { return };
    let compression = if kind % 2 == 0 { Compression::Deflate(u32::from(kind / 2)) } else { Compression::Snappy };
    let small = usize::from(*size) + 1;
    let (slowly, _) = decompressed(compression, bytes, small, 1 + small * 7);
    let (at_once, _) = decompressed(compression, bytes, usize::MAX, 64 * 1024);
    let common = slowly.len().min(at_once.len());
    assert!(slowly[..common] == at_once[..common], "the sizes of reads matter");
    let compressed = compressed(compression, bytes, small);
    let again = decompressed(compression, &compressed, small, 1 + small * 7);
    assert!(again == (bytes.to_vec(), true), "other bytes than were compressed");
}

/// Reads until the end, or enough; true if it did not end with an error.
fn decompressed(compression: Compression, bytes: &[u8], at_once: usize, room: usize) -> (Vec<u8>, bool) {
    let peer = Peer { sends: bytes, at_once, received: Vec::new() };
    let mut stream = Compressed::new(peer, compression, BytesMut::new());
    let mut cx = Context::from_waker(Waker::noop());
    let (mut output, mut buffer) = (Vec::new(), vec![0; room]);
    let is_sound = loop {
        let mut into = ReadBuf::new(&mut buffer);
        match Pin::new(&mut stream).poll_read(&mut cx, &mut into) {
            Poll::Ready(Ok(())) if into.filled().is_empty() || output.len() >= ENOUGH => break true,
            Poll::Ready(Ok(())) => output.extend_from_slice(into.filled()),
            Poll::Ready(Err(_)) => break false,
            Poll::Pending => panic!("the peer never waits"),
        }
        assert!(stream.held() <= MAX_HELD, "{} bytes are held", stream.held());
    };
    assert!(output.len() <= bytes.len() * MAX_RATIO + room, "{} bytes of {}", output.len(), bytes.len());
    output.truncate(ENOUGH);
    (output, is_sound)
}

/// Compresses `bytes`, in pieces that are flushed in turns.
fn compressed(compression: Compression, bytes: &[u8], piece: usize) -> Vec<u8> {
    let peer = Peer { sends: &[], at_once: 1, received: Vec::new() };
    let mut stream = Compressed::new(peer, compression, BytesMut::new());
    let mut cx = Context::from_waker(Waker::noop());
    for (n, mut rest) in bytes.chunks(piece).enumerate() {
        while !rest.is_empty() {
            match Pin::new(&mut stream).poll_write(&mut cx, rest) {
                Poll::Ready(Ok(count)) => rest = &rest[count..],
                other => panic!("{other:?}"),
            }
        }
        if n % 2 == 0 {
            assert!(matches!(Pin::new(&mut stream).poll_flush(&mut cx), Poll::Ready(Ok(()))));
        }
    }
    assert!(matches!(Pin::new(&mut stream).poll_flush(&mut cx), Poll::Ready(Ok(()))));
    stream.get_ref().received.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::print_stderr, reason = "a failure is repeated by its seed")]
    fn mutated_streams_keep_the_properties() {
        let mut rng = fastrand::Rng::new();
        let seed = rng.get_seed();
        for n in 0..60 {
            let (kind, size) = (rng.u8(0..20), rng.u8(..));
            let compression = if kind % 2 == 0 { Compression::Deflate(6) } else { Compression::Snappy };
            let mut plain = vec![b'x'; rng.usize(1..20_000)];
            let random = rng.usize(..plain.len());
            rng.fill(&mut plain[..random]);
            let mut bytes = compressed(compression, &plain, rng.usize(1..5_000));
            for _ in 0..rng.usize(..3) {
                let at = rng.usize(..bytes.len());
                bytes[at] ^= 1 << rng.u8(..8);
            }
            eprintln!("seed {seed}, input {n}");
            decompression(&[&[kind, size], &bytes[..]].concat());
        }
    }
}

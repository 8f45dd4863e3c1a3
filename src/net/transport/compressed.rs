//! A stream whose bytes are compressed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::deflate::Deflate;
use super::snappy::Snappy;

/// Bytes decompressed at a time, and compressed bytes that may wait for the peer.
const STEP: usize = 64 * 1024;
/// Bytes compressed at a time. Each such piece is sent at once, so that the peer decompresses it
/// while the next one is compressed.
const PIECE: usize = 16 * 1024;
/// Bytes read from the peer at a time.
const READ: usize = 16 * 1024;

/// A compression of NSQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate, with the level to compress with: 1 to 9.
    Deflate(u32),
    /// Snappy's framing format.
    Snappy,
}

#[derive(Debug)]
enum Codec {
    Deflate(Box<Deflate>),
    Snappy(Box<Snappy>),
}

/// A stream over `S` that compresses what is written and decompresses what is read.
///
/// Written bytes are with the peer after `flush`; parts of long writes are sent before. Memory is
/// bounded whatever the peer sends: at most 64 KiB are decompressed ahead of the reader.
///
/// Cancel safety: reading and writing keep everything when the future is dropped.
#[derive(Debug)]
pub struct Compressed<S> {
    inner: S,
    codec: Codec,
    /// Bytes from the peer, compressed.
    input: BytesMut,
    /// Room for decompressed bytes, made with the first read: `filled` are there, and `read` of
    /// them are with the reader.
    plain: Vec<u8>,
    filled: usize,
    read: usize,
    /// Compressed bytes, of which `sent` are with the peer.
    output: Vec<u8>,
    sent: usize,
    /// The codec holds bytes that are not in `output`.
    unflushed: bool,
    /// The peer ended its side.
    ended: bool,
}

impl<S> Compressed<S> {
    /// `already_read` are bytes of the compressed stream that were read from `inner` before.
    pub fn new(inner: S, compression: Compression, already_read: BytesMut) -> Self {
        let codec = match compression {
            Compression::Deflate(level) => Codec::Deflate(Box::new(Deflate::new(level))),
            Compression::Snappy => Codec::Snappy(Box::new(Snappy::new())),
        };
        let (plain, output) = (Vec::new(), Vec::new());
        Self {
            inner,
            codec,
            input: already_read,
            plain,
            filled: 0,
            read: 0,
            output,
            sent: 0,
            unflushed: false,
            ended: false,
        }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The memory for bytes of the peer, compressed or not.
    pub(super) fn held(&self) -> usize {
        self.plain.capacity() + self.input.capacity()
    }

    /// Decompresses what was read from the peer; true if there is something for the reader.
    fn decode(&mut self) -> io::Result<bool> {
        self.plain.resize(STEP, 0);
        (self.filled, self.read) = (0, 0);
        self.filled = match &mut self.codec {
            Codec::Deflate(codec) => {
                let filled = codec.decode(&mut self.input, &mut self.plain)?;
                self.ended |= codec.is_ended();
                filled
            }
            Codec::Snappy(codec) => codec.decode(&mut self.input, &mut self.plain)?,
        };
        Ok(self.filled > 0)
    }
}

impl<S: AsyncWrite + Unpin> Compressed<S> {
    /// Writes compressed bytes until all are with the peer.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.output[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.output.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Compressed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.read < this.filled || this.decode()? {
                let count = into.remaining().min(this.filled - this.read);
                into.put_slice(&this.plain[this.read..this.read + count]);
                this.read += count;
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(match this.input.is_empty() {
                    true => Ok(()),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
            this.input.reserve(READ);
            let reading = tokio_util::io::poll_read_buf(Pin::new(&mut this.inner), cx, &mut this.input);
            this.ended = ready!(reading)? == 0;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Compressed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.output.len() - this.sent >= STEP {
            ready!(this.poll_send(cx))?;
        }
        let taken = &bytes[..bytes.len().min(PIECE)];
        match &mut this.codec {
            Codec::Deflate(codec) => codec.encode(taken, &mut this.output)?,
            Codec::Snappy(codec) => codec.encode(taken, &mut this.output)?,
        }
        this.unflushed = true;
        if taken.len() == PIECE {
            if let Codec::Snappy(codec) = &mut this.codec {
                codec.flush(&mut this.output)?;
            }
            // what cannot be sent yet is sent with the next write, or the flush
            if let Poll::Ready(Err(error)) = this.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.unflushed) {
            match &mut this.codec {
                Codec::Deflate(codec) => codec.flush(&mut this.output)?,
                Codec::Snappy(codec) => codec.flush(&mut this.output)?,
            }
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const ALL: [Compression; 4] =
        [Compression::Deflate(1), Compression::Deflate(6), Compression::Deflate(9), Compression::Snappy];

    fn pair(compression: Compression, buffer: usize) -> (Compressed<DuplexStream>, Compressed<DuplexStream>) {
        let (a, b) = duplex(buffer);
        (Compressed::new(a, compression, BytesMut::new()), Compressed::new(b, compression, BytesMut::new()))
    }

    /// Bytes of which a part compresses.
    fn bytes(rng: &mut fastrand::Rng, length: usize) -> Vec<u8> {
        let mut bytes = vec![b'x'; length];
        let random = rng.usize(0..=length);
        rng.fill(&mut bytes[..random]);
        bytes
    }

    #[tokio::test]
    async fn everything_written_is_read_after_each_flush() {
        for seed in 0..5 {
            let mut rng = fastrand::Rng::with_seed(seed);
            for compression in ALL {
                let (mut a, mut b) = pair(compression, rng.usize(1..100_000));
                for _ in 0..10 {
                    let length = [0, 1, 10, 3_000, 70_000, 140_000][rng.usize(0..6)];
                    let sent = bytes(&mut rng, length);
                    let writing = async {
                        for piece in sent.chunks(rng.usize(1..100_000)) {
                            a.write_all(piece).await.unwrap();
                        }
                        a.flush().await.unwrap();
                    };
                    let mut received = vec![0; length];
                    let (_, read) = tokio::join!(writing, b.read_exact(&mut received));
                    read.unwrap();
                    assert!(received == sent, "{compression:?}, seed {seed}, {length} bytes");
                }
                a.shutdown().await.unwrap();
                assert_eq!(b.read(&mut [0]).await.unwrap(), 0, "{compression:?}, seed {seed}");
            }
        }
    }

    #[tokio::test]
    async fn bytes_that_were_read_with_the_answer_before_belong_to_the_stream() {
        for compression in ALL {
            let (mut far, mut near) = duplex(1 << 20);
            let (a, b) = duplex(1 << 20);
            let mut writer = Compressed::new(a, compression, BytesMut::new());
            writer.write_all(b"the first bytes").await.unwrap();
            writer.flush().await.unwrap();
            drop(writer);
            let mut compressed = Vec::new();
            let mut raw = b;
            raw.read_to_end(&mut compressed).await.unwrap();
            far.write_all(&compressed[5..]).await.unwrap();
            far.shutdown().await.unwrap();
            near.flush().await.unwrap();
            let mut reader = Compressed::new(near, compression, BytesMut::from(&compressed[..5]));
            let mut text = String::new();
            reader.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "the first bytes", "{compression:?}");
        }
    }

    #[tokio::test]
    async fn a_bomb_takes_no_more_memory_than_is_read() {
        for compression in ALL {
            let (mut a, mut b) = pair(compression, 1 << 20);
            let writing = async {
                for _ in 0..40 {
                    a.write_all(&[0; 100_000]).await.unwrap();
                }
                a.flush().await.unwrap();
                a.shutdown().await.unwrap();
            };
            let reading = async {
                let (mut total, mut most) = (0, 0);
                let mut buffer = vec![0; 1000];
                loop {
                    let count = b.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        return (total, most);
                    }
                    total += count;
                    most = most.max(b.held());
                }
            };
            let ((), (total, most)) = tokio::join!(writing, reading);
            assert_eq!(total, 4_000_000);
            assert!(most < 1 << 20, "{most} bytes, {compression:?}");
        }
    }

    #[tokio::test]
    async fn damaged_bytes_are_an_error_or_an_end_and_never_more() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            for compression in ALL {
                let (a, mut raw) = duplex(1 << 20);
                let mut writer = Compressed::new(a, compression, BytesMut::new());
                writer.write_all(&bytes(&mut rng, 5_000)).await.unwrap();
                writer.flush().await.unwrap();
                drop(writer);
                let mut damaged = Vec::new();
                raw.read_to_end(&mut damaged).await.unwrap();
                let at = rng.usize(0..damaged.len());
                damaged[at] ^= 1 << rng.u8(0..8);
                damaged.truncate(rng.usize(1..=damaged.len()));
                let mut reader = Compressed::new(tokio::io::empty(), compression, BytesMut::from(&damaged[..]));
                let mut read = Vec::new();
                let end = reader.read_to_end(&mut read).await;
                assert!(read.len() < 1 << 20, "{compression:?}, seed {seed}: {end:?}");
                if matches!(compression, Compression::Snappy) && end.is_ok() {
                    assert!(read.len() <= 5_000, "a chunk has a checksum");
                }
            }
        }
    }
}

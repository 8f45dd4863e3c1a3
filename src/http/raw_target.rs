//! Keeps a raw `#` in a request's target, as Go's server does.
//!
//! hyper cuts a target at a raw `#`, which Node's and Python's HTTP clients send:
//! `/topic/delete?topic=foo#ephemeral` would delete the topic `foo`. This stream in front of hyper
//! writes `%23` instead, in the first line of each request only.
//!
//! ```text
//!        ┌──────────────── the service has the request, with its body length ◀──────────┐
//!        ▼                                                                              │
//!   Line ─▶ Headers ─▶ (empty line) Whole ─▶ Body(length) ─▶ Line …      hyper parses the head
//!                                       └──▶ Chunks       ─▶ Line …
//! ```
//!
//! After an empty line it passes nothing on until the service was called: only hyper knows the
//! length of the body.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunks::ChunkScanner;

/// The size of one read while request heads are parsed, in bytes.
const READ_SIZE: usize = 4096;

/// The length of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLength {
    Known(u64),
    /// Chunked transfer encoding.
    Chunked,
}

/// Tells the stream the body length of the request that hyper has parsed.
#[derive(Debug, Clone, Default)]
pub(super) struct ParsedRequests(Arc<Mutex<ParsedLength>>);

#[derive(Debug, Default)]
struct ParsedLength {
    length: Option<BodyLength>,
    reader: Option<Waker>,
}

impl ParsedRequests {
    /// Reports the body length of a parsed request.
    pub(super) fn tell(&self, length: BodyLength) {
        let mut told = self.lock();
        told.length = Some(length);
        if let Some(reader) = told.reader.take() {
            reader.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<BodyLength> {
        let mut told = self.lock();
        match told.length.take() {
            Some(length) => Poll::Ready(length),
            None => {
                told.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ParsedLength> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a request that the next byte belongs to.
#[derive(Debug)]
enum RequestPart {
    /// The request line, or an empty line before it.
    Line {
        is_empty: bool,
    },
    /// The header lines; `is_empty` while the current line has at most a CR.
    Headers {
        is_empty: bool,
    },
    /// The head was passed to hyper.
    Whole,
    Body(u64),
    Chunks(ChunkScanner),
}

/// The stream that hyper reads from.
#[derive(Debug)]
pub(super) struct RawTargets<S> {
    stream: S,
    parsed: ParsedRequests,
    at: RequestPart,
    /// Bytes that were read and not yet processed.
    incoming: BytesMut,
    /// A rewritten part of a request line.
    line: BytesMut,
}

impl<S> RawTargets<S> {
    pub(super) fn new(stream: S) -> (Self, ParsedRequests) {
        let parsed = ParsedRequests::default();
        let (incoming, line) = (BytesMut::new(), BytesMut::new());
        let at = RequestPart::Line { is_empty: true };
        (Self { stream, parsed: parsed.clone(), at, incoming, line }, parsed)
    }

    /// Passes on the bytes of one state; returns true if there were any.
    fn hand_over(&mut self, into: &mut ReadBuf<'_>) -> bool {
        if self.line.is_empty()
            && let RequestPart::Line { is_empty } = self.at
        {
            self.rewrite_line(is_empty);
        }
        if self.line.has_remaining() {
            return move_bytes(&mut self.line, usize::MAX, into) > 0;
        }
        let room = into.remaining();
        match &mut self.at {
            RequestPart::Line { .. } | RequestPart::Whole => false,
            RequestPart::Headers { is_empty } => {
                let here = &self.incoming[..self.incoming.len().min(room)];
                let length = memchr::memchr(b'\n', here).map_or(here.len(), |end| end + 1);
                let ends = here[..length].ends_with(b"\n");
                *is_empty &= here[..length].iter().all(|b| matches!(b, b'\r' | b'\n'));
                match (ends, *is_empty) {
                    (true, true) => self.at = RequestPart::Whole,
                    (true, false) => *is_empty = true,
                    (false, _) => {}
                }
                move_bytes(&mut self.incoming, length, into) > 0
            }
            RequestPart::Body(rest) => {
                let copied = move_bytes(&mut self.incoming, usize::try_from(*rest).unwrap_or(usize::MAX), into);
                *rest -= copied as u64;
                copied > 0
            }
            RequestPart::Chunks(chunks) => {
                let (length, ends) = chunks.take(&self.incoming[..self.incoming.len().min(room)]);
                if ends {
                    self.at = RequestPart::Line { is_empty: true };
                }
                move_bytes(&mut self.incoming, length, into) > 0
            }
        }
    }

    /// Takes the available part of a request line, with `%23` for each `#`.
    fn rewrite_line(&mut self, was_empty: bool) {
        let end = memchr::memchr(b'\n', &self.incoming);
        let part = self.incoming.split_to(end.map_or(self.incoming.len(), |end| end + 1));
        let is_empty = was_empty && part.iter().all(|b| matches!(b, b'\r' | b'\n'));
        for (index, piece) in part[..].split(|b| *b == b'#').enumerate() {
            if index > 0 {
                self.line.extend_from_slice(b"%23");
            }
            self.line.extend_from_slice(piece);
        }
        self.at = match end {
            Some(_) if !is_empty => RequestPart::Headers { is_empty: true },
            Some(_) => RequestPart::Line { is_empty: true },
            None => RequestPart::Line { is_empty },
        };
    }
}

/// Moves at most `most` bytes; returns their number.
fn move_bytes(from: &mut BytesMut, most: usize, into: &mut ReadBuf<'_>) -> usize {
    let length = from.len().min(most).min(into.remaining());
    into.put_slice(&from[..length]);
    from.advance(length);
    length
}

impl<S: AsyncRead + Unpin> AsyncRead for RawTargets<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let RequestPart::Body(0) = this.at {
                this.at = RequestPart::Line { is_empty: true };
            }
            if let RequestPart::Whole = this.at {
                this.at = match ready!(this.parsed.poll(context)) {
                    BodyLength::Known(length) => RequestPart::Body(length),
                    BodyLength::Chunked => RequestPart::Chunks(ChunkScanner::default()),
                };
                continue;
            }
            if this.hand_over(into) {
                return Poll::Ready(Ok(()));
            }
            // a body is read without another copy
            if let RequestPart::Body(rest) = &mut this.at {
                let most = into.remaining().min(usize::try_from(*rest).unwrap_or(usize::MAX));
                let mut part = ReadBuf::new(into.initialize_unfilled_to(most));
                ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
                let read = part.filled().len();
                *rest -= read as u64;
                into.advance(read);
                return Poll::Ready(Ok(()));
            }
            let mut space = [0; READ_SIZE];
            let mut part = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
            if part.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.incoming.extend_from_slice(part.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RawTargets<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Returns the rewritten bytes, which arrive in pieces of `piece`; the bodies have these
    /// lengths.
    async fn rewritten(bytes: &[u8], lengths: &[BodyLength], piece: usize) -> String {
        let (mut client, server) = duplex(bytes.len().max(1));
        client.write_all(bytes).await.unwrap();
        drop(client);
        let (mut stream, parsed) = RawTargets::new(server);
        let (mut out, mut lengths) = (Vec::new(), lengths.iter());
        loop {
            if matches!(stream.at, RequestPart::Whole) {
                parsed.tell(*lengths.next().expect("no more heads than lengths"));
            }
            let mut space = vec![0; piece];
            match stream.read(&mut space).await.unwrap() {
                0 => break,
                length => out.extend_from_slice(&space[..length]),
            }
        }
        assert!(lengths.next().is_none(), "all heads were seen");
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn only_request_lines_are_rewritten() {
        let head = "\r\nPOST /a#b?c#d HTTP/1.1\r\nX: #\r\nY: #\r\n\r\n";
        let said = head.replacen("/a#b?c#d", "/a%23b?c%23d", 1);
        let body = "G /#\r\n\r\n#\n\n";
        let chunks = "4;x=#\r\n#\r\n#\r\n00b\r\n\r\n\r\nG /#\r\n\r\n0\r\nT: #\r\n\r\n";
        let bytes = [head, body, head, chunks, head, "\n\nGET #"].concat();
        let expected = [&said, body, &said, chunks, &said, "\n\nGET %23"].concat();
        let lengths = [BodyLength::Known(body.len() as u64), BodyLength::Chunked, BodyLength::Known(0)];
        for piece in [1, 2, 3, 7, 64, 5000] {
            assert_eq!(rewritten(bytes.as_bytes(), &lengths, piece).await, expected, "{piece}");
        }
    }

    #[tokio::test]
    async fn bytes_after_a_head_wait_for_the_service() {
        let (mut client, server) = duplex(4096);
        client.write_all(b"GET /#1 HTTP/1.1\n\nGET /#2 HTTP/1.1\n\n").await.unwrap();
        let (mut stream, parsed) = RawTargets::new(server);
        let mut out = vec![0; 20];
        stream.read_exact(&mut out).await.unwrap();
        assert_eq!(out, b"GET /%231 HTTP/1.1\n\n");
        let mut reading = boxed(async move {
            let mut out = vec![0; 20];
            stream.read_exact(&mut out).await.unwrap();
            out
        });
        assert!(futures_util::poll!(&mut reading).is_pending());
        parsed.tell(BodyLength::Known(0));
        assert_eq!(reading.await, b"GET /%232 HTTP/1.1\n\n");
    }

    fn boxed<F: Future>(future: F) -> Pin<Box<F>> {
        Box::pin(future)
    }
}

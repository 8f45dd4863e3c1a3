//! A connection of a protocol in lines, whose answers are parsed from a buffer.

use std::io;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::read_buf;

use super::ANSWER_TIMEOUT;

/// The largest answer in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// A connection.
#[derive(Debug)]
pub(super) struct LineConnection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl LineConnection {
    pub(super) async fn open(address: &str) -> io::Result<Self> {
        let stream = timeout(ANSWER_TIMEOUT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(ANSWER_TIMEOUT, self.stream.write_all(bytes)).await?
    }

    /// Reads the next answer: `parse` returns it with its length when it is complete.
    ///
    /// # Cancel safety
    /// Bytes that were read stay in the buffer.
    pub(super) async fn answer<A>(&mut self, parse: impl Fn(&[u8]) -> io::Result<Option<(A, usize)>>) -> io::Result<A> {
        loop {
            if let Some((answer, length)) = parse(&self.buffer)? {
                let _ = self.buffer.split_to(length);
                return Ok(answer);
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(io::Error::other("an answer without end"));
            }
            if read_buf(&mut self.stream, &mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads the next answer within the time that a target has for it.
    pub(super) async fn answer_in_time<A>(
        &mut self,
        parse: impl Fn(&[u8]) -> io::Result<Option<(A, usize)>>,
    ) -> io::Result<A> {
        timeout(ANSWER_TIMEOUT, self.answer(parse)).await?
    }
}

/// Splits off a line that ends with CR LF; returns it with its length, the end included.
pub(super) fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr(b'\n', bytes)?;
    Some((bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]), end + 1))
}

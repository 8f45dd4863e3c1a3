//! A write deadline: a client that reads nothing, or only a byte now and then, is disconnected.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The minimum rate at which a client has to read once a write waits, in bytes per second.
const MIN_READ_RATE: u64 = 16 * 1024;

/// A stream whose writes time out if the peer reads too slowly.
#[derive(Debug)]
pub(super) struct DeadlineStream<S> {
    stream: S,
    /// The time that a write may wait.
    write_time: Duration,
    /// The deadline of the pending write; `None` when all is written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> DeadlineStream<S> {
    pub(super) fn new(stream: S, write_time: Duration) -> Self {
        Self { stream, write_time, deadline: None }
    }

    /// Passes a write's result on, or `TimedOut` after the deadline.
    fn check_deadline(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match (&written, &mut self.deadline) {
            (Poll::Pending, deadline) => {
                let deadline = deadline.get_or_insert_with(|| Box::pin(sleep(self.write_time)));
                if deadline.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            (Poll::Ready(Ok(bytes)), Some(deadline)) => {
                let earned = Duration::from_micros(*bytes as u64 * 1_000_000 / MIN_READ_RATE);
                let later = (deadline.deadline() + earned).min(Instant::now() + self.write_time);
                deadline.as_mut().reset(later);
            }
            (Poll::Ready(_), _) => {}
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeadlineStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeadlineStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.check_deadline(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.check_deadline(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes after it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.deadline = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const WRITE_TIME: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn writes_to_slow_readers_time_out() {
        for (sip, most) in [(0, 10), (1, 11), (64 * 1024, 99)] {
            let (mut client, server) = duplex(1024);
            let mut server = DeadlineStream::new(server, WRITE_TIME);
            tokio::spawn(async move {
                let mut space = vec![0; sip];
                while sip > 0 && client.read_exact(&mut space).await.is_ok() {
                    sleep(Duration::from_secs(1)).await;
                }
                std::future::pending::<()>().await;
            });
            let start = Instant::now();
            let written = server.write_all(&vec![0; 30 * 64 * 1024]).await;
            let took = start.elapsed().as_secs();
            assert_eq!(written.is_ok(), sip > 1, "{sip}: {written:?} in {took} s");
            assert!(took <= most, "{sip}: {took} s");
        }
    }
}

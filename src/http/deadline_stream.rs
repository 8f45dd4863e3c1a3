//! A deadline for writing: a client that takes nothing, or a byte now and then, is not waited for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes a second that a client has to take at least, once it keeps the server waiting.
const LEAST_RATE: u64 = 16 * 1024;

/// A stream whose writes fail when the other end takes too little for too long.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    /// How long a write may wait.
    patience: Duration,
    /// When it has waited for long enough, once it waits; gone when all is written.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, end: None }
    }

    /// What a write came to, unless it has waited for too long.
    fn judge(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match (&written, &mut self.end) {
            (Poll::Pending, end) => {
                let end = end.get_or_insert_with(|| Box::pin(sleep(self.patience)));
                if end.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            (Poll::Ready(Ok(bytes)), Some(end)) => {
                let earned = Duration::from_micros(*bytes as u64 * 1_000_000 / LEAST_RATE);
                let later = (end.deadline() + earned).min(Instant::now() + self.patience);
                end.as_mut().reset(later);
            }
            (Poll::Ready(_), _) => {}
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written all it has.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.end = None;
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

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_or_too_little_is_not_waited_for() {
        for (sip, most) in [(0, 10), (1, 11), (64 * 1024, 99)] {
            let (mut client, server) = duplex(1024);
            let mut server = Patient::new(server, PATIENCE);
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

//! A small HTTP server beside a command's work: bounded in connections, and each bounded in time, so that whoever reads slowly, or
//! opens many and says nothing, harms nobody but other readers. And what servers of long connections share: [`connection`].

mod connection;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

pub use self::connection::{Manners, connection};
pub use crate::net::listen;
use crate::proto::HostPort;

/// Connections at once. More wait in the kernel.
const CONNECTIONS: usize = 64;
/// How long a connection may last, from its first byte to its last.
const LIFE: Duration = Duration::from_secs(10);

/// Where a server listens.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    life: Duration,
}

impl Door {
    /// Listens, on a port of the system's choice if it is 0. Fails if the address cannot be had.
    pub async fn bind(address: &HostPort) -> io::Result<Self> {
        let listener = listen(address).await?;
        Ok(Self { listener, permits: Arc::new(Semaphore::new(CONNECTIONS)), life: LIFE })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until it is dropped.
    pub async fn serve(self, router: Router) {
        // it never ends, and never fails
        let _ = axum::serve(self, router).await;
    }
}

impl axum::serve::Listener for Door {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await.expect("it is never closed");
        // waits a moment when the system has no more to give
        let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
        (Visit { stream, end: Box::pin(sleep(self.life)), _permit: permit }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over.
#[derive(Debug)]
pub struct Visit {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Visit {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Visit {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn door(connections: usize, life: Duration) -> SocketAddr {
        let mut door = Door::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        (door.permits, door.life) = (Arc::new(Semaphore::new(connections)), life);
        let address = door.address().unwrap();
        tokio::spawn(door.serve(Router::new().route("/", get(|| async { "hello" }))));
        address
    }

    #[tokio::test]
    async fn who_says_nothing_is_sent_away_and_others_are_served() {
        let address = door(2, Duration::from_millis(100)).await;
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // half a request, for good
        silent[0].write_all(b"GET / HT").await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer:?}");
        for mut stream in silent {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(!rest.starts_with(b"HTTP/1.1 200"), "nothing was asked");
        }
    }
}

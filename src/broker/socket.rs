//! TCP and Unix sockets behind one type.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::io_error::describe;
#[cfg(test)]
use crate::simulated;

/// Delay after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Listener on a TCP port or a Unix socket.
#[derive(Debug)]
pub(super) enum BrokerListener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
    /// A server of a simulated world.
    #[cfg(test)]
    #[allow(private_interfaces)]
    Simulated(simulated::Incoming),
}

impl BrokerListener {
    /// Accepts the next connection; returns it with the peer's address. If accepting fails, for
    /// example because too many files are open, logs that once, and tries again after a delay.
    /// Cancel-safe.
    pub(super) async fn accept(&self) -> (ClientSocket, String) {
        let mut is_logged = false;
        loop {
            match self.try_accept().await {
                Ok(accepted) => return accepted,
                // the client has closed the connection already
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_logged, true) {
                        tracing::warn!(error = %describe(&error), "cannot accept a connection; retrying every {ACCEPT_RETRY:?}");
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn try_accept(&self) -> io::Result<(ClientSocket, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((ClientSocket::Tcp(stream), peer.to_string()))
            }
            // Go's name of a peer without a path is @
            Self::Unix(listener) => Ok((ClientSocket::Unix(listener.accept().await?.0), "@".to_owned())),
            #[cfg(test)]
            Self::Simulated(incoming) => Ok((ClientSocket::Simulated(incoming.accept().await), "simulated".to_owned())),
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub(super) enum ClientSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(test)]
    Simulated(simulated::Socket),
}

impl ClientSocket {
    /// Writes what fits into the send buffer, without waiting.
    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
            #[cfg(test)]
            Self::Simulated(stream) => stream.try_write(slices.first().map_or(&[], |slice| slice)),
        }
    }
}

/// Hands a call on to the socket inside.
macro_rules! inner {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            ClientSocket::Tcp($stream) => $call,
            ClientSocket::Unix($stream) => $call,
            #[cfg(test)]
            ClientSocket::Simulated($stream) => $call,
        }
    };
}

impl ClientSocket {
    /// Takes the socket from the runtime of this thread.
    pub(super) fn detach(self) -> io::Result<DetachedSocket> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(DetachedSocket::Tcp),
            Self::Unix(stream) => stream.into_std().map(DetachedSocket::Unix),
            #[cfg(test)]
            Self::Simulated(_) => unreachable!("a simulated socket stays on its thread"),
        }
    }
}

/// A client's connection on its way to another thread.
#[derive(Debug)]
pub(super) enum DetachedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl DetachedSocket {
    /// Gives the socket to the runtime of this thread.
    pub(super) fn attach(self) -> io::Result<ClientSocket> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(ClientSocket::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(ClientSocket::Unix),
        }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_read(cx, into))
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

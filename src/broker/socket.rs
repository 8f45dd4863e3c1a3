//! TCP and Unix sockets behind one type.

use std::io::{self, ErrorKind, IoSlice};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Delay after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Listener on a TCP port or a Unix socket.
#[derive(Debug)]
pub enum BrokerListener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
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
                        tracing::warn!(%error, "cannot accept a connection; retrying every {ACCEPT_RETRY:?}");
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
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub(super) enum ClientSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientSocket {
    /// Reads once; returns 0 at the end of the stream. Cancel-safe: the buffer has everything that
    /// was read.
    pub(super) async fn read(&mut self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read_buf(buffer).await,
            Self::Unix(stream) => stream.read_buf(buffer).await,
        }
    }

    /// Waits until the socket is writable.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }
}

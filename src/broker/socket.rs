//! TCP and Unix sockets as one.

use std::io::{self, ErrorKind, IoSlice};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// How long to wait when no connection can be taken.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where connections come from.
#[derive(Debug)]
pub enum BrokerListener {
    /// A port.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener),
}

impl BrokerListener {
    /// The next connection, and where it comes from. Where none can be taken, as when too many files are open, this waits a moment and
    /// tries again, and says so once. Cancel-safe.
    pub(super) async fn accept(&self) -> (ClientSocket, String) {
        let mut said = false;
        loop {
            match self.try_accept().await {
                Ok(accepted) => return accepted,
                // the client has gone again
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!("cannot take a connection: {error}: trying again each {ACCEPT_RETRY:?}");
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
            // Go calls a peer without a path @
            Self::Unix(listener) => Ok((ClientSocket::Unix(listener.accept().await?.0), "@".to_owned())),
        }
    }
}

/// A connection's two directions.
#[derive(Debug)]
pub(super) enum ClientSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientSocket {
    /// Reads once; 0 is the end. Cancel-safe: what was read is in the buffer.
    pub(super) async fn read(&mut self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read_buf(buffer).await,
            Self::Unix(stream) => stream.read_buf(buffer).await,
        }
    }

    /// Waits until something can be written.
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

//! The stream below NSQ's protocol: TCP, then TLS, then compression, as IDENTIFY's reply grants
//! them.
//!
//! ```text
//!  NSQ's frames ─▶ deflate or snappy ─▶ TLS ─▶ TCP
//! ```

#[cfg(feature = "compression")]
#[doc(hidden)]
pub mod check;
#[cfg(feature = "compression")]
mod compressed;
#[cfg(feature = "compression")]
mod deflate;
#[cfg(feature = "compression")]
mod snappy;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(feature = "compression")]
pub use self::compressed::{Compressed, Compression};

/// A client's stream over `S`, as far as it was upgraded. Written bytes reach the peer with `flush`
/// only.
#[derive(Debug)]
pub enum Transport<S> {
    /// Neither TLS nor compression.
    Plain(S),
    /// TLS.
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::TlsStream<S>>),
    /// Compression, over TLS or not.
    #[cfg(feature = "compression")]
    Compressed(Box<Compressed<Self>>),
}

impl<S> Transport<S> {
    /// The stream at the bottom.
    pub fn get_ref(&self) -> &S {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0,
            #[cfg(feature = "compression")]
            Self::Compressed(stream) => stream.get_ref().get_ref(),
        }
    }
}

/// Hands a call on to the stream inside.
macro_rules! inner {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Plain($stream) => $call,
            #[cfg(feature = "tls")]
            Transport::Tls($stream) => $call,
            #[cfg(feature = "compression")]
            Transport::Compressed($stream) => $call,
        }
    };
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Transport<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            // NSQ's frames have lengths, so an end without TLS's own goodbye hides nothing; nsqd
            // says none when it is killed
            #[cfg(feature = "tls")]
            Self::Tls(stream) => match Pin::new(stream).poll_read(cx, into) {
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => read,
            },
            #[cfg(feature = "compression")]
            Self::Compressed(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Transport<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.is_write_vectored(),
            #[cfg(feature = "compression")]
            Self::Compressed(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

//! One HTTP/1 connection, from its first byte to its last.

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// How a connection is treated.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// How long a request's head may take to arrive, and the connection may be idle between requests.
    pub head_time: Duration,
    /// Header names are written `Like-This`.
    pub title_case_headers: bool,
}

/// Answers a connection's requests until it ends, or until `stop`, which lets the request that runs finish.
pub async fn connection<S>(
    service: S,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    manners: Manners,
    stop: CancellationToken,
) where
    S: HttpService<Incoming, ResBody = Body, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(manners.head_time);
    builder.title_case_headers(manners.title_case_headers);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("an HTTP connection ended: {error}");
    }
}

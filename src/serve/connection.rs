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

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const MANNERS: Manners = Manners { head_time: Duration::from_secs(30), title_case_headers: true };

    #[tokio::test(start_paused = true)]
    async fn half_a_head_and_a_silent_client_end_the_connection() {
        for (said, answered) in [("", 0), ("GET / HT", 0), ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1)] {
            let (mut client, server) = duplex(4096);
            let router = Router::new().route("/", get(|| async { "hello" }));
            let service = TowerToHyperService::new(router);
            let serving = tokio::spawn(connection(service, server, MANNERS, CancellationToken::new()));
            client.write_all(said.as_bytes()).await.unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            assert_eq!(text.matches(" 200 OK").count(), answered, "{said:?}: {text:?}");
            serving.await.unwrap();
        }
    }

    #[tokio::test]
    async fn stopping_lets_the_request_that_runs_finish() {
        let (mut client, server) = duplex(4096);
        let stop = CancellationToken::new();
        let (asked, go) = (stop.clone(), stop.clone());
        let answer = move || async move {
            asked.cancel();
            "hello"
        };
        let service = TowerToHyperService::new(Router::new().route("/", get(answer)));
        let serving = tokio::spawn(connection(service, server, MANNERS, go));
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("hello") && stop.is_cancelled(), "{text}");
        serving.await.unwrap();
    }
}

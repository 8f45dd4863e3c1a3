//! One HTTP/1 connection, from its first byte to its last.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::host;
use super::patience::Patient;
use super::places::{Place, Stay};
use super::target::{Length, Parsed, RawTargets};

/// How long a request waits for its turn while all are taken.
const TURN: Duration = Duration::from_secs(5);
/// How long a connection that has to make way may take to say so.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How a connection is treated.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// How long a request's head may take to arrive, and the connection may be idle between requests.
    pub head_time: Duration,
    /// How long a client may take nothing of what it is answered; a slow one has to take 16 KiB a second.
    pub write_time: Duration,
    /// How long the connection may last, if that is limited.
    pub life: Option<Duration>,
    /// Header names are written `Like-This`.
    pub title_case_headers: bool,
}

/// Answers a connection's requests until it ends, or until `stop`, which lets the request that runs finish.
pub async fn connection<S>(
    service: S,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    manners: Manners,
    place: Place,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(manners.head_time);
    builder.title_case_headers(manners.title_case_headers);
    let (stream, parsed) = RawTargets::new(Patient::new(stream, manners.write_time));
    let service = service_fn(|request| answer(&service, request, &parsed, &place));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let life = async {
        match manners.life {
            Some(life) => tokio::time::sleep(life).await,
            None => std::future::pending().await,
        }
    };
    let mut life = std::pin::pin!(life);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving => ended,
                () = life => return,
            }
        }
        () = place.ousted() => {
            serving.as_mut().graceful_shutdown();
            // a request that waits for its turn is told; of any other its file is wanted at once
            if place.asks() {
                let _ = tokio::time::timeout(LAST_WORDS, serving).await;
            }
            return tracing::debug!("an HTTP connection made way for another");
        }
        () = life.as_mut() => return tracing::debug!("an HTTP connection was open for too long"),
    };
    if let Err(error) = ended {
        tracing::debug!("an HTTP connection ended: {error}");
    }
}

/// A request's answer, when it is the request's turn.
async fn answer<S>(
    service: &S,
    request: Request<Incoming>,
    parsed: &Parsed,
    place: &Place,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Incoming>, Response = Response<Body>>,
{
    parsed.tell(request.body().size_hint().exact().map_or(Length::Chunked, Length::Known));
    if let Some(refused) = host::refuse(request.version(), request.headers()) {
        return Ok(refused);
    }
    // what is asked by who watches over the process; answered from memory, in a few bytes
    let is_health = matches!(request.uri().path(), "/ping" | "/healthz");
    let patience = if is_health { Duration::ZERO } else { TURN };
    match place.turn(patience).await {
        Some(stay) => {
            // what is asked for may be long; what is handed in is limited
            if !is_health && request.method() == Method::GET {
                place.gate().await;
            }
            let mut response = service.call(request).await?;
            if place.is_wanted() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| Body::new(Answering { body, _stay: stay })))
        }
        None if is_health => {
            let mut response = service.call(request).await?;
            // so that its bytes find room, for sure
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            Ok(response)
        }
        None => Ok(busy()),
    }
}

/// There are too many requests.
fn busy() -> Response<Body> {
    let mut response =
        Response::new(Body::from(r#"{"message":"BUSY","error":"too many requests at once: come again"}"#));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An answer's body, with the turn that ends with it.
struct Answering {
    body: Body,
    _stay: Stay,
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::places::Places;
    use super::*;

    const MANNERS: Manners = Manners {
        head_time: Duration::from_secs(30),
        write_time: Duration::from_secs(10),
        life: None,
        title_case_headers: true,
    };

    async fn place() -> Place {
        Places::new(1).enter().await
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_and_a_silent_client_end_the_connection() {
        for (said, answered) in [("", 0), ("GET / HT", 0), ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1)] {
            let (mut client, server) = duplex(4096);
            let router = Router::new().route("/", get(|| async { "hello" }));
            let service = TowerToHyperService::new(router);
            let serving = tokio::spawn(connection(service, server, MANNERS, place().await, CancellationToken::new()));
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
        let serving = tokio::spawn(connection(service, server, MANNERS, place().await, go));
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("hello") && stop.is_cancelled(), "{text}");
        serving.await.unwrap();
    }
}

//! Serves one HTTP/1 connection within limits.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::ServerSettings;
use super::connection_slots::ConnectionSlot;
use super::cross_origin;
use super::deadline_stream::DeadlineStream;
use super::guarded_body::hold_until_sent;
use super::host_header;
use super::raw_target::{BodyLength, ParsedRequests, RawTargets};
use crate::net::tls;

/// The time that a request waits for a turn while all turns are taken.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// The time that an evicted connection has to send its refusal. It is written at once, unless the
/// client reads nothing; others wait for the slot meanwhile.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(20);

/// Time for a TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The time for a request's head to arrive, and the longest idle time between requests.
    pub head_time: Duration,
    /// The time that a client may read nothing of a response; a slow one must read 16 KiB/s.
    pub write_time: Duration,
    /// The maximum age of the connection, if it is limited.
    pub life: Option<Duration>,
    /// Writes header names `Like-This`.
    pub title_case_headers: bool,
}

/// Answers a connection's requests until it ends, or until `stop`; a request in progress is
/// finished. Shakes hands first if the settings have TLS.
pub async fn serve_connection<S>(
    service: S,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    settings: Arc<ServerSettings>,
    slot: ConnectionSlot,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let Some(tls) = &settings.tls else { return serve_http(service, stream, &settings, slot, stop).await };
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream)) => accepted,
        // a client that does not shake hands makes way as one that asks nothing does
        () = slot.evicted() => return,
        () = stop.cancelled() => return,
    };
    match accepted {
        Ok(Ok((stream, _))) => serve_http(service, stream, &settings, slot, stop).await,
        Ok(Err(error)) => tracing::debug!(reason = %tls::explain(&error), "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
}

/// Answers the requests on a stream, which may be decrypted.
async fn serve_http<S>(
    service: S,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    settings: &ServerSettings,
    slot: ConnectionSlot,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let limits = settings.limits;
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_time);
    builder.title_case_headers(limits.title_case_headers);
    let (stream, parsed) = RawTargets::new(DeadlineStream::new(stream, limits.write_time));
    let service = service_fn(|request| answer(&service, request, settings, &parsed, &slot));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let life = async {
        match limits.life {
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
        () = slot.evicted() => {
            serving.as_mut().graceful_shutdown();
            // a request that waits for its turn gets a refusal; any other connection is closed at
            // once
            if slot.has_waiting_request() {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, serving).await;
            }
            return tracing::debug!("an idle HTTP connection was closed for another");
        }
        () = life.as_mut() => return tracing::debug!("an HTTP connection was open for too long"),
    };
    if let Err(error) = ended {
        tracing::debug!("an HTTP connection ended: {error}");
    }
}

/// Answers a request, unless it is malformed or another site's page sent it.
async fn answer<S>(
    service: &S,
    request: Request<Incoming>,
    settings: &ServerSettings,
    parsed: &ParsedRequests,
    slot: &ConnectionSlot,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Incoming>, Response = Response<Body>>,
{
    parsed.tell(request.body().size_hint().exact().map_or(BodyLength::Chunked, BodyLength::Known));
    if let Some(refused) = host_header::refuse(request.version(), request.headers()) {
        return Ok(refused);
    }
    let origin = match settings.guard.check(request.uri(), request.headers(), settings.tls.is_some()) {
        Ok(origin) => origin,
        Err(foreign) => return Ok(settings.refuse(&foreign)),
    };
    if !settings.guard.has_origins() {
        return answer_in_turn(service, request, slot).await;
    }
    let preflight = origin.as_ref().and_then(|_| cross_origin::preflight(request.method(), request.headers()));
    let mut response = match preflight {
        Some(response) => response,
        None => answer_in_turn(service, request, slot).await?,
    };
    cross_origin::add_headers(response.headers_mut(), origin);
    Ok(response)
}

/// Answers a request when it gets its turn.
async fn answer_in_turn<S>(
    service: &S,
    request: Request<Incoming>,
    slot: &ConnectionSlot,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Incoming>, Response = Response<Body>>,
{
    // health checks are answered from memory, in a few bytes
    let is_health = matches!(request.uri().path(), "/ping" | "/healthz");
    let patience = if is_health { Duration::ZERO } else { TURN_TIMEOUT };
    match slot.request_turn(patience).await {
        Some(busy) => {
            // responses to GET may be long, while request bodies are limited
            if !is_health && request.method() == Method::GET {
                slot.yield_to_others().await;
            }
            let mut response = service.call(request).await?;
            if slot.others_wait() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| hold_until_sent(body, busy)))
        }
        None if is_health => {
            let mut response = service.call(request).await?;
            // closes the connection, so that the response fits into the socket buffer
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            Ok(response)
        }
        None => Ok(too_many_requests()),
    }
}

/// Returns the response to a request that got no turn.
fn too_many_requests() -> Response<Body> {
    let mut response =
        Response::new(Body::from(r#"{"message":"BUSY","error":"too many requests at once: try again later"}"#));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::BrowserGuard;
    use super::super::connection_slots::ConnectionSlots;
    use super::*;

    fn settings() -> Arc<ServerSettings> {
        let limits = ConnectionLimits {
            head_time: Duration::from_secs(30),
            write_time: Duration::from_secs(10),
            life: None,
            title_case_headers: true,
        };
        let guard = BrowserGuard::default().with_host("x").with_origin("http://pages.example".parse().unwrap());
        let forbidden = |line: String| (StatusCode::FORBIDDEN, line).into_response();
        Arc::new(ServerSettings::new(limits, guard, forbidden))
    }

    async fn slot() -> ConnectionSlot {
        ConnectionSlots::new(1).enter().await
    }

    #[tokio::test(start_paused = true)]
    async fn silent_clients_and_incomplete_heads_are_disconnected() {
        for (said, answered) in [("", 0), ("GET / HT", 0), ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1)] {
            let (mut client, server) = duplex(4096);
            let router = Router::new().route("/", get(|| async { "hello" }));
            let service = TowerToHyperService::new(router);
            let serving =
                tokio::spawn(serve_connection(service, server, settings(), slot().await, CancellationToken::new()));
            client.write_all(said.as_bytes()).await.unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            assert_eq!(text.matches(" 200 OK").count(), answered, "{said:?}: {text:?}");
            serving.await.unwrap();
        }
    }

    #[tokio::test]
    async fn stopping_finishes_the_current_request() {
        let (mut client, server) = duplex(4096);
        let stop = CancellationToken::new();
        let (asked, go) = (stop.clone(), stop.clone());
        let answer = move || async move {
            asked.cancel();
            "hello"
        };
        let service = TowerToHyperService::new(Router::new().route("/", get(answer)));
        let serving = tokio::spawn(serve_connection(service, server, settings(), slot().await, go));
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("hello") && stop.is_cancelled(), "{text}");
        serving.await.unwrap();
    }

    /// Sends a request with `Connection: close`; returns the response in lower case.
    async fn ask(request: &str) -> String {
        let (mut client, server) = duplex(4096);
        let service = TowerToHyperService::new(Router::new().route("/", get(|| async { "hello" })));
        tokio::spawn(serve_connection(service, server, settings(), slot().await, CancellationToken::new()));
        client.write_all(format!("{request}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text.to_lowercase()
    }

    #[tokio::test]
    async fn pages_of_an_allowed_origin_get_the_headers_of_cors_and_others_are_refused() {
        let page = "Origin: http://pages.example\r\n";
        let asks = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
        let plain = ask("GET / HTTP/1.1\r\nHost: x\r\n").await;
        assert!(plain.ends_with("hello") && plain.contains("\nvary: origin\r"), "{plain}");
        assert!(!plain.contains("access-control-"), "{plain}");
        let read = ask(&format!("GET / HTTP/1.1\r\nHost: x\r\n{page}")).await;
        assert!(read.contains("\naccess-control-allow-origin: http://pages.example\r"), "{read}");
        assert!(read.ends_with("hello"), "{read}");
        let preflight = ask(&format!("OPTIONS / HTTP/1.1\r\nHost: x\r\n{page}{asks}")).await;
        for line in [
            "http/1.1 204 ",
            "\naccess-control-allow-origin: http://pages.example\r",
            "\naccess-control-allow-methods: get, post, put\r",
            "\naccess-control-allow-headers: authorization\r",
        ] {
            assert!(preflight.contains(line), "{line:?}: {preflight}");
        }
        for request in [
            format!("OPTIONS / HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\n{asks}"),
            "GET / HTTP/1.1\r\nHost: evil.example\r\n".to_owned(),
            "GET http://evil.example/ HTTP/1.1\r\nHost: x\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: cross-site\r\n".to_owned(),
        ] {
            let refused = ask(&request).await;
            assert!(refused.starts_with("http/1.1 403 ") && refused.contains("--allow-"), "{request}: {refused}");
            assert!(!refused.contains("hello") && !refused.contains("access-control-"), "{refused}");
        }
        let unasked = ask(&format!("OPTIONS / HTTP/1.1\r\nHost: x\r\n{asks}")).await;
        assert!(unasked.starts_with("http/1.1 405 "), "the service answers without an origin: {unasked}");
    }
}

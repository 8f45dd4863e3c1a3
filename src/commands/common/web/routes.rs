//! The routes of the page.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::feed::{PageUpdate, event};
use super::history::{ChartSpan, MAX_SERIES};
use super::{MAX_VIEWERS, WebPage, actions, assets, insight, letters, peek};
use crate::commands::common::http_server::RequestConnection;
use crate::commands::common::json_response::{RequestError, RequestResult, json};
use crate::commands::common::query_params::QueryParams;
use crate::commands::common::queue_clients::QueueClients;

/// The maximum of shown clients: those with the most messages in flight.
const MAX_CLIENTS: usize = 500;
/// Seconds of the small charts in the table.
const SPARK_SECONDS: usize = 60;

pub(super) fn router(page: Arc<WebPage>) -> Router {
    let views = Router::new()
        .route("/api/events", get(events))
        .route("/api/history", get(history))
        .route("/api/sparks", get(sparks))
        .route("/api/clients", get(clients))
        .route("/api/peek", get(peek::messages))
        .route("/api/letters", get(peek::letters))
        .route("/api/letter", get(peek::letter))
        .route("/api/doctor", get(doctor))
        .route("/api/wakeup", get(wakeup))
        .route_layer(from_fn_with_state(page.clone(), look));
    Router::new()
        .merge(views)
        .route("/", get(|headers: HeaderMap| async move { assets::page(&headers) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/api/action", post(actions::act))
        .route("/api/letters/{verb}", post(letters::letters))
        .method_not_allowed_fallback(|| async {
            RequestError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
        })
        .fallback(|| async { RequestError::new(StatusCode::NOT_FOUND, "no such path: the page is /") })
        .layer(from_fn(|request: Request, next: Next| async move { assets::protect(next.run(request).await) }))
        .with_state(page)
}

/// Refuses requests that may not look.
async fn look(
    State(page): State<Arc<WebPage>>,
    Extension(connection): Extension<RequestConnection>,
    request: Request,
    next: Next,
) -> Response {
    match page.access.may_look(request.headers(), connection.peer.ip()).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// A viewer's connection. It holds no more than the event that is being sent.
struct Viewer {
    updates: watch::Receiver<Arc<PageUpdate>>,
    /// The settings, until they are sent.
    settings: Option<Bytes>,
    last: Option<u64>,
    ending: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// Streams the listing until the viewer goes, or the program ends.
async fn events(State(page): State<Arc<WebPage>>) -> RequestResult {
    let full = |_| RequestError::unavailable(format!("{MAX_VIEWERS} viewers are connected: close a page"));
    let place = page.viewers.clone().try_acquire_owned().map_err(full)?;
    let settings = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "interval": page.interval.as_millis() as u64,
        "actions": page.access.allows_actions(),
        "max_series": MAX_SERIES,
        "wakeup": page.wakeup.is_some(),
    });
    let viewer = Viewer {
        updates: page.feed.subscribe(),
        settings: Some(event("settings", &settings)),
        last: None,
        ending: page.shutdown.draining.clone(),
        _place: place,
    };
    let body = Body::from_stream(stream::unfold(viewer, Viewer::next));
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))], body).into_response())
}

impl Viewer {
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        if let Some(settings) = self.settings.take() {
            return Some((Ok(settings), self));
        }
        tokio::select! {
            biased;
            () = self.ending.cancelled() => return None,
            changed = self.updates.changed() => changed.ok()?,
        }
        let update = self.updates.borrow_and_update().clone();
        let event = update.event_after(self.last.replace(update.number));
        Some((Ok(event), self))
    }
}

/// Answers with the values of one stream or group.
async fn history(State(page): State<Arc<WebPage>>, uri: Uri) -> RequestResult {
    let params = QueryParams::parse(&uri, &["target", "span"])?;
    let target = actions::target(params.get("target").unwrap_or_default())?;
    let span = match params.get("span") {
        None | Some("10m") => ChartSpan::TenMinutes,
        Some("24h") => ChartSpan::Day,
        Some(other) => return Err(RequestError::unprocessable(format!("invalid span {other:?}: use 10m or 24h"))),
    };
    Ok(json(&page.feed.chart(&(target.stream, target.group), span)))
}

/// Answers with the depths of the last minute of all streams and groups.
async fn sparks(State(page): State<Arc<WebPage>>) -> RequestResult {
    Ok(json(&page.feed.recent_depths(SPARK_SECONDS)))
}

/// Answers with the clients of a stream or group.
async fn clients(State(page): State<Arc<WebPage>>, uri: Uri) -> RequestResult {
    let params = QueryParams::parse(&uri, &["target"])?;
    let target = actions::target(params.get("target").unwrap_or_default())?;
    let make = async { as_bytes(&QueueClients::ask(&page.cluster, &target, MAX_CLIENTS).await) };
    Ok(shared(page.clients.get(&target.to_string(), make).await))
}

/// Answers with doctor's findings.
async fn doctor(State(page): State<Arc<WebPage>>) -> RequestResult {
    let make = async { as_bytes(&insight::doctor(&page.brokers, &page.sockets).await) };
    Ok(shared(page.findings.get("doctor", make).await))
}

/// Answers with the state of wakeup.
async fn wakeup(State(page): State<Arc<WebPage>>) -> RequestResult {
    let Some(address) = &page.wakeup else {
        let line = "the address of wakeup is not known: name its --listen address with --wakeup-http-address";
        return Err(RequestError::new(StatusCode::NOT_FOUND, line));
    };
    Ok(shared(page.wakeup_state.get("wakeup", async { as_bytes(&insight::wakeup(address).await) }).await))
}

fn as_bytes(document: &impl Serialize) -> Bytes {
    serde_json::to_vec(document).expect("its keys are text").into()
}

fn shared(document: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

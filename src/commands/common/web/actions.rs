//! `POST /api/action`: creating, pausing, emptying and deleting streams and groups.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use super::WebPage;
use crate::commands::common::http_server::RequestConnection;
use crate::commands::common::json_response::{RequestError, RequestResult, json};
use crate::commands::common::nsqd_result::NsqdResult;
use crate::commands::common::queue_question::words;
use mqueue::client::StatsFilter;
use mqueue::cluster::{QueueAction, QueueTarget};
use mqueue::plural::count;

/// The longest body of a request, in bytes.
const MAX_BODY: usize = 16 << 10;
/// The time for a request's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionRequest {
    action: String,
    /// `STREAM`, or `STREAM/GROUP`.
    target: String,
}

/// Does the action on every nsqd that has the target, and logs it with the token's name.
pub(super) async fn act(
    State(page): State<Arc<WebPage>>,
    Extension(connection): Extension<RequestConnection>,
    headers: HeaderMap,
    body: Body,
) -> RequestResult {
    let request: ActionRequest = read_json(&headers, body).await?;
    let (action, target) = (action(&request.action)?, target(&request.target)?);
    let scopes = page.access.may_act(&headers, connection.peer.ip(), &target).await?;
    // the client may go away: what has begun is finished, and logged
    let done = tokio::spawn(async move { page.act(action, &target, scopes.name()).await });
    done.await.map_err(RequestError::unavailable)?
}

impl WebPage {
    async fn act(&self, action: QueueAction, target: &QueueTarget, name: &str) -> RequestResult {
        let (verb, done) = words(action);
        let state = self.cluster.observe(&StatsFilter::default().with_topic(&target.stream)).await;
        if state.places(action, target).is_empty() {
            let line = format!("no nsqd that answered has {target}");
            return Err(RequestError::new(StatusCode::NOT_FOUND, line));
        }
        let outcomes = self.cluster.act(&state, action, target).await.map_err(|error| {
            tracing::warn!("web: {name} cannot {verb} {target}: {error}");
            RequestError::unavailable(error)
        })?;
        let results: Vec<NsqdResult> = outcomes.into_iter().map(NsqdResult::from).collect();
        for NsqdResult { nsqd, messages, error } in &results {
            match error {
                Some(error) => tracing::warn!("web: {name} cannot {verb} {target} on {nsqd}: {error}"),
                None if action.loses_messages() => {
                    tracing::info!("web: {name} {done} {target} on {nsqd}, with {}", count(*messages, "message"));
                }
                None => tracing::info!("web: {name} {done} {target} on {nsqd}"),
            }
        }
        self.watch.refresh();
        let silent: Vec<String> = state.errors().map(ToString::to_string).collect();
        let target = target.to_string();
        Ok(json(&json!({ "action": verb, "target": target, "nsqds": results, "silent": silent })))
    }
}

fn action(word: &str) -> Result<QueueAction, RequestError> {
    let all = [QueueAction::Create, QueueAction::Pause, QueueAction::Unpause, QueueAction::Empty, QueueAction::Delete];
    let found = all.into_iter().find(|action| words(*action).0 == word);
    found.ok_or_else(|| {
        RequestError::unprocessable(format!("unknown action {word:?}: use create, pause, unpause, empty or delete"))
    })
}

/// Reads a stream or group.
pub(super) fn target(text: &str) -> Result<QueueTarget, RequestError> {
    text.parse().map_err(RequestError::unprocessable)
}

/// Reads the body of a request. It must be declared as JSON, which no form of another site can.
pub(super) async fn read_json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, RequestError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim() != "application/json" {
        let line = "send the body as Content-Type: application/json";
        return Err(RequestError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, line));
    }
    let late = |_| RequestError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
    let large = |_| RequestError::new(StatusCode::PAYLOAD_TOO_LARGE, "a body of more than 16 KiB, or cut off");
    let bytes = timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await.map_err(late)?.map_err(large)?;
    serde_json::from_slice(&bytes).map_err(|error| RequestError::unprocessable(format!("invalid body: {error}")))
}

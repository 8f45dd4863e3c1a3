//! `/channel/peek` and `/topic/peek`, which nsqd does not have: messages without their delivery.

use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;

use super::HttpApi;
use super::query::RequestQuery;
use super::response::{API_HEADER, ApiError, ApiResult};
use crate::broker::peek::{PeekFailure, PeekRequest};
use crate::broker::state::{PeekError, PeekPosition, PeekSelection};
use crate::http::hold_until_sent;
use crate::proto::{PeekLine, PeekState};

/// Number of messages without `limit`, and its maximum.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 10_000;

const LINES_TYPE: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));

pub(super) async fn peek_channel(State(api): State<Arc<HttpApi>>, query: RequestQuery) -> ApiResult {
    let (topic, channel) = query.channel()?;
    let state = argument(&query, "state", "INVALID_ARG_STATE")?.unwrap_or(PeekState::Waiting);
    if state == PeekState::Held {
        return Err(ApiError::new(400, "INVALID_ARG_STATE"));
    }
    peek(&api, &query, PeekSelection { topic, channel: Some(channel), state }).await
}

pub(super) async fn peek_topic(State(api): State<Arc<HttpApi>>, query: RequestQuery) -> ApiResult {
    let topic = query.topic("INVALID_ARG_TOPIC")?;
    peek(&api, &query, PeekSelection { topic, channel: None, state: PeekState::Held }).await
}

async fn peek(api: &HttpApi, query: &RequestQuery, selection: PeekSelection) -> ApiResult {
    if api.broker.config().auth.is_some() {
        // who may receive messages is decided by AUTH, which HTTP does not have
        let line = "UNAUTHORIZED: with --auth-http-address a client needs AUTH to see messages, and HTTP has none: \
                    mqueue tail --auth-secret-file PATH shows new ones";
        return Err(ApiError::new(403, line));
    }
    let limit = argument(query, "limit", "INVALID_ARG_LIMIT")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::new(400, "INVALID_ARG_LIMIT"));
    }
    let max_body = argument(query, "max_body", "INVALID_ARG_MAX_BODY")?.unwrap_or(usize::MAX);
    let process = process_number(api);
    let after = match argument::<PositionText>(query, "after", "INVALID_ARG_AFTER")? {
        Some(after) if after.process != process => return Err(elsewhere()),
        after => after.map(|after| after.position),
    };
    let answer = api.broker.peek(&PeekRequest { selection, after, limit, max_body }).await?;
    let mut lines = answer.lines;
    PeekLine::write_end(answer.next.map(|position| PositionText { process, position }.to_string()), &mut lines);
    Ok(([API_HEADER, LINES_TYPE], hold_until_sent(Body::from(lines), answer.permit)).into_response())
}

/// A parameter's value, if it is given.
fn argument<T: FromStr>(query: &RequestQuery, name: &str, invalid: &str) -> Result<Option<T>, ApiError> {
    query.get(name).map(str::parse).transpose().map_err(|_| ApiError::new(400, invalid))
}

/// A number of this process of the broker: positions of an earlier one mean nothing.
fn process_number(api: &HttpApi) -> u64 {
    let since = api.identity.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

fn elsewhere() -> ApiError {
    ApiError::new(410, "POSITION_GONE")
}

impl From<PeekFailure> for ApiError {
    fn from(failure: PeekFailure) -> Self {
        match failure {
            PeekFailure::Nothing(PeekError::Missing(missing)) => missing.into(),
            PeekFailure::Nothing(PeekError::Elsewhere) => elsewhere(),
            PeekFailure::Busy => Self::new(503, "BUSY"),
        }
    }
}

/// A position as clients see it.
struct PositionText {
    process: u64,
    position: PeekPosition,
}

impl std::fmt::Display for PositionText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{}", self.process, self.position)
    }
}

impl FromStr for PositionText {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (process, position) = text.split_once('-').ok_or(())?;
        let process = u64::from_str_radix(process, 16).map_err(drop)?;
        Ok(Self { process, position: position.parse()? })
    }
}

//! `/pub` and `/mpub`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};

use super::HttpApi;
use super::query::RequestQuery;
use super::response::{ApiError, ApiResult, text};
use crate::broker::state::ChannelPublishError;
use crate::proto::{Bodies, Command, ErrorCode, Limits, ProtocolError, TopicName};

/// Time limit for a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn publish(
    State(api): State<Arc<HttpApi>>,
    query: RequestQuery,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let limits = &api.broker.config().limits;
    let body = read(body, &headers, limits.max_msg_size, "MSG_TOO_BIG").await?;
    if body.is_empty() {
        return Err(ApiError::new(400, "MSG_EMPTY"));
    }
    let topic = query.topic("INVALID_TOPIC")?;
    let delay = query.get("defer").map(|delay| parse_delay(delay, limits)).transpose()?;
    api.broker.publish(&topic, Bodies::one(body).compact(), delay).await?;
    Ok(text("OK"))
}

/// Publishes to one channel (`/channel/pub`), which nsqd does not support.
pub(super) async fn publish_to_channel(
    State(api): State<Arc<HttpApi>>,
    query: RequestQuery,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let (topic, channel) = query.channel()?;
    let body = read(body, &headers, api.broker.config().limits.max_msg_size, "MSG_TOO_BIG").await?;
    if body.is_empty() {
        return Err(ApiError::new(400, "MSG_EMPTY"));
    }
    match api.broker.publish_to(&topic, &channel, body).await {
        Ok(()) => Ok(text("OK")),
        Err(ChannelPublishError::Missing(missing)) => Err(missing.into()),
        Err(ChannelPublishError::Publish(error)) => Err(error.into()),
    }
}

pub(super) async fn publish_many(
    State(api): State<Arc<HttpApi>>,
    query: RequestQuery,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let limits = &api.broker.config().limits;
    refuse_too_large(&headers, limits.max_body_size, "BODY_TOO_BIG")?;
    let topic = query.topic("INVALID_TOPIC")?;
    let is_binary = query.get("binary").is_some() && query.flag("binary") != Some(false);
    let body = read(body, &headers, limits.max_body_size, "BODY_TOO_BIG").await?;
    let bodies = match is_binary {
        true => binary(&topic, &body, limits)?,
        false => lines(&body, limits)?,
    };
    if bodies.count() == 0 {
        // nsqd answers OK to an empty list, and creates the topic
        api.broker.administer(|state, _| state.create_topic(&topic)).await?;
    } else {
        api.broker.publish(&topic, bodies.compact(), None).await?;
    }
    Ok(text("OK"))
}

/// Reads the whole body, up to the limit.
async fn read(body: Body, headers: &HeaderMap, limit: u32, too_large: &str) -> Result<Bytes, ApiError> {
    refuse_too_large(headers, limit, too_large)?;
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit as usize)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            use std::error::Error;
            let is_limit = error.source().is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
            Err(if is_limit { ApiError::new(413, too_large) } else { ApiError::new(500, "INTERNAL_ERROR") })
        }
        Err(_) => Err(ApiError::new(500, "INTERNAL_ERROR")),
    }
}

fn refuse_too_large(headers: &HeaderMap, limit: u32, too_large: &str) -> Result<(), ApiError> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > u64::from(limit) => Err(ApiError::new(413, too_large)),
        _ => Ok(()),
    }
}

fn parse_delay(delay: &str, limits: &Limits) -> Result<u64, ApiError> {
    let delay = delay.parse::<i64>().ok().and_then(|delay| u64::try_from(delay).ok());
    delay.filter(|delay| *delay <= limits.max_req_timeout).ok_or_else(|| ApiError::new(400, "INVALID_DEFER"))
}

/// Splits a body into a message per line; skips empty lines.
fn lines(body: &Bytes, limits: &Limits) -> Result<Bodies, ApiError> {
    let lines: Vec<_> = body.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    if lines.iter().any(|line| line.len() > limits.max_msg_size as usize) {
        return Err(ApiError::new(413, "MSG_TOO_BIG"));
    }
    Ok(lines.into_iter().map(|line| body.slice_ref(line)).collect())
}

/// Decodes the body of MPUB, which has no leading size here.
fn binary(topic: &TopicName, body: &Bytes, limits: &Limits) -> Result<Bodies, ApiError> {
    let mut command = BytesMut::new();
    command.extend_from_slice(format!("MPUB {topic}\n").as_bytes());
    // only the range of the size is checked, so any number will do
    command.extend_from_slice(&1_u32.to_be_bytes());
    command.extend_from_slice(body);
    match Command::decode(&mut command, limits) {
        Ok(Some(Command::Mpub { bodies, .. })) => Ok(bodies),
        Err(ProtocolError::Answer { code, .. }) => Err(ApiError::new(413, code.as_str().trim_start_matches("E_"))),
        // the body is too short: it ends in a message, or before the first one
        Ok(_) | Err(ProtocolError::LineTooLong) => {
            let code = if body.len() < 4 { ErrorCode::BadBody } else { ErrorCode::BadMessage };
            Err(ApiError::new(413, code.as_str().trim_start_matches("E_")))
        }
    }
}

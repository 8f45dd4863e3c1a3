//! `POST /streams/{s}`: one message, or, as `application/x-ndjson`, one per line.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::json;

use super::Gateway;
use super::access::Caller;
use super::open_group::dead_letters_of;
use crate::commands::common::json_response::{self as responses, RequestError, RequestResult};
use crate::commands::common::query_params::{MAX_DELAY, QueryParams};
use mqueue::client::{PublishError, PublishManyError};
use mqueue::proto::TopicName;

pub(super) async fn publish(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(stream): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> RequestResult {
    let stream = TopicName::new(&stream).map_err(RequestError::unprocessable)?;
    caller.may_publish(&stream)?;
    dead_letters_of(&stream)?;
    let delay = QueryParams::parse(&uri, &["delay"])?.duration("delay", Duration::ZERO..=MAX_DELAY)?;
    let (body, _room) = gateway.read_body(&headers, body).await?;
    let max_bytes = gateway.settings.limits.max_msg_size as usize;
    let published = match (is_ndjson(&headers), delay) {
        (true, None) => {
            let lines = lines(&body, max_bytes)?;
            let count = lines.len();
            let publisher = gateway.publisher().await?;
            publisher.publish_many(&stream, lines).await.map_err(|e| refused_in_part(&e, count))?;
            count
        }
        (true, Some(_)) => {
            return Err(RequestError::unprocessable("delay is for one message: publish these one by one"));
        }
        (false, delay) => {
            check(&body, max_bytes, String::new)?;
            let publisher = gateway.publisher().await?;
            match delay {
                Some(delay) => publisher.publish_deferred(&stream, body, delay).await,
                None => publisher.publish(&stream, body).await,
            }
            .map_err(|e| refused(&e))?;
            1
        }
    };
    gateway.exchange.counters.published.inc_by(published as u64);
    Ok(responses::json(&json!({ "published": published })))
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ["application/x-ndjson", "application/ndjson", "application/jsonl"].contains(&&*kind)
}

/// Splits the body into messages, one per line, and skips empty lines. Fails at the first line that
/// is not JSON, before any message is published.
fn lines(body: &Bytes, max_bytes: usize) -> Result<Vec<Bytes>, RequestError> {
    let mut messages = Vec::new();
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let place = || format!("line {}: ", index + 1);
        check(line, max_bytes, place)?;
        let is_json = std::str::from_utf8(line).map_err(|e| e.to_string());
        let is_json =
            is_json.and_then(|line| serde_json::from_str::<IgnoredAny>(line).map_err(|e| without_line_number(&e)));
        is_json.map_err(|e| {
            RequestError::new(StatusCode::BAD_REQUEST, format!("{}not JSON: {e}; nothing was published", place()))
        })?;
        messages.push(body.slice_ref(line));
    }
    if messages.is_empty() {
        return Err(RequestError::new(StatusCode::BAD_REQUEST, "no lines: a message is a line of JSON"));
    }
    Ok(messages)
}

/// Formats serde's error without its line number, which counts within the line.
fn without_line_number(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what} at column {}", error.column())
}

fn check(message: &[u8], max_bytes: usize, place: impl Fn() -> String) -> Result<(), RequestError> {
    match message.len() {
        0 => Err(RequestError::new(StatusCode::BAD_REQUEST, "empty message: send it as the request's body")),
        size if size > max_bytes => {
            let line = format!(
                "{}a message of {size} bytes: at most {max_bytes} are allowed (--max-msg-size); nothing was published",
                place()
            );
            Err(RequestError::new(StatusCode::PAYLOAD_TOO_LARGE, line))
        }
        _ => Ok(()),
    }
}

/// Returns the refusal for messages that nsqd did not accept. Some of them may have been published.
fn refused_in_part(error: &PublishManyError, all: usize) -> RequestError {
    let (failed, (first, why)) = (error.0.len(), &error.0[0]);
    let line = format!("{} of {all} messages were published, not message {}: {why}", all - failed, first + 1);
    match refused(why) {
        refusal if failed == all => refusal,
        refusal => refusal.with_message(line),
    }
}

fn refused(error: &PublishError) -> RequestError {
    match error {
        PublishError::Empty | PublishError::TooLarge(_) | PublishError::Refused(_) => {
            RequestError::unprocessable(error)
        }
        _ => RequestError::unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named_and_no_message_is_accepted() {
        let good = lines(&Bytes::from_static(b"1\n{\"a\":2}\r\n\n\"x\""), 100).unwrap();
        assert_eq!(good, ["1", "{\"a\":2}", "\"x\""]);
        for (body, status, words) in [
            (&b"1\n{\n3"[..], 400, "line 2: not JSON"),
            (b"1\n\"\xff\"", 400, "line 2: not JSON"),
            (b"\n\n", 400, "no lines"),
            (b"1\n2\n1234567", 413, "line 3: a message of 7 bytes"),
        ] {
            let refusal = format!("{:?}", lines(&Bytes::from_static(body), 6).unwrap_err());
            assert!(refusal.contains(words) && refusal.contains(&status.to_string()), "{refusal}");
        }
    }
}

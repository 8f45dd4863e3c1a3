//! `GET /streams/{s}/groups/{g}/jobs`: a stream of jobs, or, with `wait` or `max`, those that are there soon.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderName, Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::stream;
use tokio::time::timeout;

use super::Gateway;
use super::jobs::{GroupKey, Terms};
use super::outbox::{Feed, Outbox};
use super::params::Params;
use super::refusal::{Answer, Refusal};
use super::server::Visit;
use super::stay::Stay;
use crate::commands::common::job::HEARTBEAT_HEADER;
use mqueue::proto::{ChannelName, TopicName};

/// nsqd's default `--max-rdy-count`.
const MOST_IN_FLIGHT: u32 = 2500;
/// Past nsqd's `--max-msg-timeout` a job comes again whatever is said.
const LONGEST_DEADLINE: Duration = Duration::from_secs(15 * 60);
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);
/// How long those who take several at once wait for the second.
const GATHER: Duration = Duration::from_millis(5);

const PARAMETERS: [&str; 5] = ["in_flight", "deadline", "n", "wait", "max"];

pub(super) async fn jobs(
    State(gateway): State<Arc<Gateway>>,
    Extension(visit): Extension<Visit>,
    Path((stream, group)): Path<(String, String)>,
    method: Method,
    uri: Uri,
) -> Answer {
    if method == Method::HEAD {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "jobs are taken with GET"));
    }
    let key = GroupKey {
        stream: TopicName::new(&stream).map_err(Refusal::unusable)?,
        group: ChannelName::new(&group).map_err(Refusal::unusable)?,
    };
    let params = Params::parse(&uri, &PARAMETERS)?;
    let second = Duration::from_secs(1);
    let deadline = params.duration("deadline", second..=LONGEST_DEADLINE)?.unwrap_or(gateway.settings.workers.deadline);
    let in_flight = params.number("in_flight", 1..=MOST_IN_FLIGHT)?;
    let wait = params.duration("wait", Duration::ZERO..=LONGEST_WAIT)?;
    let max = params.number("max", 1..=MOST_IN_FLIGHT)?;
    let name = params.name("n")?.unwrap_or_else(|| visit.peer.to_string());
    let outbox = Outbox::new(name, visit.cut);
    if wait.is_none() && max.is_none() {
        let terms = Terms { in_flight: in_flight.unwrap_or(1), deadline };
        return Ok(streamed(&gateway, gateway.join(&key, terms, &outbox).await?));
    }
    if in_flight.is_some() {
        return Err(Refusal::unusable("in_flight is for a stream of jobs: with wait or max, max says how many"));
    }
    let terms = Terms { in_flight: max.unwrap_or(1), deadline };
    let stay = gateway.join(&key, terms, &outbox).await?;
    Ok(gathered(stay, terms.in_flight, wait.unwrap_or_default()).await)
}

/// What comes, as it comes, until one of the two goes.
fn streamed(gateway: &Gateway, stay: Stay) -> axum::response::Response {
    let heartbeat = gateway.settings.workers.heartbeat;
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        // nginx would keep lines back
        (HeaderName::from_static("x-accel-buffering"), "no".to_owned()),
        (HeaderName::from_static(HEARTBEAT_HEADER), heartbeat.as_secs_f64().to_string()),
    ];
    (headers, Body::from_stream(Feed::new(stay, heartbeat))).into_response()
}

/// Waits for a job, and for others that come with it. Who goes while it waits gives back what came.
async fn gathered(stay: Stay, max: u32, wait: Duration) -> axum::response::Response {
    let came = timeout(wait.max(GATHER), stay.outbox.wait_for(1)).await;
    if came.is_ok() && max > 1 {
        let _ = timeout(GATHER, stay.outbox.wait_for(max)).await;
    }
    stay.retire();
    let text = array(&stay.outbox.take().text);
    // what nobody fetches goes back
    let body = stream::once(async move {
        stay.outlive_connection();
        Ok::<_, std::convert::Infallible>(text)
    });
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(body)).into_response()
}

/// Lines of JSON as one array, an element a line.
fn array(lines: &[u8]) -> Bytes {
    let lines = lines.trim_ascii_end();
    let mut array = Vec::with_capacity(lines.len() + lines.len() / 64 + 3);
    array.push(b'[');
    for byte in lines {
        if *byte == b'\n' {
            array.push(b',');
        }
        array.push(*byte);
    }
    array.extend_from_slice(b"]\n");
    array.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_an_array() {
        assert_eq!(array(b""), "[]\n");
        assert_eq!(array(b"{}\n"), "[{}]\n");
        assert_eq!(array(b"{}\n{}\n"), "[{},\n{}]\n");
    }
}

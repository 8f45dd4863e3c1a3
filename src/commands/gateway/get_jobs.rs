//! `GET /streams/{s}/groups/{g}/jobs`: a stream of jobs, or, with `wait` or `max`, one batch.

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
use super::access::Caller;
use super::jobs::{GroupKey, WorkerLimits};
use super::outbox::{JobStream, Outbox};
use super::worker_guard::WorkerGuard;
use crate::commands::common::http_server::RequestConnection;
use crate::commands::common::job::HEARTBEAT_HEADER;
use crate::commands::common::json_response::{RequestError, RequestResult};
use crate::commands::common::query_params::QueryParams;
use mqueue::proto::{ChannelName, TopicName};

/// nsqd's default `--max-rdy-count`.
const MAX_IN_FLIGHT: u32 = 2500;
/// nsqd's default `--max-msg-timeout`, after which nsqd requeues a job in any case.
const MAX_DEADLINE: Duration = Duration::from_secs(15 * 60);
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);
/// How long a batch waits for further jobs after the first.
const BATCH_DELAY: Duration = Duration::from_millis(5);

const PARAMETERS: [&str; 6] = ["in_flight", "deadline", "n", "wait", "max", "create"];

pub(super) async fn jobs(
    State(gateway): State<Arc<Gateway>>,
    Extension(visit): Extension<RequestConnection>,
    Extension(caller): Extension<Caller>,
    Path((stream, group)): Path<(String, String)>,
    method: Method,
    uri: Uri,
) -> RequestResult {
    if method == Method::HEAD {
        return Err(RequestError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: use GET"));
    }
    let key = GroupKey {
        stream: TopicName::new(&stream).map_err(RequestError::unprocessable)?,
        group: ChannelName::new(&group).map_err(RequestError::unprocessable)?,
    };
    caller.may_take(&key)?;
    let params = QueryParams::parse(&uri, &PARAMETERS)?;
    let create = params.flag("create")?;
    let second = Duration::from_secs(1);
    let deadline = params.duration("deadline", second..=MAX_DEADLINE)?.unwrap_or(gateway.settings.workers.deadline);
    let in_flight = params.number("in_flight", 1..=MAX_IN_FLIGHT)?;
    let wait = params.duration("wait", Duration::ZERO..=MAX_WAIT)?;
    let max = params.number("max", 1..=MAX_IN_FLIGHT)?;
    let name = params.name("n")?.unwrap_or_else(|| visit.peer.to_string());
    let outbox = Outbox::new(name, caller, visit.cut);
    if wait.is_none() && max.is_none() {
        let limits = WorkerLimits { in_flight: in_flight.unwrap_or(1), deadline };
        return Ok(stream_jobs(&gateway, gateway.join(&key, limits, &outbox, create).await?));
    }
    if in_flight.is_some() {
        return Err(RequestError::unprocessable(
            "in_flight is for a stream of jobs: with wait or max, max says how many",
        ));
    }
    let limits = WorkerLimits { in_flight: max.unwrap_or(1), deadline };
    let guard = gateway.join(&key, limits, &outbox, create).await?;
    Ok(collect_jobs(guard, limits.in_flight, wait.unwrap_or_default()).await)
}

/// Streams jobs until the worker or the gateway ends the connection.
fn stream_jobs(gateway: &Gateway, guard: WorkerGuard) -> axum::response::Response {
    let heartbeat = gateway.settings.workers.heartbeat;
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        // nginx would keep lines back
        (HeaderName::from_static("x-accel-buffering"), "no".to_owned()),
        (HeaderName::from_static(HEARTBEAT_HEADER), heartbeat.as_secs_f64().to_string()),
    ];
    (headers, Body::from_stream(JobStream::new(guard, heartbeat))).into_response()
}

/// Waits for a job, and shortly for more, up to `max`. If the worker disconnects meanwhile, its
/// jobs are requeued.
async fn collect_jobs(guard: WorkerGuard, max: u32, wait: Duration) -> axum::response::Response {
    let came = timeout(wait.max(BATCH_DELAY), guard.outbox.wait_for(1)).await;
    if came.is_ok() && max > 1 {
        let _ = timeout(BATCH_DELAY, guard.outbox.wait_for(max)).await;
    }
    guard.retire();
    let text = array(&guard.outbox.take().text);
    // if the body is dropped unread, the guard requeues the jobs
    let body = stream::once(async move {
        guard.outlive_connection();
        Ok::<_, std::convert::Infallible>(text)
    });
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(body)).into_response()
}

/// Joins lines of JSON to an array, one element per line.
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

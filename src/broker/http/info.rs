//! `/ping`, `/healthz` and `/info`.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::HttpApi;
use super::response::{json, text};
use crate::broker::VERSION;

/// Names and addresses that the broker reports.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The address that nsqlookupd gives to clients.
    pub broadcast_address: String,
    /// The host name.
    pub hostname: String,
    /// The first TCP listener's port; -1 on a Unix socket.
    pub tcp_port: i32,
    /// The first HTTP listener's port; -1 on a Unix socket.
    pub http_port: i32,
    /// The port of NSQ's TCP protocol that nsqlookupd gives to clients.
    pub broadcast_tcp_port: u16,
    /// The port of the HTTP API that nsqlookupd gives to clients.
    pub broadcast_http_port: u16,
    /// When the broker started.
    pub started: SystemTime,
}

impl Identity {
    /// The start time in seconds since 1970.
    pub(super) fn start_time(&self) -> i64 {
        let since = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
}

/// Response of `/info`: nsqd's fields, in nsqd's order; durations in nanoseconds.
#[derive(Serialize)]
struct InfoBody<'a> {
    version: &'a str,
    broadcast_address: &'a str,
    hostname: &'a str,
    http_port: i32,
    tcp_port: i32,
    start_time: i64,
    max_heartbeat_interval: i64,
    max_output_buffer_size: i64,
    max_output_buffer_timeout: i64,
    max_deflate_level: u32,
}

pub(super) async fn info(State(api): State<Arc<HttpApi>>) -> Response {
    const NANOS: i64 = 1_000_000;
    let (identity, config) = (&api.identity, api.broker.config());
    json(&InfoBody {
        version: VERSION,
        broadcast_address: &identity.broadcast_address,
        hostname: &identity.hostname,
        http_port: identity.http_port,
        tcp_port: identity.tcp_port,
        start_time: identity.start_time(),
        max_heartbeat_interval: config.max_heartbeat_interval.saturating_mul(NANOS),
        max_output_buffer_size: config.max_output_buffer_size,
        max_output_buffer_timeout: config.output_buffer_timeout.1.saturating_mul(NANOS),
        max_deflate_level: config.max_deflate_level,
    })
}

/// Answers `/ping` with OK, or the reason why publishing fails. It is the only response without the
/// API's version.
pub(super) async fn ping(State(api): State<Arc<HttpApi>>) -> Response {
    let health = api.broker.health();
    let status = if health == "OK" { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], health).into_response()
}

/// Answers `/healthz` with `ok`, or with 503 and the reason why publishing fails: like every command
/// of mqueue that serves metrics.
pub(super) async fn healthz(State(api): State<Arc<HttpApi>>) -> Response {
    match api.broker.failure() {
        None => text("ok\n"),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, text(why + "\n")).into_response(),
    }
}

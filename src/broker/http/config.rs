//! `/config/OPTION`: settings by their names in nsqd; two of them can be changed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::HttpApi;
use super::response::{self, ApiError, ApiResult};
use crate::proto::stats::json_number;

/// Encodes a value as nsqd does: strings as plain text, everything else as JSON.
fn answer(value: &Value) -> ApiResult {
    Ok(match value {
        // Go sends no content type with an empty body
        Value::String(text) if text.is_empty() => response::nothing(),
        Value::String(text) => response::text(text.as_str()),
        other => response::json(other),
    })
}

pub(super) async fn read(State(api): State<Arc<HttpApi>>, Path(option): Path<String>) -> ApiResult {
    answer(&lookup(&api, &option).ok_or_else(invalid_option)?)
}

pub(super) async fn write(State(api): State<Arc<HttpApi>>, Path(option): Path<String>, body: Body) -> ApiResult {
    let most = api.broker.config().limits.max_msg_size as usize;
    let body = to_bytes(body, most).await.map_err(|_| ApiError::new(413, "INVALID_VALUE"))?;
    if body.is_empty() {
        return Err(ApiError::new(413, "INVALID_VALUE"));
    }
    let invalid_value = || ApiError::new(400, "INVALID_VALUE");
    match option.as_str() {
        "nsqlookupd_tcp_addresses" => {
            let addresses = serde_json::from_slice(&body).map_err(|_| invalid_value())?;
            api.broker.register_with(addresses);
        }
        "log_level" => {
            let level = std::str::from_utf8(&body).ok().and_then(level_number).ok_or_else(invalid_value)?;
            // --log decides what is logged; the level is only stored and reported
            api.broker.set_log_level(level);
        }
        _ => return Err(invalid_option()),
    }
    answer(&lookup(&api, &option).ok_or_else(invalid_option)?)
}

fn invalid_option() -> ApiError {
    ApiError::new(400, "INVALID_OPTION")
}

/// nsqd's number of a log level (`internal/lg`).
fn level_number(word: &str) -> Option<i32> {
    match word.to_lowercase().as_str() {
        "debug" => Some(1),
        "info" => Some(2),
        "warn" => Some(3),
        "error" => Some(4),
        "fatal" => Some(5),
        _ => None,
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Value of a setting by its name in nsqd's configuration file, durations in nanoseconds. `None`
/// for unknown names, and for settings without a meaning here.
fn lookup(api: &HttpApi, option: &str) -> Option<Value> {
    const NANOS: u64 = 1_000_000;
    let (config, identity) = (api.broker.config(), &api.identity);
    let (state, limits) = (&config.state, &config.limits);
    Some(match option {
        "nsqlookupd_tcp_addresses" => json!(api.broker.lookupds()),
        "log_level" => json!(api.broker.log_level()),
        "broadcast_address" => json!(identity.broadcast_address),
        "mem_queue_size" => json!(state.mem_queue_size),
        "msg_timeout" => json!(config.msg_timeout * NANOS),
        "max_msg_timeout" => json!(state.max_msg_timeout * NANOS),
        "max_msg_size" => json!(limits.max_msg_size),
        "max_body_size" => json!(limits.max_body_size),
        "max_req_timeout" => json!(limits.max_req_timeout * NANOS),
        "max_heartbeat_interval" => json!(config.max_heartbeat_interval.unsigned_abs() * NANOS),
        "max_rdy_count" => json!(config.max_rdy_count),
        "max_output_buffer_size" => json!(config.max_output_buffer_size),
        "max_output_buffer_timeout" => json!(config.output_buffer_timeout.1.unsigned_abs() * NANOS),
        "min_output_buffer_timeout" => json!(config.output_buffer_timeout.0.unsigned_abs() * NANOS),
        "max_channel_consumers" => json!(state.max_channel_consumers),
        "deflate" | "snappy" => json!(false),
        "tls_cert" | "tls_key" | "tls_client_auth_policy" | "tls_root_ca_file" => json!(""),
        "statsd_address" => json!(config.statsd.address.as_ref().map(ToString::to_string).unwrap_or_default()),
        "statsd_prefix" => json!(config.statsd.prefix_of(identity)),
        "statsd_interval" => json!(nanos(config.statsd.interval)),
        "statsd_mem_stats" => json!(config.statsd.mem_stats),
        "statsd_udp_packet_size" => json!(config.statsd.udp_packet_size),
        "statsd_exclude_ephemeral" => json!(config.statsd.exclude_ephemeral),
        "e2e_processing_latency_window_time" => json!(nanos(config.latency.window)),
        "e2e_processing_latency_percentiles" => {
            json!(config.latency.percentiles.iter().map(|it| json_number(*it)).collect::<Vec<_>>())
        }
        "auth_http_addresses" => json!([]),
        "max_deflate_level" => json!(6),
        "tls_required" => json!(0),
        _ => return None,
    })
}

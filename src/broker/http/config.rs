//! `/config/OPTION`: settings by their names in nsqd; two of them can be changed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::HttpApi;
use super::response::{self, ApiError, ApiResult};
use crate::broker::{BrokerConfig, TlsRequired};
use crate::net::tls::ClientAuth;
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
            let word = std::str::from_utf8(&body).map_err(|_| invalid_value())?;
            let level = word.parse().map_err(|_| invalid_value())?;
            api.broker.set_log_level(level);
        }
        _ => return Err(invalid_option()),
    }
    answer(&lookup(&api, &option).ok_or_else(invalid_option)?)
}

fn invalid_option() -> ApiError {
    ApiError::new(400, "INVALID_OPTION")
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
        "log_level" => json!(api.broker.log_level().borrow().number()),
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
        "output_buffer_timeout" => json!(config.default_output_buffer_timeout.unsigned_abs() * NANOS),
        "id" => json!(state.node_id),
        "broadcast_tcp_port" => json!(identity.broadcast_tcp_port),
        "broadcast_http_port" => json!(identity.broadcast_http_port),
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
        option => return lookup_security(config, option),
    })
}

/// Value of a setting of TLS, compression and AUTH by its name in nsqd's configuration file.
fn lookup_security(config: &BrokerConfig, option: &str) -> Option<Value> {
    let tls = config.tls.as_ref().map(|tls| tls.settings());
    Some(match option {
        "deflate" => json!(config.deflate),
        "snappy" => json!(config.snappy),
        "max_deflate_level" => json!(config.max_deflate_level),
        "auth_http_addresses" => json!(config.auth.as_ref().map_or(&[][..], |auth| auth.addresses())),
        "tls_required" => json!(match config.tls_required {
            TlsRequired::No => 0,
            TlsRequired::TcpOnly => 1,
            TlsRequired::Yes => 2,
        }),
        "tls_cert" => json!(tls.map_or_else(Default::default, |tls| tls.cert_file.display().to_string())),
        "tls_key" => json!(tls.map_or_else(Default::default, |tls| tls.key_file.display().to_string())),
        "tls_root_ca_file" => {
            let file = tls.and_then(|tls| tls.root_ca_file.as_ref());
            json!(file.map_or_else(Default::default, |file| file.display().to_string()))
        }
        "tls_client_auth_policy" => json!(match tls.map(|tls| tls.client_auth) {
            Some(ClientAuth::Require) => "require",
            Some(ClientAuth::RequireVerify) => "require-verify",
            Some(ClientAuth::None) | None => "",
        }),
        _ => return None,
    })
}

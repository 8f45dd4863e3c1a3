//! The routes, and the check of the bearer token.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use subtle::ConstantTimeEq;

use super::error::{GatewayError, GatewayResult, json};
use super::{Gateway, get_jobs, post_answers, publish};
use crate::commands::common::metrics::{CONTENT_TYPE, Metrics};

const OPENAPI: &str = include_str!("openapi.json");
/// The paths that need no bearer token.
const PUBLIC_PATHS: [&str; 2] = ["/healthz", "/openapi.json"];

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/streams/{stream}", post(publish::publish))
        .route("/streams/{stream}/groups/{group}/jobs", get(get_jobs::jobs))
        .route("/jobs/{verb}", post(post_answers::answer_many))
        .route("/jobs/{token}/{verb}", post(post_answers::answer_one))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .method_not_allowed_fallback(|| async {
            GatewayError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: see /openapi.json")
        })
        .fallback(|| async { GatewayError::new(StatusCode::NOT_FOUND, "no such path: see /openapi.json") })
        .layer(from_fn_with_state(gateway.clone(), guard))
        .with_state(gateway)
}

/// Refuses requests without the bearer token, if one is configured, and counts refused requests.
async fn guard(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let response = match &gateway.bearer {
        Some(bearer) if !PUBLIC_PATHS.contains(&request.uri().path()) && !has_bearer(&request, bearer) => {
            GatewayError::new(StatusCode::UNAUTHORIZED, "missing or wrong token: send Authorization: Bearer …")
                .into_response()
        }
        Some(_) | None => next.run(request).await,
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        gateway.exchange.counters.refused.inc();
    }
    response
}

fn has_bearer(request: &Request, bearer: &[u8]) -> bool {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    let is_bearer = given.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer "));
    is_bearer && given[7..].trim_ascii().ct_eq(bearer).into()
}

/// 200, or 503 during shutdown and if a group with workers has no connection to any nsqd.
async fn healthz(State(gateway): State<Arc<Gateway>>) -> Response {
    let mut cut_off = false;
    let groups = gateway.exchange.groups().into_iter().map(|(group_consumer, workers)| {
        let health = group_consumer.control.health();
        cut_off |= workers > 0 && health.connected == 0;
        json!({
            "stream": group_consumer.key.stream.as_str(),
            "group": group_consumer.key.group.as_str(),
            "workers": workers,
            "in_flight": health.in_flight,
            "nsqds": health.connected,
        })
    });
    let groups: Vec<_> = groups.collect();
    let is_well = !cut_off && !gateway.shutdown.draining.is_cancelled();
    let mut response = json(&json!({ "status": if is_well { "ok" } else { "unavailable" }, "groups": groups }));
    if !is_well {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    let (counters, groups) = (&gateway.exchange.counters, gateway.exchange.groups());
    counters.groups.set(groups.len() as u64);
    counters.workers.set(groups.iter().map(|(_, workers)| *workers as u64).sum());
    counters.held.set(gateway.exchange.held() as u64);
    let text = Metrics::new(|registry| counters.register(registry)).text();
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

async fn openapi() -> GatewayResult {
    let text = OPENAPI.replacen("VERSION", env!("CARGO_PKG_VERSION"), 1);
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn openapi_describes_exactly_the_served_routes() {
        let described: serde_json::Value = serde_json::from_str(super::OPENAPI).unwrap();
        let described: BTreeSet<String> = described["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods
                    .as_object()
                    .unwrap()
                    .keys()
                    .filter(|key| *key != "parameters")
                    .map(move |method| format!("{method} {path}"))
            })
            .collect();
        let served: BTreeSet<String> = include_str!("routes.rs")
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".route(\""))
            .map(|rest| {
                let (path, method) = rest.split_once("\", ").unwrap();
                format!("{} {path}", method.split('(').next().unwrap())
            })
            .collect();
        assert_eq!(described, served);
    }
}

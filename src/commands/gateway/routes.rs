//! The routes, and the check of bearer tokens.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use super::access::Caller;
use super::{Gateway, get_jobs, post_answers, publish};
use crate::commands::common::json_response::{RequestError, RequestResult, json};
use crate::commands::common::metrics::{self, Metrics, group_meter};

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
            RequestError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: see /openapi.json")
        })
        .fallback(|| async { RequestError::new(StatusCode::NOT_FOUND, "no such path: see /openapi.json") })
        .layer(from_fn_with_state(gateway.clone(), guard))
        .with_state(gateway)
}

/// Refuses requests without a token, if tokens are configured, and counts refused requests. Tells
/// handlers whose the request is.
async fn guard(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let caller = gateway.access.caller(request.headers());
    let is_public = PUBLIC_PATHS.contains(&request.uri().path());
    let response = match caller.check() {
        Err(refusal) if !is_public => refusal.into_response(),
        Ok(()) | Err(_) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        gateway.exchange.counters.refused.inc();
    }
    response
}

/// 200, or 503 during shutdown and if a group with workers has no connection to any nsqd. Lists the
/// groups, but not to a caller without a token that needs one.
async fn healthz(State(gateway): State<Arc<Gateway>>, Extension(caller): Extension<Caller>) -> Response {
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
    let mut groups: Vec<_> = groups.collect();
    if caller.check().is_err() {
        groups.clear();
    }
    let is_well = !cut_off && !gateway.shutdown.draining.is_cancelled();
    let mut response = json(&json!({ "status": if is_well { "ok" } else { "unavailable" }, "groups": groups }));
    if !is_well {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn metrics(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Response {
    let (counters, groups) = (&gateway.exchange.counters, gateway.exchange.groups());
    counters.groups.set(groups.len() as u64);
    counters.workers.set(groups.iter().map(|(_, workers)| *workers as u64).sum());
    counters.held.set(gateway.exchange.held() as u64);
    let exchange = gateway.exchange.clone();
    let metrics = Metrics::new(|registry| {
        counters.register(registry);
        group_meter::register(registry, move || exchange.figures());
    });
    metrics::response(metrics.text(), &headers)
}

async fn openapi() -> RequestResult {
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

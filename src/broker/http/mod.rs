//! nsqd's HTTP API (`nsqd/http.go`): the same paths, codes and error bodies; and `/metrics`,
//! `/healthz`, `/channel/peek` and `/topic/peek`.

mod admin;
mod config;
mod info;
mod log_metrics;
mod methods;
mod metrics;
mod peek;
mod publish;
mod query;
mod response;
mod serve;
mod stats;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::{get, post};

use self::response::ApiError;
use super::Broker;

pub use self::info::Identity;
pub(super) use self::serve::serve;
pub use self::serve::settings;

/// State that the handlers of requests share.
#[derive(Debug)]
pub struct HttpApi {
    pub(super) broker: Arc<Broker>,
    pub(super) identity: Identity,
}

/// Router of an HTTP port where TLS is required: refuses everything, and names the port with TLS.
pub fn tls_required(https_port: i32) -> Router {
    Router::new().fallback(move || async move {
        let headers = [("content-type", "application/json; charset=utf-8"), ("x-nsq-content-type", "nsq; version=1.0")];
        (StatusCode::FORBIDDEN, headers, format!(r#"{{"message": "TLS_REQUIRED", "https_port": {https_port}}}"#))
    })
}

/// Router of all paths.
pub fn router(api: Arc<HttpApi>) -> Router {
    let paths = Router::new()
        .route("/ping", get(info::ping))
        .route("/healthz", get(info::healthz))
        .route("/info", get(info::info))
        .route("/pub", post(publish::publish))
        .route("/mpub", post(publish::publish_many))
        .route("/stats", get(stats::stats))
        .route("/metrics", get(metrics::metrics))
        .route("/topic/create", post(admin::create_topic))
        .route("/topic/delete", post(admin::delete_topic))
        .route("/topic/empty", post(admin::empty_topic))
        .route("/topic/peek", get(peek::peek_topic))
        .route("/topic/pause", post(admin::pause_topic))
        .route("/topic/unpause", post(admin::unpause_topic))
        .route("/channel/create", post(admin::create_channel))
        .route("/channel/delete", post(admin::delete_channel))
        .route("/channel/empty", post(admin::empty_channel))
        .route("/channel/pause", post(admin::pause_channel))
        .route("/channel/peek", get(peek::peek_channel))
        .route("/channel/pub", post(publish::publish_to_channel))
        .route("/channel/unpause", post(admin::unpause_channel))
        .route("/config/{option}", get(config::read).put(config::write))
        .method_not_allowed_fallback(|| async { ApiError::new(405, "METHOD_NOT_ALLOWED") })
        .fallback(|| async { ApiError::new(404, "NOT_FOUND") })
        .with_state(api);
    // wrapped around the router, which knows a path's methods only after dispatch
    Router::new().fallback_service(paths).layer(from_fn(methods::answer))
}

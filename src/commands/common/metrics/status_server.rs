//! The HTTP server beside a command's work: `/metrics`, and `/healthz` with 200 or 503.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::task::AbortOnDropHandle;

use super::{Metrics, response};
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::http_guard_args::HttpGuardArgs;
use mqueue::http::{BoundedListener, BrowserGuard};
use mqueue::io_error::describe;
use mqueue::proto::HostPort;

/// A running server, which ends when it is dropped.
pub(crate) type StatusServer = AbortOnDropHandle<Infallible>;

type HealthCheck = dyn Fn() -> Result<(), String> + Send + Sync;

/// The metrics of a command, and its health: `Ok`, or why it cannot work.
pub(crate) struct StatusPages {
    metrics: Metrics,
    health: Box<HealthCheck>,
}

impl StatusPages {
    /// Makes the pages.
    pub(crate) fn new(metrics: Metrics, health: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { metrics, health: Box::new(health) }
    }

    /// Returns the routes of the pages.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(async |State(pages): State<Arc<Self>>| healthz((pages.health)())))
            .route(
                "/metrics",
                get(async |State(pages): State<Arc<Self>>, headers: HeaderMap| {
                    response(pages.metrics.text(), &headers)
                }),
            )
            .with_state(Arc::new(self))
    }
}

impl fmt::Debug for StatusPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusPages").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

/// Makes the response of `/healthz`: `ok`, or 503 with the reason, each on one line.
pub(crate) fn healthz(health: Result<(), String>) -> Response {
    match health {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

/// Serves `router`, whose paths are named in the log, on the address of `flag`.
///
/// # Errors
/// The address is not available.
pub(crate) async fn serve(
    flag: &str,
    address: &HostPort,
    guard: &HttpGuardArgs,
    paths: &str,
    router: Router,
) -> Result<StatusServer, Failure> {
    let cannot =
        |e| Failure::new(Exit::Failure, format!("cannot listen on {address}: {}: choose another {flag}", describe(&e)));
    let listener = BoundedListener::bind(address, guard.extend(BrowserGuard::default())).await.map_err(cannot)?;
    tracing::info!("listening on http://{} ({paths})", listener.address().map_err(cannot)?);
    Ok(AbortOnDropHandle::new(tokio::spawn(listener.serve(router))))
}

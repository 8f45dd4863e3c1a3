//! Connections of the HTTP API, with time limits for reading requests and writing responses.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::response::ApiError;
use crate::broker::accept_gate::GatedListener;
use crate::broker::threads::ConnectionThreads;
use crate::http::{BrowserGuard, ConnectionLimits, ConnectionSlots, ServerSettings, serve_connection};
use crate::net::tls::TlsServer;

/// As Go's server writes headers.
const LIMITS: ConnectionLimits = ConnectionLimits {
    head_time: Duration::from_secs(60),
    write_time: Duration::from_secs(15),
    life: None,
    title_case_headers: true,
};

/// Returns the settings of a listener: refusals are in nsqd's form.
pub fn settings(guard: BrowserGuard, tls: Option<Arc<TlsServer>>) -> Arc<ServerSettings> {
    let forbidden = |line: String| ApiError::new(403, line).into_response();
    Arc::new(ServerSettings::new(LIMITS, guard, forbidden).with_tls(tls))
}

/// Serves a listener until `stop` is cancelled.
pub(in crate::broker) async fn serve(
    router: Router,
    listener: GatedListener,
    settings: Arc<ServerSettings>,
    places: ConnectionSlots,
    stop: CancellationToken,
    tasks: TaskTracker,
    threads: Arc<ConnectionThreads>,
) {
    loop {
        let accepting = async {
            let (socket, _, open) = listener.accept().await;
            (socket, open, places.enter().await)
        };
        let (socket, open, place) = tokio::select! {
            accepted = accepting => accepted,
            () = stop.cancelled() => return,
        };
        let service = TowerToHyperService::new(router.clone());
        let (settings, stop) = (settings.clone(), stop.clone());
        threads.spawn(&tasks, socket, |socket| async move {
            serve_connection(service, socket, settings, place, stop).await;
            drop(open);
        });
    }
}

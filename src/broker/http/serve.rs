//! Connections of the HTTP API, with time limits for reading requests and writing responses.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::socket::BrokerListener;
use crate::http::{ConnectionLimits, ConnectionSlots, serve_connection};
use crate::net::tls::{self, TlsServer};

/// As Go's server writes headers.
const LIMITS: ConnectionLimits = ConnectionLimits {
    head_time: Duration::from_secs(60),
    write_time: Duration::from_secs(15),
    life: None,
    title_case_headers: true,
};

/// Time for a TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Serves a listener, over TLS if `tls` is given, until `stop` is cancelled.
pub async fn serve(
    router: Router,
    listener: BrokerListener,
    tls: Option<Arc<TlsServer>>,
    places: ConnectionSlots,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepting = async {
            let (socket, _) = listener.accept().await;
            (socket, places.enter().await)
        };
        let (socket, place) = tokio::select! {
            accepted = accepting => accepted,
            () = stop.cancelled() => return,
        };
        let (service, stop) = (TowerToHyperService::new(router.clone()), stop.clone());
        let tls = tls.clone();
        tasks.spawn(async move {
            match tls {
                None => serve_connection(service, socket, LIMITS, place, stop).await,
                Some(tls) => {
                    let accepted = tokio::select! {
                        accepted = timeout(HANDSHAKE_TIME, tls.accept(socket)) => accepted,
                        // a client that does not shake hands makes way as one that asks nothing does
                        () = place.evicted() => return,
                        () = stop.cancelled() => return,
                    };
                    match accepted {
                        Ok(Ok((stream, _))) => serve_connection(service, stream, LIMITS, place, stop).await,
                        Ok(Err(error)) => tracing::debug!(reason = %tls::explain(&error), "TLS handshake failed"),
                        Err(_) => tracing::debug!("TLS handshake timed out"),
                    }
                }
            }
        });
    }
}

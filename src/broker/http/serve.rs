//! Connections of the HTTP API, with time limits for reading requests and writing responses.

use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::socket::{BrokerListener, ClientSocket};
use crate::http::{ConnectionLimits, ConnectionSlots, serve_connection};

/// As Go's server writes headers.
const LIMITS: ConnectionLimits = ConnectionLimits {
    head_time: Duration::from_secs(60),
    write_time: Duration::from_secs(15),
    life: None,
    title_case_headers: true,
};

/// Serves a listener until told to stop.
pub async fn serve(
    router: Router,
    listener: BrokerListener,
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
        tasks.spawn(async move {
            match socket {
                ClientSocket::Tcp(stream) => serve_connection(service, stream, LIMITS, place, stop).await,
                ClientSocket::Unix(stream) => serve_connection(service, stream, LIMITS, place, stop).await,
            }
        });
    }
}

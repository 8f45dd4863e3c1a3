//! Connections of the HTTP API: as many as there are, but none that keeps the broker waiting for its request.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::socket::{Listener, Socket};
use crate::serve::{Manners, connection};

/// As Go's server writes headers.
const MANNERS: Manners = Manners { head_time: Duration::from_secs(60), title_case_headers: true };
/// Connections at once; more wait in the kernel.
const CONNECTIONS: usize = 1024;

/// Serves a listener until told to stop.
pub async fn serve(router: Router, listener: Listener, stop: CancellationToken, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepting = async {
            let place = places.clone().acquire_owned().await.expect("it is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepting => accepted,
            () = stop.cancelled() => return,
        };
        let Some((socket, _)) = accepted else { continue };
        let (service, stop) = (TowerToHyperService::new(router.clone()), stop.clone());
        tasks.spawn(async move {
            match socket {
                Socket::Tcp(stream) => connection(service, stream, MANNERS, stop).await,
                Socket::Unix(stream) => connection(service, stream, MANNERS, stop).await,
            }
            drop(place);
        });
    }
}

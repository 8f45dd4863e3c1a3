//! nsqd's TCP protocol, on TCP and Unix sockets.

mod connection;
mod execute;
mod identify;
mod socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::socket::Listener;

use self::connection::Connection;
use super::Broker;

/// How long to wait when no connection can be taken (too many open files).
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the connections of a listener until told to stop; each ends by itself then.
pub async fn serve(broker: Arc<Broker>, listener: Listener, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                let connection = Connection::new(broker.clone(), socket, peer);
                tasks.spawn(connection.serve(stop.clone()));
            }
            Err(error) => {
                log_refused(&error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn log_refused(error: &io::Error) {
    tracing::warn!("cannot take a connection: {error}");
}

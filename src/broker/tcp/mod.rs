//! nsqd's TCP protocol, on TCP and Unix sockets.

mod connection;
mod execute;
mod identify;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::Connection;
use super::Broker;
use super::socket::Listener;

/// Serves the connections of a listener until told to stop; each ends by itself then.
pub async fn serve(broker: Arc<Broker>, listener: Listener, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        if let Some((socket, peer)) = accepted {
            let connection = Connection::new(broker.clone(), socket, peer);
            tasks.spawn(connection.serve(stop.clone()));
        }
    }
}

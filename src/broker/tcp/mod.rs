//! nsqd's TCP protocol, on TCP and Unix sockets.
//!
//! At the maximum of connections, a connection that has not sent anything is evicted for a new one.
//! If there is none, the new one is refused with an error: a client that is refused at once can try
//! another nsqd.

mod auth;
mod connection;
mod execute;
mod identify;
mod upgrade;

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Buf;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::ClientConnection;
use super::Broker;
use super::accept_gate::GatedListener;
use super::socket::ClientSocket;
use super::threads::ConnectionThreads;
use crate::http::ConnectionSlots;
use crate::proto::{ErrorCode, Frame, ProtocolError, WireError, WriteBuffer};

/// Serves the connections of a listener until `stop` is cancelled; each connection ends by itself
/// then.
pub(super) async fn serve(
    broker: Arc<Broker>,
    listener: GatedListener,
    places: ConnectionSlots,
    stop: CancellationToken,
    tasks: TaskTracker,
    threads: Arc<ConnectionThreads>,
) {
    let mut said = false;
    loop {
        let (socket, peer, open) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let place = tokio::select! {
            place = places.enter_soon() => place,
            () = stop.cancelled() => return,
        };
        match place {
            Some(place) => {
                said = false;
                let (broker, stop) = (broker.clone(), stop.clone());
                threads.spawn(&tasks, socket, |socket| async move {
                    ClientConnection::new(broker, socket, peer, place).serve(stop).await;
                    drop(open);
                });
            }
            None => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        peer,
                        connections = places.count(),
                        "too many connections; refusing new ones: raise the limit of open files (ulimit -n)"
                    );
                }
                refuse(&socket, &places);
            }
        }
    }
}

/// Sends the reason to a client that is refused.
fn refuse(socket: &ClientSocket, places: &ConnectionSlots) {
    let text = format!("too many connections: the maximum is {}", places.count());
    let error = ProtocolError::new(ErrorCode::Invalid, text);
    let mut out = WriteBuffer::new();
    Frame::Error(WireError::parse(error.to_string().into())).encode(&mut out);
    let bytes = out.copy_to_bytes(out.remaining());
    // the send buffer is empty, so this does not block; the client may have closed the connection
    let _ = socket.try_write(&[IoSlice::new(&bytes)]);
}

//! nsqd's TCP protocol, on TCP and Unix sockets.
//!
//! Where there is no place for one more connection, one that has said nothing makes way; if there is none, the new one is refused, in
//! words. It does not wait: a client that is refused at once can try another nsqd.

mod connection;
mod execute;
mod identify;

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Buf;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::Connection;
use super::Broker;
use super::socket::{Listener, Socket};
use crate::http::ConnectionSlots;
use crate::proto::{ErrorCode, Frame, Outgoing, ProtocolError, WireError};

/// Serves the connections of a listener until told to stop; each ends by itself then.
pub async fn serve(
    broker: Arc<Broker>,
    listener: Listener,
    places: ConnectionSlots,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let mut said = false;
    loop {
        let (socket, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match places.try_enter() {
            Ok(place) => {
                said = false;
                let connection = Connection::new(broker.clone(), socket, peer, place);
                tasks.spawn(connection.serve(stop.clone()));
            }
            Err(_) => {
                if !std::mem::replace(&mut said, true) {
                    let count = places.count();
                    tracing::warn!(
                        peer,
                        "connections are refused: {count} are open: raise the limit of open files (ulimit -n)"
                    );
                }
                refuse(&socket, &places);
            }
        }
    }
}

/// Says why, to a client that there is no place for.
fn refuse(socket: &Socket, places: &ConnectionSlots) {
    let text = format!("too many connections: there may be {}", places.count());
    let error = ProtocolError::new(ErrorCode::Invalid, text);
    let mut out = Outgoing::new();
    Frame::Error(WireError::parse(error.to_string().into())).encode(&mut out);
    let bytes = out.copy_to_bytes(out.remaining());
    // nothing was written to it yet, so this finds room; the client may have gone
    let _ = socket.try_write(&[IoSlice::new(&bytes)]);
}

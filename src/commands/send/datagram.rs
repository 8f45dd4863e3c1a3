//! Packets to a datagram socket, which has no acknowledgements.
//!
//! A Unix socket blocks its sender while its queue is full, so a sent message is in the receiver's queue. Any UDP packet may be lost.

use std::io;
use std::time::{Duration, Instant};

use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::script::Script;
use super::stream::{CONNECT_TIME, nobody_listens};
use super::tally::Tally;
use crate::commands::common::exit::Failure;
use crate::commands::common::notice::Notice;
use mqueue::net::Endpoint;
use mqueue::net::connect_udp;

/// Pause between attempts to reach a receiver that is gone.
const PAUSE: Duration = Duration::from_millis(100);

enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

/// Sends all messages, until `stop` is cancelled. Fails if no receiver listens at the start.
pub(super) async fn send(
    to: &Endpoint,
    script: &Script,
    tally: &Tally,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut socket = Socket::connect(to).await.map_err(|e| nobody_listens(to, &e))?;
    let (mut body, away) = (Vec::new(), Notice::default());
    for n in 0..script.count {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = script.wait_for(n) => {}
        }
        let due = script.due_at(n);
        body.clear();
        script.write(n, &mut body);
        tally.sent(1);
        loop {
            let sent = tokio::select! {
                sent = socket.send(&body) => sent,
                () = stop.cancelled() => return Ok(()),
            };
            let Err(error) = sent else { break };
            if away.begins() {
                tracing::warn!("{to} takes no messages, trying again: {error}");
            }
            sleep(PAUSE).await;
            if let Ok(again) = Socket::connect(to).await {
                socket = again;
            }
        }
        if away.ends() {
            tracing::info!("{to} takes messages again");
        }
        tally.late(Instant::now().saturating_duration_since(due));
        tally.handed_over();
    }
    Ok(())
}

impl Socket {
    async fn connect(to: &Endpoint) -> io::Result<Self> {
        match to {
            Endpoint::Unixgram(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Ok(Self::Unix(socket))
            }
            Endpoint::Udp(address) => {
                connect_udp(address.host_to_reach(), address.port(), CONNECT_TIME).await.map(Self::Udp)
            }
            Endpoint::Unix(_) | Endpoint::Tcp(_) => unreachable!("these are streams"),
        }
    }

    async fn send(&self, body: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.send(body).await,
            Self::Udp(socket) => socket.send(body).await,
        }
    }
}

//! Packets from datagram sockets.
//!
//! The receiver does nothing but receive into a bounded queue, so that a burst is out of the kernel's small buffer at once. When the queue
//! is full it receives no more. A Unix socket's sender then waits (or is told EAGAIN, if it does not want to wait): nothing is
//! dropped. UDP knows no waiting: the kernel drops, and counts.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::drops::Drops;
use super::listen::SocketFile;
use super::outlet::{GivenUp, Outlet};

/// The kernel's buffer that is asked for, in bytes; less is given where net.core.rmem_max is lower.
const KERNEL_BUFFER: usize = 8 << 20;
/// Packets published together.
const BATCH: usize = 1000;
/// What a packet costs besides its bytes.
const COST: usize = 128;
/// No kernel takes a longer packet by default.
const LONGEST: usize = 1 << 20;
/// When the program stops: a socket that brings nothing for so long is empty.
const SILENCE: Duration = Duration::from_millis(20);
/// How long to wait when nothing can be received.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the kernel's drops are looked up.
const LOOK: Duration = Duration::from_secs(1);

/// A socket that packets come from.
#[derive(Debug)]
pub(super) enum Datagrams {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

/// A packet, and its room in the queue.
struct Packet(Bytes, OwnedSemaphorePermit);

impl Datagrams {
    /// Asks the kernel for a large buffer.
    pub(super) fn widen(&self, name: &str) {
        let fd = match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        };
        // the first may exceed the limit, and takes a privilege
        let wider = setsockopt(&fd, sockopt::RcvBufForce, &KERNEL_BUFFER);
        if let Err(error) = wider.or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &KERNEL_BUFFER)) {
            tracing::warn!("the buffer of {name} stays as it is: {error}");
        }
    }

    async fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.recv(into).await,
            Self::Udp(socket) => socket.recv(into).await,
        }
    }
}

/// Receives and publishes until the program stops, and then what is here already.
pub(super) async fn serve(socket: Datagrams, file: Option<SocketFile>, max: usize, queue: u32, outlet: Arc<Outlet>) {
    let (sender, packets) = mpsc::unbounded_channel();
    let mut drops = match &socket {
        Datagrams::Unix(_) => None,
        Datagrams::Udp(socket) => Some(Drops::of(socket)),
    };
    let room = Arc::new(Semaphore::new(queue as usize));
    let mut receiver = Receiver { socket, file, max, room, queue, outlet: outlet.clone() };
    let work = async { tokio::join!(receiver.run(sender), publish(packets, &outlet)) };
    tokio::select! {
        ((), ()) = work => {}
        never = watch(&mut drops, &outlet) => match never {},
    }
    // the socket is still there to be asked about
    count(&mut drops, &outlet);
    drop(receiver);
}

/// Looks up each second what the kernel dropped, also while nothing is received. Never ends, for it runs beside the work.
async fn watch(drops: &mut Option<Drops>, outlet: &Outlet) -> std::convert::Infallible {
    loop {
        sleep(LOOK).await;
        count(drops, outlet);
    }
}

fn count(drops: &mut Option<Drops>, outlet: &Outlet) {
    outlet.tally.dropped(drops.as_mut().map_or(0, Drops::new_ones));
}

struct Receiver {
    socket: Datagrams,
    file: Option<SocketFile>,
    max: usize,
    /// Bytes that the queue may still take.
    room: Arc<Semaphore>,
    queue: u32,
    outlet: Arc<Outlet>,
}

impl Receiver {
    /// Receives until the program stops, and then until nothing comes any more.
    async fn run(&mut self, sender: mpsc::UnboundedSender<Packet>) {
        let mut buffer = vec![0; self.max.min(LONGEST) + 1];
        loop {
            tokio::select! {
                biased;
                () = self.outlet.shutdown.draining.cancelled() => break,
                received = self.socket.receive(&mut buffer) => self.take(received, &buffer, &sender).await,
            }
        }
        // nobody new finds it, and what was sent is received
        self.file = None;
        while let Ok(received) = timeout(SILENCE, self.socket.receive(&mut buffer)).await {
            self.take(received, &buffer, &sender).await;
            if self.outlet.shutdown.now.is_cancelled() {
                break;
            }
        }
    }

    async fn take(&self, received: io::Result<usize>, buffer: &[u8], sender: &mpsc::UnboundedSender<Packet>) {
        match received {
            Ok(0) => self.outlet.tally.unusable(1, 0),
            Ok(length) if length > self.max || length == buffer.len() => self.outlet.tally.unusable(0, 1),
            Ok(length) => {
                let cost = u32::try_from(length + COST).unwrap_or(u32::MAX).min(self.queue);
                let room = tokio::select! {
                    room = self.room.clone().acquire_many_owned(cost) => room.expect("it is never closed"),
                    () = self.outlet.shutdown.now.cancelled() => return,
                };
                let _ = sender.send(Packet(Bytes::copy_from_slice(&buffer[..length]), room));
            }
            Err(error) => {
                tracing::warn!("cannot receive: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn publish(mut packets: mpsc::UnboundedReceiver<Packet>, outlet: &Outlet) {
    let mut batch = Vec::with_capacity(BATCH);
    while packets.recv_many(&mut batch, BATCH).await > 0 {
        let (bodies, room): (Vec<Bytes>, Vec<_>) = batch.drain(..).map(|Packet(body, room)| (body, room)).unzip();
        if let Err(GivenUp) = outlet.publish(bodies).await {
            return;
        }
        drop(room);
    }
}

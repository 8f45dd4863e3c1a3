//! Packets from datagram sockets.
//!
//! The receiver only moves packets to a bounded queue, so that a burst leaves the kernel's small
//! buffer at once. It stops receiving while the queue is full. A Unix socket's sender then blocks
//! (or gets EAGAIN, if non-blocking), and nothing is dropped. For UDP, which has no flow control,
//! the kernel drops packets and counts them.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::drops::KernelDrops;
use super::listen::IngestSocketFile;
use super::publisher::{FeedPublisher, PublishAborted};

use mqueue::io_error::describe;

/// Requested size of the kernel's receive buffer in bytes; net.core.rmem_max may limit it.
const KERNEL_BUFFER: usize = 8 << 20;
/// Most packets published together.
const BATCH: usize = 1000;
/// Estimated overhead of a packet in bytes.
const PACKET_OVERHEAD: usize = 128;
/// Size limit of the receive buffer: no kernel takes a longer packet by default.
const MAX_PACKET: usize = 1 << 20;
/// Silence after which a socket counts as empty when the program stops.
const SILENCE: Duration = Duration::from_millis(20);
/// Pause after a receive error.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest time in which packets are counted that are left when the program ends.
const COUNTING: Duration = Duration::from_secs(1);
/// Interval at which the kernel's drop counter is read.
const DROPS_INTERVAL: Duration = Duration::from_secs(1);

/// A datagram socket.
#[derive(Debug)]
pub(super) enum Datagrams {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

/// A packet, and its permit for space in the queue.
struct Packet(Bytes, OwnedSemaphorePermit);

impl Datagrams {
    /// Asks the kernel for a large receive buffer.
    pub(super) fn enlarge_buffer(&self, name: &str) {
        let fd = match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        };
        // the first call may exceed the limit, but needs a privilege
        let wider = setsockopt(&fd, sockopt::RcvBufForce, &KERNEL_BUFFER);
        if let Err(error) = wider.or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &KERNEL_BUFFER)) {
            tracing::warn!("cannot enlarge the receive buffer of {name}: {}", describe(&error.into()));
        }
    }

    async fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.recv(into).await,
            Self::Udp(socket) => socket.recv(into).await,
        }
    }

    /// Receives a packet that is there already.
    fn try_receive(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.try_recv(into),
            Self::Udp(socket) => socket.try_recv(into),
        }
    }
}

/// Receives and publishes until the program stops; then publishes the packets already here.
pub(super) async fn serve(
    socket: Datagrams,
    file: Option<IngestSocketFile>,
    max: usize,
    queue: u32,
    publisher: Arc<FeedPublisher>,
) {
    let (sender, packets) = mpsc::unbounded_channel();
    let mut drops = match &socket {
        Datagrams::Unix(_) => None,
        Datagrams::Udp(socket) => Some(KernelDrops::of(socket)),
    };
    let room = Arc::new(Semaphore::new(queue as usize));
    let mut receiver = Receiver { socket, file, max, room, queue, publisher: publisher.clone() };
    let work = async { tokio::join!(receiver.run(sender), publish(packets, &publisher)) };
    let given_up = tokio::select! {
        ((), given_up) = work => given_up,
        never = watch(&mut drops, &publisher) => match never {},
    };
    publisher.stats.read(given_up + receiver.count_unreceived());
    // before the socket closes: the last look at its drops
    count(&mut drops, &publisher);
    drop(receiver);
}

/// Reads the kernel's drop counter each second, even while nothing is received. Never returns; runs
/// beside the work.
async fn watch(drops: &mut Option<KernelDrops>, publisher: &FeedPublisher) -> std::convert::Infallible {
    loop {
        sleep(DROPS_INTERVAL).await;
        count(drops, publisher);
    }
}

fn count(drops: &mut Option<KernelDrops>, publisher: &FeedPublisher) {
    publisher.stats.dropped(drops.as_mut().map_or(0, KernelDrops::count_new));
}

struct Receiver {
    socket: Datagrams,
    file: Option<IngestSocketFile>,
    max: usize,
    /// Free space in the queue, in bytes.
    room: Arc<Semaphore>,
    queue: u32,
    publisher: Arc<FeedPublisher>,
}

impl Receiver {
    /// Receives until the program stops, and then until the socket is silent.
    async fn run(&mut self, sender: mpsc::UnboundedSender<Packet>) {
        let mut buffer = vec![0; self.max.min(MAX_PACKET) + 1];
        loop {
            tokio::select! {
                biased;
                () = self.publisher.shutdown.draining.cancelled() => break,
                received = self.socket.receive(&mut buffer) => self.take(received, &buffer, &sender).await,
            }
        }
        // no new sender finds the socket, and what was sent is still received
        self.file = None;
        while let Ok(received) = timeout(SILENCE, self.socket.receive(&mut buffer)).await {
            self.take(received, &buffer, &sender).await;
            if self.publisher.shutdown.now.is_cancelled() {
                break;
            }
        }
    }

    /// Counts the packets that are left in the socket when the program ends at once.
    fn count_unreceived(&self) -> u64 {
        let (begun, mut buffer, mut left) = (Instant::now(), [0], 0);
        while begun.elapsed() < COUNTING && self.socket.try_receive(&mut buffer).is_ok() {
            left += 1;
        }
        left
    }

    async fn take(&self, received: io::Result<usize>, buffer: &[u8], sender: &mpsc::UnboundedSender<Packet>) {
        match received {
            Ok(0) => self.publisher.stats.unusable(1, 0),
            Ok(length) if length > self.max || length == buffer.len() => self.publisher.stats.unusable(0, 1),
            Ok(length) => {
                let cost = u32::try_from(length + PACKET_OVERHEAD).unwrap_or(u32::MAX).min(self.queue);
                let room = tokio::select! {
                    room = self.room.clone().acquire_many_owned(cost) => room.expect("it is never closed"),
                    () = self.publisher.shutdown.now.cancelled() => return self.publisher.stats.read(1),
                };
                let _ = sender.send(Packet(Bytes::copy_from_slice(&buffer[..length]), room));
            }
            Err(error) => {
                tracing::warn!("cannot receive: {}", describe(&error));
                sleep(PAUSE).await;
            }
        }
    }
}

/// Publishes until the receiver ends; returns the number of packets that were given up.
async fn publish(mut packets: mpsc::UnboundedReceiver<Packet>, publisher: &FeedPublisher) -> u64 {
    let mut batch = Vec::with_capacity(BATCH);
    while packets.recv_many(&mut batch, BATCH).await > 0 {
        let (bodies, room): (Vec<Bytes>, Vec<_>) = batch.drain(..).map(|Packet(body, room)| (body, room)).unzip();
        let published = publisher.publish(bodies).await;
        drop(room);
        if let Err(PublishAborted) = published {
            let mut given_up = 0;
            while packets.recv().await.is_some() {
                given_up += 1;
            }
            return given_up;
        }
    }
    0
}

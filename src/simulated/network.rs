//! A network: connections whose bytes take a random time, that are cut for a while, or reset.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that a connection holds in one direction.
const ROOM: usize = 64 * 1024;

/// A network with its hosts. A client is a host of its own by the name that it connects to:
/// `broker.c3` is the server `broker`, and the client `c3`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network(Arc<Mutex<NetworkState>>);

#[derive(Debug, Default)]
struct NetworkState {
    rng: fastrand::Rng,
    servers: BTreeMap<String, mpsc::UnboundedSender<Socket>>,
    links: Vec<NetworkLink>,
    dead_clients: BTreeSet<String>,
    /// The longest time of a byte on its way.
    slowest: Duration,
    /// The time until which connections cannot be made.
    cut_until: Option<Instant>,
}

/// A connection between two hosts, in both directions.
#[derive(Debug, Clone)]
struct NetworkLink {
    client: String,
    directions: [Direction; 2],
}

/// One direction of a connection.
#[derive(Debug, Clone, Default)]
struct Direction(Arc<Mutex<DirectionState>>);

#[derive(Debug, Default)]
struct DirectionState {
    /// Bytes on their way, with the time of their arrival.
    on_the_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The arrival of the last bytes: none overtake them.
    last: Option<Instant>,
    /// The writer ends its side, after what is on the way.
    is_ended: bool,
    /// The connection is reset, after what is on the way.
    is_reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl DirectionState {
    fn wake(&mut self) {
        [self.reader.take(), self.writer.take()].into_iter().flatten().for_each(Waker::wake);
    }
}

impl Direction {
    fn lock(&self) -> MutexGuard<'_, DirectionState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing arrives until then.
    fn hold(&self, until: Instant) {
        let mut state = self.lock();
        state.on_the_way.iter_mut().for_each(|(due, _)| *due = (*due).max(until));
        state.last = state.last.max(Some(until));
    }

    /// Of what is on the way, only the first `arriving` pieces arrive.
    fn reset(&self, arriving: usize) {
        let mut state = self.lock();
        state.on_the_way.truncate(arriving);
        state.bytes = state.on_the_way.iter().map(|(_, bytes)| bytes.len()).sum();
        state.is_reset = true;
        state.wake();
    }
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        let slowest = Duration::from_millis(2);
        Self(Arc::new(Mutex::new(NetworkState { rng: fastrand::Rng::with_seed(seed), slowest, ..Default::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, NetworkState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delay(&self) -> Duration {
        let mut state = self.lock();
        let slowest = state.slowest.as_micros() as u64;
        Duration::from_micros(state.rng.u64(10..=slowest.max(11)))
    }

    /// The most bytes of a write.
    fn part(&self) -> usize {
        let rng = &mut self.lock().rng;
        if rng.u8(..) < 32 { rng.usize(1..=200) } else { ROOM }
    }

    /// Accepts connections to a server.
    pub(super) fn listen(&self, server: &str) -> Incoming {
        let (sender, incoming) = mpsc::unbounded_channel();
        self.lock().servers.insert(server.to_owned(), sender);
        Incoming(tokio::sync::Mutex::new(incoming))
    }

    pub(super) async fn connect(&self, host: &str, _port: u16) -> io::Result<Socket> {
        let (server, client) = host.split_once('.').unwrap_or((host, ""));
        loop {
            sleep(self.delay()).await;
            let cut_until = self.lock().cut_until;
            match cut_until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => break,
            }
        }
        let mut state = self.lock();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        if state.dead_clients.contains(client) {
            return Err(refused());
        }
        let sender = state.servers.get(server).ok_or_else(refused)?;
        let (there, back) = (Direction::default(), Direction::default());
        let far = Socket::new(self.clone(), there.clone(), back.clone());
        sender.send(far).map_err(|_| refused())?;
        state.links.retain(|link| !link.directions.iter().all(|direction| Arc::strong_count(&direction.0) == 1));
        state.links.push(NetworkLink { client: client.to_owned(), directions: [there.clone(), back.clone()] });
        drop(state);
        Ok(Socket::new(self.clone(), back, there))
    }

    /// Sets the longest time of a byte on its way.
    pub(super) fn set_slowest(&self, slowest: Duration) {
        self.lock().slowest = slowest;
    }

    /// Holds everything on its way, and new connections, until then.
    pub(super) fn cut(&self, until: Instant) {
        let mut state = self.lock();
        state.cut_until = Some(until);
        state.links.iter().flat_map(|link| &link.directions).for_each(|direction| direction.hold(until));
    }

    /// Refuses new connections to a server, and resets all that it has.
    pub(super) fn kill_server(&self, server: &str) {
        self.lock().servers.remove(server);
        self.reset(|_| true);
    }

    /// Resets the connections of a client, which makes no new ones.
    pub(super) fn kill_client(&self, client: &str) {
        self.lock().dead_clients.insert(client.to_owned());
        self.reset(|name| name == client);
    }

    /// Resets the connections of the clients that `choose` chooses.
    pub(super) fn reset(&self, choose: impl Fn(&str) -> bool) {
        let mut state = self.lock();
        let NetworkState { rng, links, .. } = &mut *state;
        let chosen = links.extract_if(.., |link| choose(&link.client));
        for direction in chosen.flat_map(|link| link.directions) {
            direction.reset(rng.usize(0..4));
        }
    }
}

/// A server's connections that were not accepted yet.
#[derive(Debug)]
pub(crate) struct Incoming(tokio::sync::Mutex<mpsc::UnboundedReceiver<Socket>>);

impl Incoming {
    /// The next connection; waits for ever after the server was killed. Cancel-safe.
    pub(crate) async fn accept(&self) -> Socket {
        match self.0.lock().await.recv().await {
            Some(socket) => socket,
            None => std::future::pending().await,
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    network: Network,
    incoming: Direction,
    outgoing: Direction,
    arrival: Pin<Box<Sleep>>,
}

impl Socket {
    fn new(network: Network, incoming: Direction, outgoing: Direction) -> Self {
        Self { network, incoming, outgoing, arrival: Box::pin(sleep(Duration::ZERO)) }
    }

    /// Writes what there is room for, without waiting.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let delay = self.network.delay();
        // sometimes only a part is taken
        let most = self.network.part();
        let mut state = self.outgoing.lock();
        if state.is_reset || state.is_ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(ROOM - state.bytes).min(most);
        if count == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let due = state.last.max(Some(Instant::now() + delay));
        state.last = due;
        state.bytes += count;
        state.on_the_way.extend(due.map(|due| (due, Bytes::copy_from_slice(&bytes[..count]))));
        state.reader.take().into_iter().for_each(Waker::wake);
        Ok(count)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut state = this.incoming.lock();
        match state.on_the_way.front().map(|(due, _)| *due) {
            Some(due) if due <= Instant::now() => {
                let mut count = 0;
                if let Some((_, bytes)) = state.on_the_way.front_mut() {
                    count = bytes.len().min(into.remaining());
                    into.put_slice(&bytes[..count]);
                    bytes.advance(count);
                }
                if state.on_the_way.front().is_some_and(|(_, bytes)| bytes.is_empty()) {
                    state.on_the_way.pop_front();
                }
                state.bytes -= count;
                state.writer.take().into_iter().for_each(Waker::wake);
                Poll::Ready(Ok(()))
            }
            Some(due) => {
                this.arrival.as_mut().reset(due);
                state.reader = Some(cx.waker().clone());
                drop(state);
                match this.arrival.as_mut().poll(cx) {
                    Poll::Ready(()) => cx.waker().wake_by_ref(),
                    Poll::Pending => {}
                }
                Poll::Pending
            }
            None if state.is_reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None if state.is_ended => Poll::Ready(Ok(())),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.outgoing.lock().writer = Some(cx.waker().clone());
                Poll::Pending
            }
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.outgoing.lock();
        state.is_ended = true;
        state.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut outgoing = self.outgoing.lock();
        outgoing.is_ended = true;
        outgoing.wake();
        drop(outgoing);
        // nobody reads any more
        let mut incoming = self.incoming.lock();
        incoming.is_reset = true;
        incoming.wake();
    }
}

/// The stream of a client's connection: TCP, or one of the world that runs on this thread.
#[derive(Debug)]
pub enum NetStream {
    /// TCP.
    Tcp(TcpStream),
    /// A simulated connection.
    #[allow(private_interfaces)]
    Simulated(Socket),
}

/// Hands a call on to the stream inside.
macro_rules! inner {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            NetStream::Tcp($stream) => $call,
            NetStream::Simulated($stream) => $call,
        }
    };
}

impl AsyncRead for NetStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_read(cx, into))
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Simulated(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

//! The interface to systemd: passed sockets, and notifications of the service's state.
//!
//! ```text
//!  X.socket ──fd 3──▶ ActivationSockets  a poke: a connection (or datagram), accepted and closed
//!  NOTIFY_SOCKET ◀── Notifier  READY, STATUS, WATCHDOG, STOPPING, EXTEND_TIMEOUT
//! ```
//!
//! Without systemd there are no sockets and every notification is a no-op, so callers need not
//! care. The passed socket is never shut down or unlinked: systemd keeps it, and starts the unit
//! for the next poke. (A connection that is not accepted stays queued and starts the unit again,
//! unless its socket has `FlushPending=yes`, as ours have.)

use std::io;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};
use std::time::Duration;

use listenfd::ListenFd;
use nix::sys::socket::{MsgFlags, SockFlag, accept4, recv};
use sd_notify::NotifyState;
use tokio::io::ReadBuf;
use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};

use crate::io_error::describe;

/// A socket that systemd passed.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum ActivationSocket {
    Stream(UnixListener),
    Datagram(UnixDatagram),
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Takes the passed sockets (`LISTEN_FDS`). Needs a tokio runtime. Fails if a descriptor is not a
/// listening or datagram socket.
pub fn passed_sockets() -> io::Result<Vec<ActivationSocket>> {
    Ok(named_sockets()?.into_iter().map(|(_, socket)| socket).collect())
}

/// Takes the passed sockets as [`passed_sockets`] does, each with the name that its unit gives it
/// (`FileDescriptorName=`, otherwise the name of the socket unit); the name is empty if systemd gives
/// none.
pub fn named_sockets() -> io::Result<Vec<(String, ActivationSocket)>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let mut passed = ListenFd::from_env();
    let count = passed.len();
    let mut take = |index| {
        let socket = ActivationSocket::take(&mut passed, index)?;
        Ok((names.next().unwrap_or_default(), socket))
    };
    (0..count).map(&mut take).collect()
}

/// The sockets that wake the service.
#[derive(Debug)]
pub struct ActivationSockets {
    sockets: Vec<ActivationSocket>,
}

impl ActivationSockets {
    /// Takes the passed sockets (`LISTEN_FDS`); `None` if there are none. Needs a tokio runtime.
    /// Fails if a descriptor is not a listening or datagram socket.
    pub fn from_env() -> io::Result<Option<Self>> {
        let sockets = passed_sockets()?;
        Ok((!sockets.is_empty()).then_some(Self { sockets }))
    }

    /// Waits for pokes, takes all that are pending, and returns their number. Cancel-safe: a taken
    /// poke is always returned.
    pub async fn wait_for_pokes(&self) -> io::Result<usize> {
        std::future::poll_fn(|context| match self.take_waiting(context)? {
            0 => Poll::Pending,
            pokes => Poll::Ready(Ok(pokes)),
        })
        .await
    }

    /// Takes the pending pokes. It asks the kernel and not tokio, which sees no poke before the
    /// runtime has waited once: a caller that fails before then would leave the poke unread.
    pub fn take_pokes(&self) -> io::Result<usize> {
        self.count(|socket| match socket.take_now() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            taken => Poll::Ready(taken),
        })
    }

    fn take_waiting(&self, context: &mut Context<'_>) -> io::Result<usize> {
        self.count(|socket| socket.take_one(context))
    }

    /// Takes pokes from each socket until none is pending.
    fn count(&self, mut take: impl FnMut(&ActivationSocket) -> Poll<io::Result<()>>) -> io::Result<usize> {
        let mut pokes = 0;
        for socket in &self.sockets {
            while let Poll::Ready(poke) = take(socket) {
                match poke {
                    Ok(()) => pokes += 1,
                    // the client has closed already: still a poke
                    Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => pokes += 1,
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(pokes)
    }
}

impl ActivationSocket {
    fn take(passed: &mut ListenFd, index: usize) -> io::Result<Self> {
        if let Ok(Some(socket)) = passed.take_unix_listener(index) {
            socket.set_nonblocking(true)?;
            return UnixListener::from_std(socket).map(Self::Stream);
        }
        if let Ok(Some(socket)) = passed.take_unix_datagram(index) {
            socket.set_nonblocking(true)?;
            return UnixDatagram::from_std(socket).map(Self::Datagram);
        }
        if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
            socket.set_nonblocking(true)?;
            return TcpListener::from_std(socket).map(Self::Tcp);
        }
        if let Ok(Some(socket)) = passed.take_udp_socket(index) {
            socket.set_nonblocking(true)?;
            return UdpSocket::from_std(socket).map(Self::Udp);
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("passed descriptor {} is no listening or datagram socket", 3 + index),
        ))
    }

    /// Takes one poke without tokio, and closes it.
    fn take_now(&self) -> io::Result<()> {
        let accept = |socket| accept4(socket, SockFlag::SOCK_CLOEXEC).and_then(nix::unistd::close);
        let receive = |socket| recv(socket, &mut [0], MsgFlags::MSG_DONTWAIT).map(drop);
        Ok(match self {
            Self::Stream(socket) => accept(socket.as_raw_fd()),
            Self::Tcp(socket) => accept(socket.as_raw_fd()),
            Self::Datagram(socket) => receive(socket.as_raw_fd()),
            Self::Udp(socket) => receive(socket.as_raw_fd()),
        }?)
    }

    /// Takes one poke, and closes it.
    fn take_one(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // the content of a datagram does not matter
        let mut payload = [0; 1];
        let mut payload = ReadBuf::new(&mut payload);
        match self {
            Self::Stream(socket) => socket.poll_accept(context).map_ok(drop),
            Self::Tcp(socket) => socket.poll_accept(context).map_ok(drop),
            Self::Datagram(socket) => socket.poll_recv(context, &mut payload),
            Self::Udp(socket) => socket.poll_recv(context, &mut payload),
        }
    }
}

/// Notifies systemd of the service's state. Notifications are dropped without `NOTIFY_SOCKET`, and
/// never fail the service.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notifier;

impl Notifier {
    /// Notifies that the service is ready.
    pub fn ready(self) {
        self.notify(NotifyState::Ready);
    }

    /// Sets the status line of `systemctl status`.
    pub fn status(self, line: &str) {
        self.notify(NotifyState::Status(line));
    }

    /// Notifies that the service is stopping.
    pub fn stopping(self) {
        self.notify(NotifyState::Stopping);
    }

    /// Sends the watchdog keep-alive; due more often than every
    /// [`watchdog_interval`](Self::watchdog_interval).
    pub fn watchdog(self) {
        self.notify(NotifyState::Watchdog);
    }

    /// Extends the start or stop timeout by this much from now.
    pub fn extend_timeout(self, by: Duration) {
        self.notify(NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX)));
    }

    /// Returns the watchdog timeout, if systemd set one.
    pub fn watchdog_interval(self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }

    fn notify(self, state: NotifyState<'_>) {
        if let Err(e) = sd_notify::notify(&[state]) {
            tracing::debug!("cannot notify systemd: {}", describe(&e));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    #[tokio::test]
    async fn pokes_before_the_start_are_taken_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let [stream, datagram] = ["stream", "datagram"].map(|name| folder.path().join(name));
        let sockets = vec![
            ActivationSocket::Stream(UnixListener::bind(&stream).unwrap()),
            ActivationSocket::Datagram(UnixDatagram::bind(&datagram).unwrap()),
        ];
        for _ in 0..2 {
            net::UnixStream::connect(&stream).unwrap();
            net::UnixDatagram::unbound().unwrap().send_to(b"", &datagram).unwrap();
        }
        let sockets = ActivationSockets { sockets };
        // without an await in between: the runtime has not polled the sockets yet
        assert_eq!(sockets.take_pokes().unwrap(), 4);
        assert_eq!(sockets.take_pokes().unwrap(), 0);
        net::UnixStream::connect(&stream).unwrap();
        assert_eq!(sockets.wait_for_pokes().await.unwrap(), 1);
    }
}

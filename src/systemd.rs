//! What systemd gives and wants: passed sockets, and notes about the service's state.
//!
//! ```text
//!  X.socket ──fd 3──▶ Door    a poke is a connection (or a datagram): it is taken and closed, and says nothing but "wake up"
//!  NOTIFY_SOCKET ◀── Notifier  READY, STATUS, WATCHDOG, STOPPING, EXTEND_TIMEOUT
//! ```
//!
//! Without systemd there is no door and every note is a no-op, so callers need not know. The passed socket is never shut
//! down or unlinked: systemd keeps it, and starts the unit for the next poke. (What is not accepted stays queued there and starts the unit
//! anew, unless its socket has `FlushPending=yes`, as ours have.)

use std::io;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};
use std::time::Duration;

use listenfd::ListenFd;
use nix::sys::socket::{MsgFlags, SockFlag, accept4, recv};
use sd_notify::NotifyState;
use tokio::io::ReadBuf;
use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};

/// One passed socket.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Ear {
    Stream(UnixListener),
    Datagram(UnixDatagram),
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Takes the sockets that were passed (`LISTEN_FDS`), inside a tokio runtime. Fails if one is no socket to wait on.
pub fn passed_sockets() -> io::Result<Vec<Ear>> {
    let mut passed = ListenFd::from_env();
    (0..passed.len()).map(|index| Ear::take(&mut passed, index)).collect()
}

/// The sockets by which the service is woken.
#[derive(Debug)]
pub struct Door {
    ears: Vec<Ear>,
}

impl Door {
    /// Takes the sockets that were passed (`LISTEN_FDS`), inside a tokio runtime; `None` if there are none. Fails if one is no
    /// socket that can be listened on.
    pub fn from_env() -> io::Result<Option<Self>> {
        let ears = passed_sockets()?;
        Ok((!ears.is_empty()).then_some(Self { ears }))
    }

    /// Waits for pokes, takes all that wait, and says how many. Cancel-safe: a poke that was taken has been told.
    pub async fn poked(&self) -> io::Result<usize> {
        std::future::poll_fn(|context| match self.take_waiting(context)? {
            0 => Poll::Pending,
            pokes => Poll::Ready(Ok(pokes)),
        })
        .await
    }

    /// Takes the pokes that wait now. The kernel is asked, not tokio: that knows of no poke before the runtime has waited once, and
    /// whoever fails until then would leave the poke unread.
    pub fn take_pokes(&self) -> io::Result<usize> {
        self.count(|ear| match ear.take_now() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            taken => Poll::Ready(taken),
        })
    }

    fn take_waiting(&self, context: &mut Context<'_>) -> io::Result<usize> {
        self.count(|ear| ear.take_one(context))
    }

    /// Takes one poke after the other from each socket, until none is ready.
    fn count(&self, mut take: impl FnMut(&Ear) -> Poll<io::Result<()>>) -> io::Result<usize> {
        let mut pokes = 0;
        for ear in &self.ears {
            while let Poll::Ready(poke) = take(ear) {
                match poke {
                    Ok(()) => pokes += 1,
                    // who poked has gone already: a poke all the same
                    Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => pokes += 1,
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(pokes)
    }
}

impl Ear {
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
            format!("passed descriptor {} is no socket to wait on", 3 + index),
        ))
    }

    /// Takes one poke without tokio, and lets go of it.
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

    /// Takes one poke, and lets go of it.
    fn take_one(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // what a datagram says does not matter
        let mut said = [0; 1];
        let mut said = ReadBuf::new(&mut said);
        match self {
            Self::Stream(socket) => socket.poll_accept(context).map_ok(drop),
            Self::Tcp(socket) => socket.poll_accept(context).map_ok(drop),
            Self::Datagram(socket) => socket.poll_recv(context, &mut said),
            Self::Udp(socket) => socket.poll_recv(context, &mut said),
        }
    }
}

/// Tells systemd how the service is doing. Every note is dropped where nobody listens (`NOTIFY_SOCKET`), and never fails the
/// service.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notifier;

impl Notifier {
    /// The service does its work now.
    pub fn ready(self) {
        self.note(NotifyState::Ready);
    }

    /// One line for `systemctl status`.
    pub fn status(self, line: &str) {
        self.note(NotifyState::Status(line));
    }

    /// The service is ending; there is no way back.
    pub fn stopping(self) {
        self.note(NotifyState::Stopping);
    }

    /// The service is alive; to be said more often than every [`watchdog_interval`](Self::watchdog_interval).
    pub fn watchdog(self) {
        self.note(NotifyState::Watchdog);
    }

    /// Starting or stopping takes this much longer from now.
    pub fn extend_timeout(self, by: Duration) {
        self.note(NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX)));
    }

    /// Within what time systemd wants to hear of the service, if it does.
    pub fn watchdog_interval(self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }

    fn note(self, state: NotifyState<'_>) {
        if let Err(e) = sd_notify::notify(&[state]) {
            tracing::debug!("systemd cannot be told: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    #[tokio::test]
    async fn pokes_that_came_before_the_start_are_taken_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let [stream, datagram] = ["stream", "datagram"].map(|name| folder.path().join(name));
        let ears = vec![
            Ear::Stream(UnixListener::bind(&stream).unwrap()),
            Ear::Datagram(UnixDatagram::bind(&datagram).unwrap()),
        ];
        for _ in 0..2 {
            net::UnixStream::connect(&stream).unwrap();
            net::UnixDatagram::unbound().unwrap().send_to(b"", &datagram).unwrap();
        }
        let door = Door { ears };
        // without an await between: the runtime has not looked at the sockets yet
        assert_eq!(door.take_pokes().unwrap(), 4);
        assert_eq!(door.take_pokes().unwrap(), 0);
        net::UnixStream::connect(&stream).unwrap();
        assert_eq!(door.poked().await.unwrap(), 1);
    }
}

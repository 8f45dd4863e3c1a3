//! Connections to Unix sockets, which have no deadline of their own: with a full backlog a blocking
//! connect waits forever, and a non-blocking one fails at once.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// The first and the longest pause before a full backlog is tried again.
const MIN_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// Connects to a stream socket; waits while its backlog is full.
///
/// # Errors
/// `TimedOut` if the backlog was full for all of `within`.
pub async fn connect_unix(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let connecting = async {
        let mut pause = MIN_PAUSE;
        loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(pause).await,
                connected => return connected,
            }
            pause = (2 * pause).min(MAX_PAUSE);
        }
    };
    let full_queue = || {
        let why = format!("its backlog was full for {within:?}: the listener accepts no connections");
        io::Error::new(io::ErrorKind::TimedOut, why)
    };
    timeout(within, connecting).await.unwrap_or_else(|_| Err(full_queue()))
}

/// Connects to a stream socket without waiting, and closes the connection. `EAGAIN` means that
/// there is a listener whose backlog is full.
pub fn probe_socket(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let ours = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(ours.as_raw_fd(), &UnixAddr::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::errno::Errno;

    use super::*;

    /// A listener that accepts nothing, with a full backlog.
    fn full_queue(path: &Path) -> UnixListener {
        let listener = UnixListener::bind(path).unwrap();
        while probe_socket(path).is_ok() {}
        listener
    }

    #[tokio::test]
    async fn a_full_backlog_is_waited_for_until_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = full_queue(&path);
        assert_eq!(probe_socket(&path), Err(Errno::EAGAIN));
        let error = connect_unix(&path, Duration::from_millis(30)).await.unwrap_err();
        assert!(error.kind() == io::ErrorKind::TimedOut && error.to_string().contains("full for 30ms"), "{error}");

        let waiting = tokio::spawn(async move { connect_unix(&path, Duration::from_secs(20)).await });
        tokio::task::yield_now().await;
        listener.accept().unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_missing_socket_fails_immediately() {
        let error = connect_unix(Path::new("/nosuch/socket"), Duration::from_secs(20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

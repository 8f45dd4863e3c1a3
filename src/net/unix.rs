//! Connecting to Unix sockets, which have no deadline of their own: where the queue of connections is full, a blocking connect waits for good,
//! and any other fails at once.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// The first and the longest pause before a full queue is tried again.
const PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Connects to a stream socket; waits while its queue is full.
///
/// # Errors
/// `TimedOut` if its queue was full for as long as `within`.
pub async fn connect_unix(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let connecting = async {
        let mut pause = PAUSE;
        loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(pause).await,
                connected => return connected,
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    };
    let full = || {
        let why = format!("its queue of connections was full for {within:?}: whoever listens there accepts none");
        io::Error::new(io::ErrorKind::TimedOut, why)
    };
    timeout(within, connecting).await.unwrap_or_else(|_| Err(full()))
}

/// Connects to a stream socket and lets go, without waiting. `EAGAIN` says that somebody listens, and that the queue is full.
pub fn knock(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let ours = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(ours.as_raw_fd(), &UnixAddr::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::errno::Errno;

    use super::*;

    /// A listener that accepts nobody, and the connections that fill its queue.
    fn full(path: &Path) -> UnixListener {
        let listener = UnixListener::bind(path).unwrap();
        while knock(path).is_ok() {}
        listener
    }

    #[tokio::test]
    async fn a_full_queue_is_waited_for_up_to_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = full(&path);
        assert_eq!(knock(&path), Err(Errno::EAGAIN));
        let error = connect_unix(&path, Duration::from_millis(30)).await.unwrap_err();
        assert!(error.kind() == io::ErrorKind::TimedOut && error.to_string().contains("full for 30ms"), "{error}");

        let waiting = tokio::spawn(async move { connect_unix(&path, Duration::from_secs(20)).await });
        tokio::task::yield_now().await;
        listener.accept().unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_said_at_once() {
        let error = connect_unix(Path::new("/nosuch/socket"), Duration::from_secs(20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

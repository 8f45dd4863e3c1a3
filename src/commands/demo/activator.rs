//! Socket activation without systemd: holds listening sockets, and starts a program when a client
//! connects.
//!
//! The program accepts the connection itself, like a service with `Accept=no`. While it runs the
//! activator does not watch the sockets; a connection that waits after the program has ended starts
//! it again.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::commands::common::child_process::ChildProcess;

/// The activation sockets of a program that is asleep.
#[derive(Debug)]
pub(super) struct Activator {
    sockets: Arc<Vec<OwnedFd>>,
}

impl Activator {
    /// Starts listening at `path`.
    pub(super) fn hold(path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        Ok(Self::of(vec![listener.into()]))
    }

    /// Holds sockets that listen already.
    pub(super) fn of(sockets: Vec<OwnedFd>) -> Self {
        Self { sockets: Arc::new(sockets) }
    }

    /// Starts the program at each connection, until `stop` is cancelled. `tell` is called with true
    /// after each start, and with false after each end.
    pub(super) async fn serve(
        self,
        start: impl Fn(&[OwnedFd]) -> anyhow::Result<ChildProcess>,
        tell: impl Fn(bool),
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            // a thread that still waits at the end dies with the process
            let sockets = self.sockets.clone();
            tokio::select! {
                poked = spawn_blocking(move || wait_for_poke(&sockets)) => poked??,
                () = stop.cancelled() => return Ok(()),
            }
            tell(true);
            let mut running = start(&self.sockets)?;
            tokio::select! {
                () = running.ended() => {}
                () = stop.cancelled() => {
                    running.end().await;
                    return Ok(());
                }
            }
            tell(false);
        }
    }
}

/// Waits for a pending connection, and leaves it for the program to accept.
fn wait_for_poke(sockets: &[OwnedFd]) -> nix::Result<()> {
    let mut sockets: Vec<PollFd> = sockets.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut sockets, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

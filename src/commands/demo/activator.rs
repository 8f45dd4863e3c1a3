//! Socket activation without systemd: holds a listening socket, and starts the consumer when a
//! client connects.
//!
//! The consumer accepts the connection itself, like a service with `Accept=no`. While it runs the
//! activator does not watch the socket; a connection that waits after the consumer has ended starts
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

use super::children::{ChildStarter, DemoEvent};

/// The activation socket of a group that is asleep.
#[derive(Debug)]
pub(super) struct Activator {
    socket: Arc<OwnedFd>,
}

impl Activator {
    /// Starts listening at `path`.
    pub(super) fn hold(path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        Ok(Self { socket: Arc::new(listener.into()) })
    }

    /// Starts the consumer at each poke, until `stop` is cancelled.
    pub(super) async fn serve(self, starter: ChildStarter, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            // a thread that still waits at the end dies with the process
            let socket = self.socket.clone();
            tokio::select! {
                poked = spawn_blocking(move || wait_for_poke(&socket)) => poked??,
                () = stop.cancelled() => return Ok(()),
            }
            let _ = starter.events.send(DemoEvent::Woken);
            let mut running = starter.sleeper(self.socket.try_clone()?)?;
            tokio::select! {
                () = running.ended() => {}
                () = stop.cancelled() => {
                    running.end().await;
                    return Ok(());
                }
            }
            let _ = starter.events.send(DemoEvent::Asleep);
        }
    }
}

/// Waits for a pending connection, and leaves it for the consumer to accept.
fn wait_for_poke(socket: &OwnedFd) -> nix::Result<()> {
    loop {
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

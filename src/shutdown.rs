//! Graceful shutdown: a first signal drains, a second signal or the end of the grace period ends
//! the program now.
//!
//! ```text
//!  SIGINT, SIGTERM ──▶ draining: take nothing new, finish what runs
//!      again, or the grace period is over ──▶ now: give back what runs
//! ```

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two stages of a shutdown, shared by all tasks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled when no new work may begin.
    pub draining: CancellationToken,
    /// Cancelled when running work must be given up.
    pub now: CancellationToken,
}

impl Shutdown {
    /// A shutdown that has not been requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Handles SIGINT and SIGTERM: the first signal drains; the second signal, or `grace` after the
    /// first, ends the program now.
    ///
    /// # Errors
    /// The system refuses the signal handlers.
    pub fn on_signals(grace: Duration) -> std::io::Result<Self> {
        let shutdown = Self::new();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stages = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stages.draining.cancel();
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = tokio::time::sleep(grace) => {}
            }
            stages.now.cancel();
        });
        Ok(shutdown)
    }

    /// Waits for `tidying`, or until the program must end now.
    pub async fn unless_now(&self, tidying: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.now.cancelled() => {}
            () = tidying => {}
        }
    }
}

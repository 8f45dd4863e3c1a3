//! How the program ends: one token, one tracker of tasks, a grace period; a second signal ends it now.
//!
//! ```text
//!  SIGINT, SIGTERM ──▶ draining: take nothing new, finish what runs
//!      again, or the grace period is over ──▶ now: give back what runs
//! ```

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two stages of ending, seen by everything that has to heed them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled when nothing new is to be begun.
    pub draining: CancellationToken,
    /// Cancelled when what runs is to be given up.
    pub now: CancellationToken,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Heeds SIGINT and SIGTERM: the first drains, and the second, or `grace` after the first, ends now. Fails if the system does
    /// not let signals be handled.
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

    /// Waits for `tidying`, unless the program is to end now.
    pub async fn unless_now(&self, tidying: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.now.cancelled() => {}
            () = tidying => {}
        }
    }
}

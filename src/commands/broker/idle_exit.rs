//! `--idle-exit`: the broker ends when there is nothing to do, and leaves a note for its next start.
//!
//! ```text
//!  no connection for the time ─▶ close the gate ─▶ look again ─▶ write the note ─▶ end
//!            ▲                                         │
//!            └──────── open the gate ◀── a connection, or work that the end would interrupt
//! ```
//!
//! The listening sockets are systemd's: a connection that comes while the gate is closed waits there
//! and starts the next process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mqueue::broker::Broker;
use mqueue::broker::accept_gate::AcceptGate;
use mqueue::broker::state::{BrokerState, Unfinished};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::next_start::NextStart;

/// The shortest time without a connection: a shorter one could end the broker before it has accepted
/// the connection that started it.
pub(super) const MIN_IDLE: Duration = Duration::from_millis(100);

/// The end of a broker that is idle.
pub(super) struct IdleExit {
    /// The time without a connection.
    limit: Duration,
    /// The folder of the note.
    folder: PathBuf,
    broker: Arc<Broker>,
    gate: AcceptGate,
    /// Writes the first note.
    beginning: Option<JoinHandle<()>>,
    /// The reason to stay that was logged last.
    logged: Option<&'static str>,
}

impl IdleExit {
    /// Leaves the note that the broker runs.
    pub(super) fn begin(limit: Duration, folder: PathBuf, broker: Arc<Broker>, gate: AcceptGate) -> Self {
        let begun = folder.clone();
        // in the background: a sync takes longer than all else of a start
        let beginning = tokio::task::spawn_blocking(move || write(NextStart::Running, &begun));
        Self { limit, folder, broker, gate, beginning: Some(beginning), logged: None }
    }

    /// Waits until the broker was idle for the time, and has left its note. Its gate is closed then.
    pub(super) async fn wait(&mut self) {
        let mut connections = self.gate.connections();
        loop {
            if self.is_quiet(&mut connections).await && self.leave().await {
                return;
            }
        }
    }

    /// Waits until no connection is open, and for the idle time; false if one was opened meanwhile.
    async fn is_quiet(&self, connections: &mut watch::Receiver<usize>) -> bool {
        let _ = connections.wait_for(|count| *count == 0).await;
        tokio::select! {
            _ = connections.changed() => false,
            () = sleep(self.limit) => true,
        }
    }

    /// Closes the gate and writes the note; opens it again if there is a reason to stay.
    async fn leave(&mut self) -> bool {
        self.begun().await;
        self.gate.close().await;
        let reason = self.reason_to_stay();
        if let Some(reason) = reason
            && self.logged != Some(reason)
        {
            tracing::info!("idle, and stays: {reason}");
        }
        self.logged = reason;
        if reason.is_some() {
            self.gate.open();
        }
        reason.is_none()
    }

    fn reason_to_stay(&self) -> Option<&'static str> {
        if *self.gate.connections().borrow() > 0 {
            return Some("a client connected at the last moment");
        }
        if self.broker.failure().is_some() {
            return Some("the log cannot be written");
        }
        let unfinished = self.broker.with_state(BrokerState::unfinished);
        match unfinished {
            Unfinished { in_flight: 1.., .. } => return Some("messages are in flight, and wait for their timeout"),
            Unfinished { ephemeral: 1.., .. } => return Some("the end of the process would lose ephemeral messages"),
            Unfinished { .. } => {}
        }
        let due = unfinished.next_due.map(|due| due.0);
        let note = NextStart::Ended { by_signal: false, due, is_pending: false };
        note.write(&self.folder).is_err().then_some("the data folder cannot be written to")
    }

    /// Writes the note of a broker that a signal stopped.
    pub(super) async fn stopped(&mut self) {
        self.begun().await;
        let Unfinished { in_flight, next_due, .. } = self.broker.with_state(BrokerState::unfinished);
        let due = next_due.map(|due| due.0);
        write(NextStart::Ended { by_signal: true, due, is_pending: in_flight > 0 }, &self.folder);
    }

    /// Waits until the first note is written, which must not replace a later one.
    async fn begun(&mut self) {
        if let Some(beginning) = self.beginning.take() {
            let _ = beginning.await;
        }
    }
}

/// Writes a note that the broker can do without.
fn write(note: NextStart, folder: &Path) {
    if let Err(error) = note.write(folder) {
        tracing::warn!(%error, "cannot write next-start in {}: a boot may not start the broker", folder.display());
    }
}

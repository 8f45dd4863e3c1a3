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

use humantime::format_duration;
use mqueue::broker::Broker;
use mqueue::broker::accept_gate::AcceptGate;
use mqueue::broker::state::{BrokerState, Unfinished};
use mqueue::io_error::describe;
use tokio::task::JoinHandle;

use super::next_start::NextStart;

/// Bytes of a log that takes longer to read than a checkpoint takes to write.
const LONG_LOG: u64 = 4 << 20;

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

    /// The time without a connection after which the broker leaves.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Closes the gate: what was accepted before is counted.
    pub(super) async fn close(&mut self) {
        self.begun().await;
        self.gate.close().await;
    }

    /// Writes the note behind the closed gate; opens the gate again, and returns false, if there is a
    /// reason to stay. `is_waking` looks whether a group is being woken.
    pub(super) fn leave(&mut self, is_waking: impl FnOnce() -> bool) -> bool {
        let reason = self.reason_to_stay(is_waking);
        match reason {
            None => tracing::info!("no client for {}: exiting until the next one", format_duration(self.limit)),
            Some(reason) if self.logged != Some(reason) => tracing::info!("idle, but the broker stays: {reason}"),
            Some(_) => {}
        }
        self.logged = reason;
        match reason {
            Some(_) => self.gate.open(),
            None => self.checkpoint(),
        }
        reason.is_none()
    }

    /// Makes the next start quick, if the log is long.
    fn checkpoint(&self) {
        if self.broker.with_state(BrokerState::log_usage).bytes < LONG_LOG {
            return;
        }
        if let Err(error) = self.broker.checkpoint() {
            tracing::warn!("the next start reads the whole log: {}", describe(&error));
        }
    }

    fn reason_to_stay(&self, is_waking: impl FnOnce() -> bool) -> Option<&'static str> {
        let connections = *self.gate.connections().borrow();
        let is_failing = self.broker.failure().is_some();
        // before the look: a message that becomes due meanwhile is in the note
        let unfinished = self.broker.with_state(BrokerState::unfinished);
        let reason = reason_to_stay(connections, is_failing, unfinished, is_waking);
        let due = unfinished.next_due.map(|due| due.0);
        let note = NextStart::Ended { by_signal: false, due, is_pending: false };
        reason.or_else(|| note.write(&self.folder).is_err().then_some("the data folder cannot be written to"))
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

/// Decides behind the closed gate whether the broker stays, and why. `is_waking` looks whether a
/// group that has messages was poked.
pub(super) fn reason_to_stay(
    connections: usize,
    is_failing: bool,
    unfinished: Unfinished,
    is_waking: impl FnOnce() -> bool,
) -> Option<&'static str> {
    if connections > 0 {
        return Some("a client connected at the last moment");
    }
    if is_failing {
        return Some("the log cannot be written");
    }
    match unfinished {
        Unfinished { in_flight: 1.., .. } => Some("messages are in flight, and wait for their timeout"),
        Unfinished { ephemeral: 1.., .. } => Some("the end of the process would lose ephemeral messages"),
        Unfinished { .. } => is_waking().then_some("a sleeping group has messages, and was poked"),
    }
}

/// Writes a note that the broker can do without.
fn write(note: NextStart, folder: &Path) {
    if let Err(error) = note.write(folder) {
        tracing::warn!(%error, "cannot write next-start in {}: a boot may not start the broker", folder.display());
    }
}

//! A command's process group: ended as one, and never left behind by accident.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::orphan_guard::{Entry, OrphanGuard};

/// What a command has left between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How often a group whose leader has ended is looked at. Nothing tells when a group becomes empty.
const LOOK: Duration = Duration::from_millis(20);

/// A process group that is killed when this is dropped, unless it was left.
///
/// Its number stays ours as long as its leader is not waited for, or anybody else is in it; so it is signalled while the
/// leader runs, and after that only in the short time of [`terminate`](Self::terminate).
#[derive(Debug)]
pub(super) struct ProcessGroup {
    id: Option<Pid>,
    /// Has the group killed if this process is killed before it is done with the group.
    guarded: Option<Entry>,
}

impl ProcessGroup {
    /// The group of a child that was started with `process_group(0)`.
    pub(super) fn led_by(child: &Child, guard: &OrphanGuard) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Self { id, guarded: id.and_then(|id| guard.enter(id)) }
    }

    /// The leader has ended: who else is in the group may go on.
    pub(super) fn leave(&mut self) {
        (self.id, self.guarded) = (None, None);
    }

    /// Asks all of the group to end, and makes them after `grace`. The leader is waited for.
    pub(super) async fn terminate(&mut self, leader: &mut Child, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.signal(Signal::SIGTERM);
        if timeout_at(deadline, leader.wait()).await.is_ok() {
            while self.signal(None) {
                if Instant::now() >= deadline {
                    self.signal(Signal::SIGKILL);
                    break;
                }
                sleep(LOOK).await;
            }
        } else {
            self.signal(Signal::SIGKILL);
            // A leader that is stuck in the kernel is left to tokio, which waits for orphans.
            let _ = timeout(grace, leader.wait()).await;
        }
        self.leave();
    }

    /// True if there was somebody to signal.
    fn signal(&self, signal: impl Into<Option<Signal>>) -> bool {
        self.id.is_some_and(|id| killpg(id, signal).is_ok())
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// How a command ended, for people.
pub(super) fn ended(status: ExitStatus) -> String {
    match status.code() {
        // What a shell says of a command that it could not run.
        Some(126) => "exit status 126 (command not executable)".to_owned(),
        Some(127) => "exit status 127 (command not found)".to_owned(),
        Some(code) => format!("exit status {code}"),
        None => format!("killed by signal {}", status.signal().unwrap_or_default()),
    }
}

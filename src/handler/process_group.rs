//! A command's process group: terminated as one, and never left behind by accident.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::orphan_guard::{GuardedGroup, OrphanGuard};

/// The time between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// The poll interval for a group whose leader has ended: the system does not report an empty group.
const GROUP_POLL: Duration = Duration::from_millis(20);

/// A process group that is killed on drop, unless it was released.
///
/// Its number stays valid until its leader was waited for and the group is empty. So it is
/// signalled while the leader runs, and after that only during [`terminate`](Self::terminate).
#[derive(Debug)]
pub(super) struct ProcessGroup {
    id: Option<Pid>,
    /// The entry that kills the group if this process is killed.
    guarded: Option<GuardedGroup>,
}

impl ProcessGroup {
    /// Takes the group of a child that was started with `process_group(0)`.
    pub(super) fn led_by(child: &Child, guard: &OrphanGuard) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Self { id, guarded: id.and_then(|id| guard.guard(id)) }
    }

    /// Releases the group after its leader ended: other processes in it may go on.
    pub(super) fn release(&mut self) {
        (self.id, self.guarded) = (None, None);
    }

    /// Sends SIGTERM to the group, and SIGKILL after `grace`. Waits for the leader.
    pub(super) async fn terminate(&mut self, leader: &mut Child, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.signal(Signal::SIGTERM);
        if timeout_at(deadline, leader.wait()).await.is_ok() {
            while self.signal(None) {
                if Instant::now() >= deadline {
                    self.signal(Signal::SIGKILL);
                    break;
                }
                sleep(GROUP_POLL).await;
            }
        } else {
            self.signal(Signal::SIGKILL);
            // A leader that hangs in the kernel is left to tokio, which reaps orphans.
            let _ = timeout(grace, leader.wait()).await;
        }
        self.release();
    }

    /// Returns true if the group had a process to signal.
    fn signal(&self, signal: impl Into<Option<Signal>>) -> bool {
        self.id.is_some_and(|id| killpg(id, signal).is_ok())
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Describes how a command ended.
pub(super) fn exit_text(status: ExitStatus) -> String {
    match status.code() {
        // The shell's status for a command that it could not run.
        Some(126) => "exit status 126 (command not executable)".to_owned(),
        Some(127) => "exit status 127 (command not found)".to_owned(),
        Some(code) => format!("exit status {code}"),
        None => format!("killed by signal {}", status.signal().unwrap_or_default()),
    }
}

//! Kills running commands when this process is killed.
//!
//! ```text
//!  this process ── pipe, never written ──▶ sh: waits for the pipe's end, then kills the groups
//!               ── table (memfd) ────────▶     a line per slot: a process group, or blanks
//! ```
//!
//! However this process ends, the kernel closes the pipe, and the shell kills the groups in the
//! table. A command costs two writes to memory; the shell sleeps meanwhile.
//! `prctl(PR_SET_PDEATHSIG)` would not reach a command's own children, and setting it requires a
//! fork, which is slower than the `posix_spawn` that std uses otherwise.
//!
//! A kill between a command's start and its entry in the table is not covered.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};

use super::memory_file;
use crate::io_error::describe;

/// The length of a slot: digits or blanks, and a line feed.
const SLOT: usize = 12;
/// `read` strips the blanks. Both ends of standard output lead to the table; reading begins at its
/// first byte.
const SCRIPT: &str = r#"trap '' HUP INT QUIT TERM
while read -r _; do :; done
while read -r group; do [ -z "$group" ] || kill -s KILL -- "-$group"; done <&1"#;

/// A shell that outlives this process for a moment, started with the first command.
#[derive(Debug, Default)]
pub(super) struct OrphanGuard {
    /// `None` if the shell cannot be started: commands are not guarded then.
    shell: OnceLock<Option<Arc<GuardShell>>>,
}

#[derive(Debug)]
struct GuardShell {
    table: File,
    slots: Mutex<TableSlots>,
    /// Closed by the end of this process, which the shell waits for.
    _pipe: ChildStdin,
    /// When dropped, it is left to tokio, which reaps orphans.
    _child: Child,
}

/// The table's slots: those below `used` are taken, except the free ones.
#[derive(Debug, Default)]
struct TableSlots {
    used: u64,
    free: Vec<u64>,
}

/// A process group in the table; dropping it removes the entry.
#[derive(Debug)]
pub(super) struct GuardedGroup {
    shell: Arc<GuardShell>,
    slot: u64,
}

impl OrphanGuard {
    /// Guards a process group: it is killed if this process ends before the entry is dropped. Needs
    /// a tokio runtime.
    pub(super) fn guard(&self, group: Pid) -> Option<GuardedGroup> {
        self.shell().and_then(|shell| shell.guard(group))
    }

    /// Starts the shell if it does not run yet. Called before the first command, so that its entry
    /// does not wait.
    pub(super) fn start(&self) {
        self.shell();
    }

    fn shell(&self) -> Option<&Arc<GuardShell>> {
        let start = || GuardShell::start().map(Arc::new);
        let started = || match start() {
            Ok(shell) => Some(shell),
            Err(error) => {
                tracing::warn!(
                    "a command may outlive this program if it is killed: cannot start /bin/sh: {}",
                    describe(&error)
                );
                None
            }
        };
        self.shell.get_or_init(started).as_ref()
    }
}

impl GuardShell {
    fn start() -> io::Result<Self> {
        let table = memory_file::create(c"mqueue-commands")?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "mqueue-orphan-guard"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(table.try_clone()?)
            .stderr(Stdio::null())
            // a group of its own: Ctrl-C reaches only the terminal's group
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().expect("it is piped");
        Ok(Self { table, slots: Mutex::default(), _pipe: pipe, _child: child })
    }

    fn guard(self: &Arc<Self>, group: Pid) -> Option<GuardedGroup> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.used += 1;
            slots.used - 1
        });
        drop(slots);
        let entry = GuardedGroup { shell: self.clone(), slot };
        entry.write(&format!("{:<1$}\n", group.as_raw(), SLOT - 1)).is_ok().then_some(entry)
    }
}

impl GuardedGroup {
    fn write(&self, line: &str) -> io::Result<()> {
        self.shell.table.write_all_at(line.as_bytes(), self.slot * SLOT as u64)
    }
}

impl Drop for GuardedGroup {
    fn drop(&mut self) {
        // After a failed write the slot is lost: its number stays in the table, and no new command
        // gets that number soon.
        if self.write(&format!("{:<1$}\n", "", SLOT - 1)).is_ok() {
            self.shell.slots.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn table(shell: &GuardShell) -> String {
        let mut text = String::new();
        let mut file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&shell.table))).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn slots_are_cleared_and_reused() {
        let guard = OrphanGuard::default();
        let [first, second] = [7, 4_194_304].map(|group| guard.guard(Pid::from_raw(group)).unwrap());
        let shell = first.shell.clone();
        assert_eq!(table(&shell), "7          \n4194304    \n");
        drop(first);
        assert_eq!(table(&shell), "           \n4194304    \n");
        let third = guard.guard(Pid::from_raw(12)).unwrap();
        assert_eq!(table(&shell), "12         \n4194304    \n");
        drop((second, third));
        assert_eq!(table(&shell), "           \n           \n");
    }
}

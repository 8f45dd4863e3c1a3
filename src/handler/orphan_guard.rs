//! Ends running commands when this process is killed.
//!
//! ```text
//!  this process ── pipe, never written ──▶ sh: waits for the pipe's end, then kills each group in the table
//!               ── table (memfd) ────────▶     a line a slot: the number of a process group, or blanks
//! ```
//!
//! However this process ends, the kernel ends the pipe, and the shell kills the groups that are in the table. A command costs
//! two writes to memory; the shell sleeps meanwhile. `prctl(PR_SET_PDEATHSIG)` would not reach a command's own children, and
//! setting it needs a fork, which is slower than the `posix_spawn` that std uses without it.
//!
//! A kill in the moment between a command's start and its entry is not covered.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};

use super::memory_file;
use crate::io_error::describe;

/// A slot's length: digits or blanks, and a line feed.
const SLOT: usize = 12;
/// Blanks are cut off by `read`. Both ends of standard output lead to the table; reading begins at its first byte.
const SCRIPT: &str = r#"trap '' HUP INT QUIT TERM
while read -r _; do :; done
while read -r group; do [ -z "$group" ] || kill -s KILL -- "-$group"; done <&1"#;

/// A shell that outlives this process by a moment, started with the first command.
#[derive(Debug, Default)]
pub(super) struct OrphanGuard {
    /// `None` if it cannot be had: then commands are not guarded.
    shell: OnceLock<Option<Arc<Shell>>>,
}

#[derive(Debug)]
struct Shell {
    table: File,
    slots: Mutex<Slots>,
    /// Its end tells the shell that this process has ended.
    _pipe: ChildStdin,
    /// Dropped, it is left to tokio, which waits for orphans.
    _child: Child,
}

/// The table's slots: those below `used` are taken, but for the free ones.
#[derive(Debug, Default)]
struct Slots {
    used: u64,
    free: Vec<u64>,
}

/// A process group in the table. Dropped, it is struck off.
#[derive(Debug)]
pub(super) struct Entry {
    shell: Arc<Shell>,
    slot: u64,
}

impl OrphanGuard {
    /// Has a process group killed when this process ends before the entry is dropped. Needs a tokio runtime.
    pub(super) fn enter(&self, group: Pid) -> Option<Entry> {
        self.shell().and_then(|shell| shell.enter(group))
    }

    /// Starts the shell, if it does not run yet: before the first command, which is not to wait for its entry.
    pub(super) fn stand_by(&self) {
        self.shell();
    }

    fn shell(&self) -> Option<&Arc<Shell>> {
        let start = || Shell::start().map(Arc::new);
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

impl Shell {
    fn start() -> io::Result<Self> {
        let table = memory_file::create(c"mqueue-commands")?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "mqueue-orphan-guard"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(table.try_clone()?)
            .stderr(Stdio::null())
            // Ctrl-C reaches the terminal's group only
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().expect("it is piped");
        Ok(Self { table, slots: Mutex::default(), _pipe: pipe, _child: child })
    }

    fn enter(self: &Arc<Self>, group: Pid) -> Option<Entry> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.used += 1;
            slots.used - 1
        });
        drop(slots);
        let entry = Entry { shell: self.clone(), slot };
        entry.write(&format!("{:<1$}\n", group.as_raw(), SLOT - 1)).is_ok().then_some(entry)
    }
}

impl Entry {
    fn write(&self, line: &str) -> io::Result<()> {
        self.shell.table.write_all_at(line.as_bytes(), self.slot * SLOT as u64)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Where blanks cannot be written the slot is lost, and its number is one that the shell cannot kill soon: it is taken.
        if self.write(&format!("{:<1$}\n", "", SLOT - 1)).is_ok() {
            self.shell.slots.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn table(shell: &Shell) -> String {
        let mut text = String::new();
        let mut file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&shell.table))).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn a_slot_is_used_again_and_holds_nothing_in_between() {
        let guard = OrphanGuard::default();
        let [first, second] = [7, 4_194_304].map(|group| guard.enter(Pid::from_raw(group)).unwrap());
        let shell = first.shell.clone();
        assert_eq!(table(&shell), "7          \n4194304    \n");
        drop(first);
        assert_eq!(table(&shell), "           \n4194304    \n");
        let third = guard.enter(Pid::from_raw(12)).unwrap();
        assert_eq!(table(&shell), "12         \n4194304    \n");
        drop((second, third));
        assert_eq!(table(&shell), "           \n           \n");
    }
}

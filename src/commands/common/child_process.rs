//! The program's own commands as child processes, and their output.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Grace period between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// Name of the environment variable that makes a process end with its parent.
const ENDS_WITH_PARENT: &str = "MQUEUE_ENDS_WITH_PARENT";

/// The variables that a child inherits. All others are removed: most flags can be set by the
/// environment, and `COUNT=3` in the caller's shell is meant for the command that was typed, not
/// for the commands that it starts.
const INHERITED: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "TZ",
    "LANG",
    "LANGUAGE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "NO_COLOR",
    "LLVM_PROFILE_FILE",
];

/// Returns true for a variable that a child inherits.
fn is_inherited(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| INHERITED.contains(&name) || name.starts_with("LC_"))
}

/// Prepares a command as a child that ignores this terminal's Ctrl-C, ends with this process, and
/// has a clean environment.
pub(crate) fn command(mut command: Command, args: &[&str]) -> Command {
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| is_inherited(name)));
    command.args(args).env(ENDS_WITH_PARENT, "1").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// A child, and the tasks that read its output.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    child: Child,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl ChildProcess {
    /// Starts the child.
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self { child: command.spawn().context("cannot start a child")?, readers: Vec::new() })
    }

    /// The child's process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Calls `line` for each line of the child's stdout.
    pub(crate) fn each_line_of_stdout(&mut self, line: impl FnMut(&str) + Send + 'static) {
        let out = self.child.stdout.take().expect("it is a pipe");
        self.readers.push(tokio::spawn(each_line(out, line)));
    }

    /// Calls `line` for each line of the child's stderr.
    pub(crate) fn each_line_of_stderr(&mut self, line: impl FnMut(&str) + Send + 'static) {
        let err = self.child.stderr.take().expect("it is a pipe");
        self.readers.push(tokio::spawn(each_line(err, line)));
    }

    /// Waits until the child has ended and all its output is read.
    pub(crate) async fn ended(&mut self) {
        let _ = self.child.wait().await;
        for reader in &mut self.readers {
            let _ = reader.await;
        }
    }

    /// Stops the child with SIGTERM, and with SIGKILL after the grace period.
    pub(crate) async fn end(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if timeout(GRACE, self.ended()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

async fn each_line(from: impl tokio::io::AsyncRead + Unpin, mut line: impl FnMut(&str)) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        line(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of all variables that set a flag of some command.
    fn variables() -> Vec<String> {
        let cli = crate::commands::cli::whole_command_line();
        let commands = std::iter::once(&cli).chain(cli.get_subcommands());
        let names = commands.flat_map(clap::Command::get_arguments).filter_map(clap::Arg::get_env);
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn no_variable_that_sets_a_flag_is_inherited() {
        let names = variables();
        assert!(names.len() > 50, "{names:?}");
        for name in names {
            assert!(!is_inherited(OsStr::new(&name)), "{name} sets a flag of a child, too");
        }
    }

    #[test]
    fn common_variables_are_inherited() {
        for name in ["PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "SSL_CERT_FILE", "RUST_BACKTRACE"] {
            assert!(is_inherited(OsStr::new(name)), "{name}");
        }
    }
}

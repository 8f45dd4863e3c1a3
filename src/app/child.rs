//! The program's own commands as child processes, and what they say.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a child has to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// Names the environment variable that has a process end with who started it.
const ENDS_WITH_PARENT: &str = "MQUEUE_ENDS_WITH_PARENT";

/// Adds to the command what makes it a child that does not hear this terminal's Ctrl-C, and ends with this process.
pub(in crate::app) fn command(mut command: Command, args: &[&str]) -> Command {
    command.args(args).env(ENDS_WITH_PARENT, "1").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// A child, and the tasks that read what it says.
#[derive(Debug)]
pub(in crate::app) struct Running {
    child: Child,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl Running {
    /// Starts it.
    pub(in crate::app) fn start(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self { child: command.spawn().context("cannot start a child")?, readers: Vec::new() })
    }

    /// Its process id, while it runs.
    pub(in crate::app) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Has each line of its stdout told.
    pub(in crate::app) fn each_line_of_stdout(&mut self, line: impl FnMut(&str) + Send + 'static) {
        let out = self.child.stdout.take().expect("it is a pipe");
        self.readers.push(tokio::spawn(each_line(out, line)));
    }

    /// Has each line of its stderr told.
    pub(in crate::app) fn each_line_of_stderr(&mut self, line: impl FnMut(&str) + Send + 'static) {
        let err = self.child.stderr.take().expect("it is a pipe");
        self.readers.push(tokio::spawn(each_line(err, line)));
    }

    /// Waits until it has ended, and all that it said was heard.
    pub(in crate::app) async fn ended(&mut self) {
        let _ = self.child.wait().await;
        for reader in &mut self.readers {
            let _ = reader.await;
        }
    }

    /// Asks it to end; one that does not is killed.
    pub(in crate::app) async fn end(mut self) {
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

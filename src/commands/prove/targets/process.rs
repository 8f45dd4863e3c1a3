//! The process of a program under test.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::commands::common::child_process::ChildProcess;
use crate::commands::prove::faults::TargetSettings;

/// Longest time that a program may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines of its output that are kept.
const KEPT_LINES: usize = 200;
/// Lines of its output that are shown with a failure.
const SHOWN_LINES: usize = 10;

/// A running program.
#[derive(Debug)]
pub(in crate::commands::prove) struct TargetProcess {
    child: ChildProcess,
    lines: UnboundedReceiver<String>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    begun: Instant,
    /// The address that clients connect to.
    pub(super) address: String,
    /// The time from the start of the program to its first answer.
    pub(in crate::commands::prove) recovery: Duration,
}

impl TargetProcess {
    /// Starts a program, with the clock of the settings.
    pub(super) fn start(mut command: Command, settings: &TargetSettings) -> anyhow::Result<Self> {
        settings.clock.iter().for_each(|clock| clock.apply(&mut command));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = ChildProcess::start(command)?;
        let (sender, lines) = unbounded_channel();
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = last_lines.clone();
        let keep = move |line: &str| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back(line.to_owned());
            if kept.len() > KEPT_LINES {
                kept.pop_front();
            }
            // the receiver waits for the address only
            let _ = sender.send(line.to_owned());
        };
        child.each_line_of_stdout(keep.clone());
        child.each_line_of_stderr(keep);
        Ok(Self { child, lines, last_lines, begun, address: String::new(), recovery: Duration::ZERO })
    }

    /// Waits for a line of its output with the address after `marker`.
    pub(super) async fn wait_for_address(&mut self, marker: &str) -> anyhow::Result<()> {
        let address = async {
            while let Some(line) = self.lines.recv().await {
                if let Some((_, address)) = line.split_once(marker) {
                    return Ok(address.trim().to_owned());
                }
            }
            bail!("it ended at its start")
        };
        let found = timeout(START_TIMEOUT, address).await.context("it did not start within 30 s").flatten();
        match found {
            Ok(address) => self.address = address,
            Err(error) => bail!("{error}{}", self.last_words()),
        }
        Ok(())
    }

    /// Waits until `answers` succeeds on this port.
    pub(super) async fn wait_for_port(
        &mut self,
        port: u16,
        answers: impl AsyncFn(&str) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        self.address = format!("127.0.0.1:{port}");
        while let Err(error) = answers(&self.address).await {
            if self.has_ended() {
                bail!("it ended at its start{}", self.last_words());
            }
            if self.begun.elapsed() > START_TIMEOUT {
                bail!("it did not start within 30 s: {error}{}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.has_answered();
        Ok(())
    }

    /// Notes that the program answers.
    pub(super) fn has_answered(&mut self) {
        self.recovery = self.begun.elapsed();
    }

    /// The last lines that the program wrote.
    pub(in crate::commands::prove) fn last_words(&self) -> String {
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = lines.len().saturating_sub(SHOWN_LINES);
        lines.iter().skip(hidden).map(|line| format!("\n    {line}")).collect()
    }

    /// Its output so far, at most the last lines of it.
    pub(in crate::commands::prove) fn output(&self) -> String {
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Sends a signal.
    pub(in crate::commands::prove) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.pid().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Returns true if the program has closed its output: it has ended.
    pub(in crate::commands::prove) fn has_ended(&mut self) -> bool {
        loop {
            match self.lines.try_recv() {
                Ok(_) => {}
                Err(error) => return error == TryRecvError::Disconnected,
            }
        }
    }

    /// Waits until the killed program is gone.
    pub(in crate::commands::prove) async fn wait(&mut self) {
        self.child.ended().await;
    }

    /// The most memory that the program has had so far, in bytes.
    pub(in crate::commands::prove) fn peak_memory(&self) -> u64 {
        let status = self.child.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().map_or(0, |kib: u64| kib * 1024)
    }
}

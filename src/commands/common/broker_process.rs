//! `mqueue broker` as a child process for the duration of a command, so that its processor time and
//! memory can be told from the command's own.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use super::child_process::{self, ChildProcess};
use super::embedded_broker::TempFolder;
use mqueue::client::{Address, Nsqd};

/// Longest time that the child may take to start listening.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running broker process, with its log in a temporary folder.
#[derive(Debug)]
pub(crate) struct BrokerProcess {
    running: ChildProcess,
    pub(crate) tcp: Address,
    pub(crate) http: Nsqd,
    // removed when the child is dropped
    _folder: TempFolder,
}

impl BrokerProcess {
    /// Starts the broker on ports that the system chooses, in a folder whose name begins with
    /// `name`.
    pub(crate) async fn start(name: &str) -> anyhow::Result<Self> {
        let folder = TempFolder::new(name)?;
        let path = std::env::current_exe().context("cannot find this program")?;
        let any = "127.0.0.1:0";
        let args = ["broker", "--tcp-address", any, "--http-address", any, "--broadcast-address", "127.0.0.1"];
        let mut command = child_process::command(Command::new(path), &args);
        command.arg("--data-path").arg(folder.path().join("log"));
        let mut running = ChildProcess::start({
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command
        })?;
        let (sender, mut lines) = unbounded_channel();
        running.each_line_of_stderr(move |line| {
            if line.contains("ERROR") || line.contains("WARN") {
                tracing::warn!("broker: {line}");
            }
            // the receiver is gone once the addresses are known
            let _ = sender.send(line.to_owned());
        });
        let listening = async {
            let (mut tcp, mut http) = (None, None);
            while tcp.is_none() || http.is_none() {
                let line = lines.recv().await.context("the broker has ended: try `mqueue broker`")?;
                let address = |what| line.split_once(what).map(|(_, address)| address.trim().to_owned());
                tcp = tcp.or(address("TCP: listening on "));
                http = http.or(address("HTTP: listening on "));
            }
            anyhow::Ok((tcp.unwrap_or_default().parse()?, http.unwrap_or_default().parse()?))
        };
        let (tcp, http) = timeout(START_TIMEOUT, listening).await.context("the broker did not start within 10 s")??;
        Ok(Self { running, tcp, http, _folder: folder })
    }

    /// The process id, while the broker runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.pid()
    }

    /// Stops the broker and removes its folder.
    pub(crate) async fn end(self) {
        self.running.end().await;
    }
}

//! The demo's child processes: this program's own commands.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::mpsc::UnboundedSender;

use super::{ASLEEP, STREAM, text};
use crate::commands::common::child_process::{self, ChildProcess};
use mqueue::client::Nsqd;
use mqueue::proto::{ChannelName, TopicName};

/// Idle timeout of the awake consumers, in seconds; ends them if the demo is gone.
const AWAKE_TIMEOUT: &str = "60";
/// Idle timeout of the sleeping group's consumer, in seconds.
const IDLE_TIMEOUT: &str = "1";

/// An event reported by a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DemoEvent {
    /// A consumer of the awake group subscribed.
    Awake,
    /// A consumer of the awake group handled an order.
    Mailed { consumer: usize, order: u64 },
    /// The sleeping group was woken.
    Woken,
    /// The sleeping group handled an order.
    Reported { order: u64 },
    /// The sleeping group fell asleep.
    Asleep,
}

/// Starts children, and sends their events to `events`.
#[derive(Debug)]
pub(super) struct ChildStarter {
    path: PathBuf,
    brokers: [String; 4],
    pub(super) events: UnboundedSender<DemoEvent>,
}

/// The field used of the lines that a consumer prints.
#[derive(Deserialize)]
struct PrintedMessage {
    body: String,
}

#[derive(Deserialize)]
struct Order {
    order: u64,
}

impl ChildStarter {
    pub(super) fn new(tcp: &str, http: &str, events: UnboundedSender<DemoEvent>) -> anyhow::Result<Self> {
        let path = std::env::current_exe().context("cannot find this program")?;
        let brokers = ["--nsqd-tcp-address", tcp, "--nsqd-http-address", http].map(str::to_owned);
        Ok(Self { path, brokers, events })
    }

    /// Creates a group before its first consumer connects.
    pub(super) async fn make_group(&self, http: &str, group: &str) -> anyhow::Result<()> {
        let nsqd: Nsqd = http.parse().expect("the address of a listener");
        let (topic, channel) = (TopicName::new(STREAM)?, ChannelName::new(group)?);
        nsqd.create_topic(&topic).await?;
        Ok(nsqd.create_channel(&topic, &channel).await?)
    }

    /// Starts a consumer that stays awake.
    pub(super) fn consumer(&self, group: &str, number: usize) -> anyhow::Result<ChildProcess> {
        let mut command = child_process::command(Command::new(&self.path), &["consumer", "--timeout", AWAKE_TIMEOUT]);
        command.args(["--stream", STREAM, "--group", group]).args(&self.brokers).stderr(Stdio::piped());
        let mut running = ChildProcess::start(command)?;
        let events = self.events.clone();
        running.each_line_of_stderr(move |line| {
            if line.contains("consuming") {
                let _ = events.send(DemoEvent::Awake);
            }
        });
        self.tell_orders(&mut running, move |order| DemoEvent::Mailed { consumer: number, order });
        Ok(running)
    }

    /// Starts a consumer with its activation socket as systemd does: as descriptor 3, with
    /// LISTEN_FDS and LISTEN_PID.
    pub(super) fn sleeper(&self, socket: OwnedFd) -> anyhow::Result<ChildProcess> {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#]).arg(&self.path);
        let mut command = child_process::command(shell, &["consumer", "--timeout", IDLE_TIMEOUT, "--log", "warn"]);
        command.args(["--stream", STREAM, "--group", ASLEEP]).args(&self.brokers).stdin(Stdio::from(socket));
        let mut running = ChildProcess::start(command)?;
        self.tell_orders(&mut running, |order| DemoEvent::Reported { order });
        Ok(running)
    }

    /// Starts a broker that sleeps between clients, with sockets for NSQ's protocol and for HTTP as
    /// systemd passes them. It pokes the sockets in this folder, where its log is, too.
    pub(super) fn sleeping_broker(&self, tcp: OwnedFd, http: OwnedFd, folder: &Path) -> anyhow::Result<ChildProcess> {
        let mut shell = Command::new("sh");
        let script =
            r#"exec 3<&0 4<&1 </dev/null >&2; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=tcp:http exec "$0" "$@""#;
        shell.args(["-c", script]).arg(&self.path);
        let mut command = child_process::command(shell, &["broker", "--idle-exit", "1s", "--log", "warn"]);
        command.args(["--broadcast-address", "127.0.0.1", "--socket-dir", text(folder)?, "--data-path"]);
        command.arg(folder.join("log")).stdin(Stdio::from(tcp)).stdout(Stdio::from(http));
        ChildProcess::start(command)
    }

    /// Starts wakeup, which watches the sockets in this folder.
    pub(super) fn wakeup(&self, folder: &Path) -> anyhow::Result<ChildProcess> {
        let mut command = child_process::command(Command::new(&self.path), &["wakeup", "--log", "warn"]);
        command.args(["--socket-dir", text(folder)?]).args(&self.brokers).stdout(Stdio::null());
        ChildProcess::start(command)
    }

    fn tell_orders(&self, running: &mut ChildProcess, event: impl Fn(u64) -> DemoEvent + Send + 'static) {
        let events = self.events.clone();
        running.each_line_of_stdout(move |line| {
            let order = serde_json::from_str(line).and_then(|PrintedMessage { body }| serde_json::from_str(&body));
            if let Ok(Order { order }) = order {
                let _ = events.send(event(order));
            }
        });
    }
}

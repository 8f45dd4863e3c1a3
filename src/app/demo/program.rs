//! The real program, as child processes.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use super::{ASLEEP, STREAM, text};
use crate::client::Nsqd;
use crate::proto::{ChannelName, TopicName};

/// How long a child has to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// When who is awake goes, if the demo is no more.
const AWAKE_TIMEOUT: &str = "60";
/// When who sleeps falls asleep.
const IDLE_TIMEOUT: &str = "1";

/// What children do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A consumer of the group that is awake subscribed.
    Awake,
    /// One of them handled an order.
    Mailed { consumer: usize, order: u64 },
    /// The group that sleeps was woken.
    Woken,
    /// It handled an order.
    Reported { order: u64 },
    /// It fell asleep.
    Asleep,
}

/// How children are started, and who hears of them.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    brokers: [String; 4],
    pub(super) told: UnboundedSender<Event>,
}

/// What a consumer prints, as far as it is of use.
#[derive(Deserialize)]
struct Line {
    body: String,
}

#[derive(Deserialize)]
struct Order {
    order: u64,
}

impl Program {
    pub(super) fn new(tcp: &str, http: &str, told: UnboundedSender<Event>) -> anyhow::Result<Self> {
        let path = std::env::current_exe().context("cannot find this program")?;
        let brokers = ["--nsqd-tcp-address", tcp, "--nsqd-http-address", http].map(str::to_owned);
        Ok(Self { path, brokers, told })
    }

    /// A group that stands before its first consumer comes.
    pub(super) async fn make_group(&self, http: &str, group: &str) -> anyhow::Result<()> {
        let nsqd: Nsqd = http.parse().expect("the address of a listener");
        let (topic, channel) = (TopicName::new(STREAM)?, ChannelName::new(group)?);
        nsqd.create_topic(&topic).await?;
        Ok(nsqd.create_channel(&topic, &channel).await?)
    }

    /// Starts a consumer that stays awake.
    pub(super) fn consumer(&self, group: &str, number: usize) -> anyhow::Result<Running> {
        let mut command = self.command(Command::new(&self.path), &["consumer", "--timeout", AWAKE_TIMEOUT]);
        command.args(["--stream", STREAM, "--group", group]).args(&self.brokers).stderr(Stdio::piped());
        let mut running = Running::start(command)?;
        let told = self.told.clone();
        running.each_line_of_stderr(move |line| {
            if line.contains("consuming") {
                let _ = told.send(Event::Awake);
            }
        });
        self.tell_orders(&mut running, move |order| Event::Mailed { consumer: number, order });
        Ok(running)
    }

    /// Starts a consumer with its socket, as systemd does: as descriptor 3, with LISTEN_FDS and LISTEN_PID.
    pub(super) fn sleeper(&self, socket: OwnedFd) -> anyhow::Result<Running> {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#]).arg(&self.path);
        let mut command = self.command(shell, &["consumer", "--timeout", IDLE_TIMEOUT, "--log", "warn"]);
        command.args(["--stream", STREAM, "--group", ASLEEP]).args(&self.brokers).stdin(Stdio::from(socket));
        let mut running = Running::start(command)?;
        self.tell_orders(&mut running, |order| Event::Reported { order });
        Ok(running)
    }

    /// Starts wakeup, which looks for sockets in this folder.
    pub(super) fn wakeup(&self, folder: &Path) -> anyhow::Result<Running> {
        let mut command = self.command(Command::new(&self.path), &["wakeup", "--log", "warn"]);
        command.args(["--socket-dir", text(folder)?]).args(&self.brokers).stdout(Stdio::null());
        Running::start(command)
    }

    /// A child that does not hear this terminal's Ctrl-C, and ends with this process.
    fn command(&self, mut command: Command, args: &[&str]) -> Command {
        command.args(args).env(ENDS_WITH_PARENT, "1").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    fn tell_orders(&self, running: &mut Running, event: impl Fn(u64) -> Event + Send + 'static) {
        let told = self.told.clone();
        running.each_line_of_stdout(move |line| {
            let order = serde_json::from_str(line).and_then(|Line { body }| serde_json::from_str(&body));
            if let Ok(Order { order }) = order {
                let _ = told.send(event(order));
            }
        });
    }
}

/// Names the environment variable that has a process end with who started it.
pub(super) const ENDS_WITH_PARENT: &str = "MQUEUE_ENDS_WITH_PARENT";

/// A child, and the tasks that read what it says.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl Running {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self { child: command.spawn().context("cannot start a child")?, readers: Vec::new() })
    }

    fn each_line_of_stdout(&mut self, line: impl FnMut(&str) + Send + 'static) {
        let out = self.child.stdout.take().expect("it is a pipe");
        self.readers.push(tokio::spawn(each_line(out, line)));
    }

    fn each_line_of_stderr(&mut self, line: impl FnMut(&str) + Send + 'static) {
        let err = self.child.stderr.take().expect("it is a pipe");
        self.readers.push(tokio::spawn(each_line(err, line)));
    }

    /// Waits until it has ended, and all that it said was heard.
    pub(super) async fn ended(&mut self) {
        let _ = self.child.wait().await;
        for reader in &mut self.readers {
            let _ = reader.await;
        }
    }

    /// Asks it to end; one that does not is killed.
    pub(super) async fn end(mut self) {
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

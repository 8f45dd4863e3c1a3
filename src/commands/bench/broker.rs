//! The broker of a run: the nsqds named, or `mqueue broker` as a child process, so that its processor time
//! and memory can be told from the client's. The run's stream is created before the run and deleted after it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use super::process::{Process, listening_at};
use crate::commands::bench::args::Args;
use crate::commands::common::child_process::{self, ChildProcess};
use crate::commands::common::embedded_broker::TempFolder;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::run_broker::BrokerAddresses;
use mqueue::client::{Address, Nsqd};
use mqueue::proto::{ChannelName, TopicName};

/// Longest time that the child may take to start listening.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The group that the run consumes with.
const GROUP: &str = "bench";

/// The broker, stream and group of a run.
pub(super) struct BenchBroker {
    pub(super) tcp: Vec<Address>,
    pub(super) topic: TopicName,
    pub(super) channel: ChannelName,
    http: Vec<Nsqd>,
    /// The broker's processes, as far as they run on this machine.
    pub(super) processes: Vec<Process>,
    child: Option<BrokerProcess>,
}

/// A broker process that ends with the run.
struct BrokerProcess {
    running: ChildProcess,
    tcp: Address,
    http: Nsqd,
    // removed when the child is dropped
    _folder: TempFolder,
}

impl BenchBroker {
    /// Finds or starts the broker, and creates the stream and its group there.
    pub(super) async fn find(args: &Args) -> anyhow::Result<Self> {
        let topic = TopicName::new(&format!("bench-{:08x}", fastrand::u32(..)))?;
        let channel = ChannelName::new(GROUP)?;
        let (tcp, http, processes, child) = match is_named(args) {
            true => {
                let BrokerAddresses { tcp, http } = named(args).await?;
                let processes = if args.broker_pid.is_empty() { listening(&tcp) } else { given(&args.broker_pid)? };
                (tcp, http, processes, None)
            }
            false => {
                let child = BrokerProcess::start().await?;
                let processes = child.running.pid().and_then(Process::find).into_iter().collect();
                (vec![child.tcp.clone()], vec![child.http.clone()], processes, Some(child))
            }
        };
        let broker = Self { tcp, topic, channel, http, processes, child };
        if let Err(error) = broker.make().await {
            broker.clear().await;
            return Err(Failure::new(Exit::Unavailable, format!("cannot make a stream: {error}")).into());
        }
        Ok(broker)
    }

    async fn make(&self) -> Result<(), mqueue::client::HttpError> {
        for nsqd in &self.http {
            nsqd.create_topic(&self.topic).await?;
            nsqd.create_channel(&self.topic, &self.channel).await?;
        }
        Ok(())
    }

    /// Describes the broker for the report.
    pub(super) async fn describe(&self) -> String {
        let processes: Vec<String> = self.processes.iter().map(Process::to_string).collect();
        let addresses = self.tcp.iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
        let counted = match processes.is_empty() {
            true => "its processor time and memory are not known: name its process with --broker-pid".to_owned(),
            false => format!("counted: {}", processes.join(", ")),
        };
        match &self.child {
            Some(_) => {
                format!("mqueue broker, a child of this program with its log in a temporary folder, at {addresses}")
            }
            None => format!("{} at {addresses} ({counted})", self.version().await),
        }
    }

    async fn version(&self) -> String {
        match self.http.first().map(Nsqd::info) {
            Some(info) => info.await.map_or("nsqd".to_owned(), |info| format!("nsqd {}", info.version)),
            None => "nsqd".to_owned(),
        }
    }

    /// Stops the broker that was started, or deletes the stream on the nsqds named.
    pub(super) async fn clear(self) {
        if let Some(child) = self.child {
            return child.running.end().await;
        }
        for nsqd in &self.http {
            match nsqd.delete_topic(&self.topic).await {
                Err(error) if !error.is_not_found() => tracing::warn!("stream {} stays on {nsqd}: {error}", self.topic),
                _ => {}
            }
        }
    }
}

fn is_named(args: &Args) -> bool {
    let named = &args.broker;
    !named.nsqd_tcp_address.is_empty() || !named.nsqd_http_address.is_empty() || !named.lookupd_http_address.is_empty()
}

/// Finds the nsqds of the arguments; each needs its HTTP API, which creates and deletes the stream.
async fn named(args: &Args) -> Result<BrokerAddresses, Failure> {
    let found = BrokerAddresses::find(&args.broker).await?;
    if found.http.len() < found.tcp.len() {
        let line = "nsqd's HTTP address is missing, by which the stream is made and deleted: add --nsqd-http-address HOST:PORT for each nsqd";
        return Err(Failure::new(Exit::Usage, line));
    }
    Ok(found)
}

fn listening(addresses: &[Address]) -> Vec<Process> {
    let found: Option<Vec<Process>> = addresses.iter().map(listening_at).collect();
    // all or none: the sum of only some brokers would mislead
    found.unwrap_or_default()
}

fn given(pids: &[u32]) -> Result<Vec<Process>, Failure> {
    let missing =
        |pid| Failure::new(Exit::Usage, format!("there is no process {pid}: see --broker-pid of another, or none"));
    pids.iter().map(|pid| Process::find(*pid).ok_or_else(|| missing(pid))).collect()
}

impl BrokerProcess {
    /// Starts the broker on ports that the system chooses.
    async fn start() -> anyhow::Result<Self> {
        let folder = TempFolder::new("mqueue-bench")?;
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
}

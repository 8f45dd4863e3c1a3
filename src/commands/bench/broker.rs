//! The broker of a run: the nsqds named, or `mqueue broker` as a child process, so that its
//! processor time and memory can be told from the client's. The run's stream is created before the
//! run and deleted after it.

use super::process::{Process, listening_at};
use crate::commands::bench::args::Args;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::run_broker::{BrokerAddresses, RunBroker};
use mqueue::client::{Address, ConnectConfig, Nsqd};
use mqueue::proto::{ChannelName, TopicName};

/// The group that the run consumes with.
const GROUP: &str = "bench";

/// The broker, stream and group of a run.
pub(super) struct BenchBroker {
    broker: RunBroker,
    pub(super) topic: TopicName,
    pub(super) channel: ChannelName,
    /// The broker's processes, as far as they run on this machine.
    pub(super) processes: Vec<Process>,
}

impl BenchBroker {
    /// Finds or starts the broker, and creates the stream and its group there.
    pub(super) async fn find(args: &Args) -> anyhow::Result<Self> {
        let topic = TopicName::new(&format!("bench-{:08x}", fastrand::u32(..)))?;
        let channel = ChannelName::new(GROUP)?;
        let (broker, processes) = match is_named(args) {
            true => {
                let named = named(args).await?;
                let pids = &args.broker_pid;
                let processes = if pids.is_empty() { listening(&named.tcp) } else { given(pids)? };
                (RunBroker::named(named), processes)
            }
            false => {
                let broker = RunBroker::start_process("mqueue-bench").await?;
                let processes = broker.pid().and_then(Process::find).into_iter().collect();
                (broker, processes)
            }
        };
        let broker = Self { broker, topic, channel, processes };
        if let Err(error) = broker.create_stream().await {
            broker.clear().await;
            return Err(Failure::new(Exit::Unavailable, format!("cannot create the stream: {error}")).into());
        }
        Ok(broker)
    }

    /// Settings of the connections to them.
    pub(super) fn connect(&self) -> ConnectConfig {
        self.broker.addresses.connect.clone()
    }

    /// TCP addresses of the nsqds.
    pub(super) fn tcp(&self) -> &[Address] {
        &self.broker.addresses.tcp
    }

    async fn create_stream(&self) -> Result<(), mqueue::client::HttpError> {
        for nsqd in &self.broker.addresses.http {
            nsqd.create_topic(&self.topic).await?;
            nsqd.create_channel(&self.topic, &self.channel).await?;
        }
        Ok(())
    }

    /// Describes the broker for the report.
    pub(super) async fn describe(&self) -> String {
        let processes: Vec<String> = self.processes.iter().map(Process::to_string).collect();
        let addresses = self.tcp().iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
        let counted = match processes.is_empty() {
            true => "its processor time and memory are not known: name its process with --broker-pid".to_owned(),
            false => format!("counted: {}", processes.join(", ")),
        };
        match self.broker.is_started() {
            true => {
                format!("mqueue broker, a child of this program with its log in a temporary folder, at {addresses}")
            }
            false => format!("{} at {addresses} ({counted})", self.version().await),
        }
    }

    async fn version(&self) -> String {
        match self.broker.addresses.http.first().map(Nsqd::info) {
            Some(info) => info.await.map_or("nsqd".to_owned(), |info| format!("nsqd {}", info.version)),
            None => "nsqd".to_owned(),
        }
    }

    /// Stops the broker that was started, or deletes the stream on the nsqds named.
    pub(super) async fn clear(self) {
        self.broker.end(&[self.topic]).await;
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
        let line = "nsqd's HTTP address is missing, which creates and deletes the stream: add --nsqd-http-address HOST:PORT for each nsqd";
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
        |pid| Failure::new(Exit::Usage, format!("no process {pid}: name another with --broker-pid, or leave it out"));
    pids.iter().map(|pid| Process::find(*pid).ok_or_else(|| missing(pid))).collect()
}

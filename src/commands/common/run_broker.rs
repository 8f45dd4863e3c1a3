//! The broker of a command: the nsqds that are named or that the nsqlookupds know at the start, or
//! one that is started for the run.

use std::path::Path;

use crate::commands::common::broker_args;
use crate::commands::common::broker_process::BrokerProcess;
use crate::commands::common::embedded_broker::EmbeddedBroker;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use mqueue::client::{Address, ConnectConfig, Error, Nsqd};
use mqueue::proto::TopicName;
use mqueue::proto::stats::Producer;

/// The nsqds of a run.
#[derive(Debug)]
pub(crate) struct BrokerAddresses {
    /// TCP addresses to publish to; at least one.
    pub(crate) tcp: Vec<Address>,
    /// The nsqds' HTTP APIs, as far as they are known.
    pub(crate) http: Vec<Nsqd>,
    /// Settings of the connections.
    pub(crate) connect: ConnectConfig,
}

impl BrokerAddresses {
    /// Finds the nsqds of the arguments. Fails if there is none.
    pub(crate) async fn find(args: &broker_args::Args) -> Result<Self, Failure> {
        let mut found = Self { tcp: args.nsqd(), http: args.nsqd_http(), connect: args.connect() };
        let mut last_error = None;
        for lookupd in &args.lookupd_http_address {
            match lookupd.nodes().await {
                Ok(nodes) => {
                    for node in nodes.producers {
                        found.add(&node, args);
                    }
                }
                Err(e) => last_error = last_error.or(Some(e)),
            }
        }
        match last_error {
            Some(error) if found.tcp.is_empty() => Err(Failure::unavailable(&Error::Lookup(error))),
            Some(error) => {
                tracing::warn!("cannot ask an nsqlookupd, continuing without its nsqds: {error}");
                Ok(found)
            }
            None if found.tcp.is_empty() => {
                let line = "the nsqlookupds know no nsqd: start one with --lookupd-tcp-address, or name one with --nsqd-tcp-address";
                Err(Failure::new(Exit::Unavailable, line))
            }
            None => Ok(found),
        }
    }

    fn add(&mut self, node: &Producer, args: &broker_args::Args) {
        let tcp = node.tcp_address();
        let host = tcp.rsplit_once(':').map_or("", |(host, _)| host);
        match tcp.parse() {
            Ok(address) if !self.tcp.contains(&address) => {
                self.tcp.push(address);
                self.http.extend(args.http_api(&format!("{host}:{}", node.http_port)));
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("an nsqlookupd knows an nsqd without a usable address: {e}"),
        }
    }
}

/// The broker of a run: the nsqds that are named, or a broker that is started for the run and ends
/// with it.
#[derive(Debug)]
pub(crate) struct RunBroker {
    pub(crate) addresses: BrokerAddresses,
    started: Option<StartedBroker>,
}

#[derive(Debug)]
enum StartedBroker {
    InThisProcess(EmbeddedBroker),
    Child(Box<BrokerProcess>),
}

impl RunBroker {
    /// Finds the nsqds that are named; if none is, starts a broker in this process, in a folder
    /// whose name begins with `name`.
    pub(crate) async fn find_or_start(args: &broker_args::Args, name: &str) -> anyhow::Result<Self> {
        if args.is_named() {
            return Ok(Self::named(BrokerAddresses::find(args).await?));
        }
        let embedded = EmbeddedBroker::start(name).await?;
        let addresses = BrokerAddresses {
            tcp: vec![embedded.tcp.parse()?],
            http: vec![embedded.http.parse()?],
            connect: ConnectConfig::default(),
        };
        Ok(Self { addresses, started: Some(StartedBroker::InThisProcess(embedded)) })
    }

    /// Starts a broker in a child process, in a folder whose name begins with `name`.
    pub(crate) async fn start_process(name: &str) -> anyhow::Result<Self> {
        let child = BrokerProcess::start(name).await?;
        let addresses = BrokerAddresses {
            tcp: vec![child.tcp.clone()],
            http: vec![child.http.clone()],
            connect: ConnectConfig::default(),
        };
        Ok(Self { addresses, started: Some(StartedBroker::Child(Box::new(child))) })
    }

    /// Makes a run's broker of nsqds that run already.
    pub(crate) fn named(addresses: BrokerAddresses) -> Self {
        Self { addresses, started: None }
    }

    /// Returns true if the broker was started for the run.
    pub(crate) fn is_started(&self) -> bool {
        self.started.is_some()
    }

    /// The folder of a broker in this process, for files of the run such as sockets.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.started {
            Some(StartedBroker::InThisProcess(embedded)) => Some(embedded.folder()),
            Some(StartedBroker::Child(_)) | None => None,
        }
    }

    /// The process id of a broker in a child process.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.started {
            Some(StartedBroker::Child(child)) => child.pid(),
            Some(StartedBroker::InThisProcess(_)) | None => None,
        }
    }

    /// Stops the broker that was started, with all of its streams, or deletes the run's streams on
    /// the nsqds that are named.
    pub(crate) async fn end(self, streams: &[TopicName]) {
        match self.started {
            Some(StartedBroker::InThisProcess(embedded)) => return embedded.end().await,
            Some(StartedBroker::Child(child)) => return child.end().await,
            None => {}
        }
        for nsqd in &self.addresses.http {
            for stream in streams {
                match nsqd.delete_topic(stream).await {
                    Err(error) if !error.is_not_found() => {
                        tracing::warn!(%stream, %nsqd, "cannot delete the stream, it stays: {error}")
                    }
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
}

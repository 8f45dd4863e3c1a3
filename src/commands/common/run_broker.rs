//! The nsqds that a command publishes to: those named, and those that the nsqlookupds know at the start.

use crate::commands::common::broker_args;
use crate::commands::common::embedded_broker::EmbeddedBroker;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use mqueue::client::{Address, Error, Nsqd};
use mqueue::proto::stats::Producer;

/// The nsqds of a run.
#[derive(Debug)]
pub(crate) struct BrokerAddresses {
    /// TCP addresses to publish to; at least one.
    pub(crate) tcp: Vec<Address>,
    /// The nsqds' HTTP APIs, as far as they are known.
    pub(crate) http: Vec<Nsqd>,
}

impl BrokerAddresses {
    /// Finds the nsqds of the arguments. Fails if there is none.
    pub(crate) async fn find(args: &broker_args::Args) -> Result<Self, Failure> {
        let mut found = Self { tcp: args.nsqd(), http: args.nsqd_http() };
        let mut last_error = None;
        for lookupd in &args.lookupd_http_address {
            match lookupd.nodes().await {
                Ok(nodes) => {
                    for node in nodes.producers {
                        found.add(&node);
                    }
                }
                Err(e) => last_error = last_error.or(Some(e)),
            }
        }
        match last_error {
            Some(error) if found.tcp.is_empty() => Err(Failure::unavailable(&Error::Lookup(error))),
            Some(error) => {
                tracing::warn!("{error}");
                Ok(found)
            }
            None if found.tcp.is_empty() => {
                let line = "the nsqlookupds know no nsqd: start one with --lookupd-tcp-address, or name one with --nsqd-tcp-address";
                Err(Failure::new(Exit::Unavailable, line))
            }
            None => Ok(found),
        }
    }

    /// Finds the nsqds that are named; if none is, starts a broker in this process, in a folder whose name begins with `name`.
    pub(crate) async fn find_or_start(
        args: &broker_args::Args,
        name: &str,
    ) -> anyhow::Result<(Self, Option<EmbeddedBroker>)> {
        if args.is_named() {
            return Ok((Self::find(args).await?, None));
        }
        let embedded = EmbeddedBroker::start(name).await?;
        Ok((Self { tcp: vec![embedded.tcp.parse()?], http: vec![embedded.http.parse()?] }, Some(embedded)))
    }

    fn add(&mut self, node: &Producer) {
        let tcp = node.tcp_address();
        let host = tcp.rsplit_once(':').map_or("", |(host, _)| host);
        match tcp.parse() {
            Ok(address) if !self.tcp.contains(&address) => {
                self.tcp.push(address);
                self.http.extend(format!("{host}:{}", node.http_port).parse::<Nsqd>());
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("an nsqlookupd knows an nsqd without a usable address: {e}"),
        }
    }
}

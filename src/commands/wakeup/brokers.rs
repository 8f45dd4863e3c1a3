//! The nsqds and nsqlookupds, each polled independently: a slow or silent one delays no other.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::commands::common::broker_args::Args;
use mqueue::client::{Address, HttpError, Nsqd};
use mqueue::wake::aggregate::QueueTotals;
use mqueue::wake::broker::{BrokerAnswer, BrokerHealth, NsqdAnswer, PolledLookupd, PolledNsqd};
use mqueue::wake::hosts::WakeHost;

/// The silence after which an nsqd that no nsqlookupd lists any more is forgotten (nsqlookupd's own
/// timeout).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// The log line for nsqlookupds that list no nsqd.
const NO_NSQD: &str = "nsqlookupd names no nsqd: start one with --lookupd-tcp-address";

/// The kind of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PollNews {
    /// An nsqd answered with its statistics.
    Stats { took: Duration },
    /// A request to an nsqd or nsqlookupd failed.
    Failed,
    /// An nsqlookupd answered with its list.
    Nodes,
}

/// All polled nsqds and nsqlookupds.
#[derive(Debug)]
pub(super) struct PolledBrokers {
    args: Args,
    nsqds: BTreeMap<String, PolledNsqd>,
    directories: Vec<PolledLookupd>,
    asking: JoinSet<BrokerAnswer>,
    /// True if the last polls were also for the hosts that wake the same groups.
    asks_for_hosts: bool,
    /// True once the lack of any nsqd was logged.
    nobody_said: bool,
    /// Keeps outages without logging them.
    is_quiet: bool,
}

impl PolledBrokers {
    /// Creates the set from the flags. If quiet, the caller logs outages.
    pub(super) fn new(args: &Args, is_quiet: bool) -> Self {
        let directories = args.lookupd_http_address.iter().cloned().map(PolledLookupd::new).collect();
        let named = args.nsqd_http().into_iter().map(|http| (http.to_string(), PolledNsqd::new(http, true)));
        Self {
            args: args.clone(),
            nsqds: named.collect(),
            directories,
            asking: JoinSet::new(),
            asks_for_hosts: false,
            nobody_said: is_quiet,
            is_quiet,
        }
    }

    /// Polls all that have answered the last request; with `hosts`, also for the hosts that wake the
    /// same groups.
    pub(super) fn ask(&mut self, hosts: bool) {
        for (index, directory) in self.directories.iter_mut().enumerate() {
            directory.ask(index, &mut self.asking);
        }
        self.asks_for_hosts = hosts;
        self.nsqds.values_mut().for_each(|broker| broker.ask(hosts, &mut self.asking));
    }

    /// Returns true while an answer is pending. Each request has a deadline.
    pub(super) fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Waits for the next answer; `None` if none is pending. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Option<PollNews> {
        let answer = self.asking.join_next().await?.expect("asking does not panic");
        Some(match answer {
            BrokerAnswer::Nsqd { name, took, result: told } => self.take_stats(&name, took, told),
            BrokerAnswer::Lookupd { index, result: told } => self.take_nodes(index, told),
        })
    }

    /// Sums the last statistics of all nsqds; an nsqd with two addresses counts once.
    pub(super) fn poll(&self) -> QueueTotals {
        let (mut poll, mut counted) = (QueueTotals::default(), HashSet::new());
        let (well, troubled): (Vec<_>, Vec<_>) = self.nsqds.iter().partition(|(_, broker)| !broker.trouble.is_some());
        // an nsqd that answers at only one of its addresses counts by that one
        for (_, broker) in well.into_iter().chain(troubled) {
            let Some((stats, _)) = &broker.last else { continue };
            if counted.insert((&broker.identity, stats.start_time)) {
                let url = broker.http.url();
                let address = url.strip_prefix("http://").unwrap_or(&url);
                poll.add(address, broker.tcp().filter(|_| !broker.trouble.is_some()), stats);
            }
        }
        poll.join_retries();
        poll.leave_fleets_alone();
        poll.is_complete = self.all_answer();
        poll
    }

    /// Returns true if each has answered, and the last request succeeded.
    fn all_answer(&self) -> bool {
        let nsqds = self.nsqds.values().all(|broker| broker.last.is_some() && !broker.trouble.is_some());
        let directories =
            self.directories.iter().all(|lookupd| lookupd.answered.is_some() && !lookupd.trouble.is_some());
        nsqds && directories && !self.nsqds.is_empty()
    }

    /// Returns the hosts that any nsqd lists which answers.
    pub(super) fn hosts(&self) -> Vec<Arc<WakeHost>> {
        self.answering().flat_map(|broker| broker.hosts.iter().map(|listed| listed.host.clone())).collect()
    }

    /// Returns the TCP addresses of the nsqds that answer.
    pub(super) fn tcp_addresses(&self) -> BTreeSet<Address> {
        self.answering().filter_map(PolledNsqd::tcp).cloned().collect()
    }

    fn answering(&self) -> impl Iterator<Item = &PolledNsqd> {
        self.nsqds.values().filter(|broker| !broker.trouble.is_some())
    }

    /// Returns the flags for a consumer of the same nsqds: given addresses and nsqlookupds, none
    /// for the default, and those of TLS, compression and AUTH.
    pub(super) fn flags(&self) -> String {
        let lookupds = self.directories.iter().map(|lookupd| format!(" --lookupd-http-address {}", lookupd.http));
        let named = self.nsqds.values().filter(|broker| broker.is_named).filter_map(PolledNsqd::tcp);
        let nsqds: BTreeSet<String> = named.map(|tcp| format!(" --nsqd-tcp-address {tcp}")).collect();
        let flags: Vec<String> = lookupds.chain(nsqds).collect();
        let brokers = if flags == [" --nsqd-tcp-address 127.0.0.1:4150"] { String::new() } else { flags.concat() };
        brokers + &self.args.security.shell_flags()
    }

    /// Returns the HTTP API of the nsqd at this TCP address.
    pub(super) fn http(&self, tcp: &Address) -> Option<Nsqd> {
        self.nsqds.values().find(|broker| broker.tcp() == Some(tcp)).map(|broker| broker.http.clone())
    }

    /// Returns the reason why no nsqd answers; `None` if one does.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.nsqds.values().any(|broker| !broker.trouble.is_some() && broker.last.is_some()) {
            return None;
        }
        let first = self.health(Instant::now()).find_map(|health| health.trouble);
        Some(first.unwrap_or_else(|| NO_NSQD.to_owned()))
    }

    /// Returns the health of each nsqd and nsqlookupd.
    pub(super) fn health(&self, now: Instant) -> impl Iterator<Item = BrokerHealth> {
        let nsqds = self.nsqds.values().map(move |broker| broker.health(now));
        nsqds.chain(self.directories.iter().map(move |directory| directory.health(now)))
    }

    fn take_stats(&mut self, name: &str, took: Duration, told: Result<NsqdAnswer, HttpError>) -> PollNews {
        let Some(broker) = self.nsqds.get_mut(name) else { return PollNews::Failed };
        broker.is_asked = false;
        broker.trouble.is_now(told.as_ref().err(), format_args!("nsqd at {name}"), self.is_quiet);
        match told {
            Ok(told) => {
                let (known, stats, hosts) = *told;
                broker.identity = Some(known.identity.clone());
                (broker.info, broker.last) = (Some(known), Some((stats, Instant::now())));
                broker.hosts = hosts;
                PollNews::Stats { took }
            }
            Err(_) => {
                // another nsqd may come back at this address
                broker.info = None;
                self.forget();
                PollNews::Failed
            }
        }
    }

    fn take_nodes(&mut self, index: usize, told: Result<BTreeSet<String>, HttpError>) -> PollNews {
        let directory = &mut self.directories[index];
        directory.is_asked = false;
        directory.trouble.is_now(told.as_ref().err(), format_args!("nsqlookupd at {}", directory.http), self.is_quiet);
        let Ok(nsqds) = told else { return PollNews::Failed };
        for name in &nsqds {
            if self.nsqds.contains_key(name) {
                continue;
            }
            let Some(http) = self.args.http_api(name) else { continue };
            tracing::info!("found nsqd at {name}");
            let broker = self.nsqds.entry(name.clone()).or_insert(PolledNsqd::new(http, false));
            broker.ask(self.asks_for_hosts, &mut self.asking);
        }
        (directory.nsqds, directory.answered) = (nsqds, Some(Instant::now()));
        if self.nsqds.is_empty() && !self.nobody_said {
            tracing::warn!("{NO_NSQD}");
        }
        self.nobody_said = self.nsqds.is_empty() || self.is_quiet;
        PollNews::Nodes
    }

    /// Forgets nsqds that were removed.
    fn forget(&mut self) {
        let is_listed = |name: &String| self.directories.iter().any(|directory| directory.nsqds.contains(name));
        self.nsqds.retain(|name, broker| {
            let stays = broker.is_named || is_listed(name) || !broker.trouble.lasts(FORGOTTEN_AFTER);
            if !stays {
                tracing::info!("nsqd at {name} is unreachable, and nsqlookupd does not list it any more: forgotten");
            }
            stays
        });
    }
}

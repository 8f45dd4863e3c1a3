//! The nsqds and nsqlookupds, each asked on its own: one that is slow or silent delays no other.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::commands::common::broker_args::Args;
use mqueue::client::{Address, HttpError, Nsqd};
use mqueue::wake::aggregate::QueueTotals;
use mqueue::wake::broker::{BrokerAnswer, BrokerHealth, NsqdAnswer, PolledLookupd, PolledNsqd};

/// How long an nsqd that no nsqlookupd names any more may be silent before it is forgotten (nsqlookupd's own patience).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// What is said where there is no nsqd to ask.
const NO_NSQD: &str = "nsqlookupd names no nsqd: start one with --lookupd-tcp-address";

/// What an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PollNews {
    /// An nsqd's statistics.
    Stats { took: Duration },
    /// An nsqd or nsqlookupd did not answer well.
    Failed,
    /// An nsqlookupd's list.
    Nodes,
}

/// All of them.
#[derive(Debug)]
pub(super) struct PolledBrokers {
    nsqds: BTreeMap<String, PolledNsqd>,
    directories: Vec<PolledLookupd>,
    asking: JoinSet<BrokerAnswer>,
    /// That there is nobody to ask was said.
    nobody_said: bool,
    /// Troubles are kept, and not said.
    is_quiet: bool,
}

impl PolledBrokers {
    /// Those that were given. If quiet, the caller says what is wrong.
    pub(super) fn new(args: &Args, is_quiet: bool) -> Self {
        let directories = args.lookupd_http_address.iter().cloned().map(PolledLookupd::new).collect();
        let named = args.nsqd_http().into_iter().map(|http| (http.to_string(), PolledNsqd::new(http, true)));
        Self { nsqds: named.collect(), directories, asking: JoinSet::new(), nobody_said: is_quiet, is_quiet }
    }

    /// Asks all that have answered.
    pub(super) fn ask(&mut self) {
        for (index, directory) in self.directories.iter_mut().enumerate() {
            directory.ask(index, &mut self.asking);
        }
        self.nsqds.values_mut().for_each(|broker| broker.ask(&mut self.asking));
    }

    /// True while an answer is due. Each has a deadline.
    pub(super) fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Takes in the next answer; `None` if none is due. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Option<PollNews> {
        let answer = self.asking.join_next().await?.expect("asking does not panic");
        Some(match answer {
            BrokerAnswer::Nsqd { name, took, told } => self.take_stats(&name, took, told),
            BrokerAnswer::Lookupd { index, told } => self.take_nodes(index, told),
        })
    }

    /// What all nsqds have told; one that is known by two names counts once.
    pub(super) fn poll(&self) -> QueueTotals {
        let (mut poll, mut counted) = (QueueTotals::default(), HashSet::new());
        let (well, troubled): (Vec<_>, Vec<_>) = self.nsqds.iter().partition(|(_, broker)| !broker.trouble.is_some());
        // one that is in trouble by the other name counts by the one that answers
        for (name, broker) in well.into_iter().chain(troubled) {
            let Some((stats, _)) = &broker.last else { continue };
            if counted.insert((&broker.itself, stats.start_time)) {
                poll.add(name, broker.tcp().filter(|_| !broker.trouble.is_some()), stats);
            }
        }
        poll.leave_fleets_alone();
        poll.is_complete = self.all_answer();
        poll
    }

    /// True if each of them has answered, and the last time well.
    fn all_answer(&self) -> bool {
        let nsqds = self.nsqds.values().all(|broker| broker.last.is_some() && !broker.trouble.is_some());
        let directories =
            self.directories.iter().all(|lookupd| lookupd.answered.is_some() && !lookupd.trouble.is_some());
        nsqds && directories && !self.nsqds.is_empty()
    }

    /// The flags that lead a consumer to the same nsqds: those that were given by address, and the nsqlookupds; none where that is the default.
    pub(super) fn flags(&self) -> String {
        let lookupds = self.directories.iter().map(|lookupd| format!(" --lookupd-http-address {}", lookupd.http));
        let named = self.nsqds.values().filter(|broker| broker.is_named).filter_map(PolledNsqd::tcp);
        let nsqds: BTreeSet<String> = named.map(|tcp| format!(" --nsqd-tcp-address {tcp}")).collect();
        let flags: Vec<String> = lookupds.chain(nsqds).collect();
        if flags == [" --nsqd-tcp-address 127.0.0.1:4150"] { String::new() } else { flags.concat() }
    }

    /// The HTTP API of the nsqd that is subscribed to here.
    pub(super) fn http(&self, tcp: &Address) -> Option<Nsqd> {
        self.nsqds.values().find(|broker| broker.tcp() == Some(tcp)).map(|broker| broker.http.clone())
    }

    /// Why no nsqd answers; `None` if one does.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.nsqds.values().any(|broker| !broker.trouble.is_some() && broker.last.is_some()) {
            return None;
        }
        let first = self.health(Instant::now()).find_map(|health| health.trouble);
        Some(first.unwrap_or_else(|| NO_NSQD.to_owned()))
    }

    /// How each of them is doing.
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
                let (known, stats) = *told;
                broker.itself = Some(known.itself.clone());
                (broker.known, broker.last) = (Some(known), Some((stats, Instant::now())));
                PollNews::Stats { took }
            }
            Err(_) => {
                // it may come back as another
                broker.known = None;
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
            let Ok(http) = name.parse() else { continue };
            tracing::info!("found nsqd at {name}");
            let broker = self.nsqds.entry(name.clone()).or_insert(PolledNsqd::new(http, false));
            broker.ask(&mut self.asking);
        }
        (directory.nsqds, directory.answered) = (nsqds, Some(Instant::now()));
        if self.nsqds.is_empty() && !self.nobody_said {
            tracing::warn!("{NO_NSQD}");
        }
        self.nobody_said = self.nsqds.is_empty() || self.is_quiet;
        PollNews::Nodes
    }

    /// Forgets nsqds that are gone for good.
    fn forget(&mut self) {
        let is_listed = |name: &String| self.directories.iter().any(|directory| directory.nsqds.contains(name));
        self.nsqds.retain(|name, broker| {
            let stays = broker.is_named || is_listed(name) || !broker.trouble.lasts(FORGOTTEN_AFTER);
            if !stays {
                tracing::info!("nsqd at {name} is silent, and nsqlookupd does not name it any more: forgotten");
            }
            stays
        });
    }
}

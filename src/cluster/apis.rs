//! Asking every nsqd of a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt};
use tokio::time::timeout;

use crate::client::{HttpError, Lookupd, Nsqd, StatsFilter};
#[cfg(feature = "tls")]
use crate::net::tls::TlsClient;
use crate::proto::QueueStats;
use crate::proto::stats::{Info, Lookup};

/// The largest number of nsqds that are asked at the same time. It bounds the answers in memory.
const MAX_REQUESTS: usize = 16;
/// The time for an nsqd that did not answer the last time: it must not delay each observation.
const RETRY_TIME: Duration = Duration::from_secs(1);
/// The shortest time between two questions to an nsqlookupd that answers.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

/// The HTTP APIs of a cluster's nsqds and nsqlookupds. Cheap to clone; clones share connections,
/// and what changes rarely: the nsqds that the nsqlookupds know, and each nsqd's `/info`.
#[derive(Debug, Clone)]
pub struct ClusterApis {
    nsqds: Vec<Nsqd>,
    lookupds: Vec<Lookupd>,
    /// TLS of nsqds that the nsqlookupds know.
    #[cfg(feature = "tls")]
    tls: Option<TlsClient>,
    known: Arc<Mutex<KnownNsqds>>,
}

/// Answers of earlier observations.
#[derive(Debug, Default)]
struct KnownNsqds {
    /// The nsqds of each nsqlookupd, with the time of its answer.
    found: BTreeMap<usize, (Instant, Vec<Nsqd>)>,
    /// The `/info` of each nsqd that answered the last time, by its address.
    infos: BTreeMap<String, Arc<Info>>,
    /// The addresses of nsqds that did not answer the last time.
    silent: BTreeSet<String>,
}

/// Every nsqd of a cluster, as it answered at one moment.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClusterState {
    /// The nsqds, each once, even if it is known under several addresses.
    pub nsqds: Vec<NsqdState>,
    /// The nsqlookupds that did not answer: nsqds that only they know may be missing.
    pub lookupd_errors: Vec<HttpError>,
    /// The time of the last answer.
    pub at: Instant,
}

/// The version, addresses and counts of an nsqd.
pub type NsqdAnswer = (Arc<Info>, Arc<QueueStats>);

/// One nsqd.
#[derive(Debug)]
#[non_exhaustive]
pub struct NsqdState {
    /// The HTTP API.
    pub api: Nsqd,
    /// The version, addresses and counts, or the reason why there are none.
    pub answer: Result<NsqdAnswer, HttpError>,
    /// The time of the answer.
    pub at: Instant,
}

impl ClusterState {
    /// Returns the errors of nsqds and nsqlookupds that did not answer.
    pub fn errors(&self) -> impl Iterator<Item = &HttpError> {
        let nsqds = self.nsqds.iter().filter_map(|nsqd| nsqd.answer.as_ref().err());
        nsqds.chain(&self.lookupd_errors)
    }
}

impl NsqdState {
    /// Returns the counts if the nsqd answered.
    pub fn stats(&self) -> Option<&QueueStats> {
        self.answer.as_ref().ok().map(|(_, stats)| &**stats)
    }

    /// Returns what tells this nsqd from others: an nsqd may have several addresses.
    fn identity(&self) -> Option<(&str, &str, i32, i32, i64)> {
        let (info, _) = self.answer.as_ref().ok()?;
        Some((&info.hostname, &info.broadcast_address, info.tcp_port, info.http_port, info.start_time))
    }
}

impl ClusterApis {
    /// Names the nsqds, and the nsqlookupds that know others.
    pub fn new(nsqds: Vec<Nsqd>, lookupds: Vec<Lookupd>) -> Self {
        Self {
            nsqds,
            lookupds,
            #[cfg(feature = "tls")]
            tls: None,
            known: Arc::default(),
        }
    }

    /// Calls nsqds that the nsqlookupds know with TLS, if they want it.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: TlsClient) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Returns the HTTP API of an nsqd that an nsqlookupd knows; `None` for an invalid address.
    fn api(&self, address: &str) -> Option<Nsqd> {
        let nsqd = address.parse::<Nsqd>().ok()?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Some(nsqd.secured(tls));
        }
        Some(nsqd)
    }

    /// Returns the nsqlookupds.
    pub fn lookupds(&self) -> &[Lookupd] {
        &self.lookupds
    }

    /// Asks every nsqd for its counts, many at the same time. The nsqlookupds are asked for nsqds
    /// every 5 s; the nsqds of one that does not answer are those that it knew last. An nsqd that
    /// did not answer the last time has 1 s to do so.
    ///
    /// # Cancel safety
    /// Nothing is changed, so the future may be dropped at any time.
    pub async fn observe(&self, filter: &StatsFilter) -> ClusterState {
        let lookupd_errors = self.look_up().await;
        let ask = |(number, api): (usize, Nsqd)| async move {
            let answer = self.ask_impatiently(&api, filter).await;
            (number, NsqdState { api, answer, at: Instant::now() })
        };
        let asked = stream::iter(self.all_nsqds().into_iter().enumerate().map(ask));
        let mut answers: Vec<_> = asked.buffer_unordered(MAX_REQUESTS).collect().await;
        answers.sort_unstable_by_key(|(number, _)| *number);
        let mut nsqds = answers.into_iter().map(|(_, nsqd)| nsqd).collect();
        keep_first_of_each(&mut nsqds);
        ClusterState { nsqds, lookupd_errors, at: Instant::now() }
    }

    /// Asks the nsqlookupds that are due for their nsqds; returns the errors.
    async fn look_up(&self) -> Vec<HttpError> {
        let due = self.lookupds.iter().enumerate().filter(|(number, _)| self.is_due(*number));
        let ask = |(number, lookupd): (usize, &Lookupd)| {
            let lookupd = lookupd.clone();
            async move { (number, lookupd.nodes().await) }
        };
        let answers = join_all(due.map(ask)).await;
        answers.into_iter().filter_map(|(number, nodes)| self.found(number, nodes).err()).collect()
    }

    /// True if it is time to ask an nsqlookupd for its nsqds again.
    pub(super) fn is_due(&self, number: usize) -> bool {
        let known = self.known();
        known.found.get(&number).is_none_or(|(at, _)| at.elapsed() >= LOOKUP_INTERVAL)
    }

    /// Takes the nsqds that an nsqlookupd knows.
    pub(super) fn found(&self, number: usize, nodes: Result<Lookup, HttpError>) -> Result<(), HttpError> {
        let addresses = nodes?.producers.into_iter().map(|node| node.http_address());
        let mut known = self.known();
        // an API that is known keeps its connections
        let mut before = known.found.remove(&number).map(|(_, nsqds)| nsqds).unwrap_or_default();
        let nsqd = |address: String| match before.iter().position(|nsqd| nsqd.to_string() == address) {
            Some(number) => Some(before.swap_remove(number)),
            None => self.api(&address),
        };
        let nsqds = addresses.filter_map(nsqd).collect();
        known.found.insert(number, (Instant::now(), nsqds));
        Ok(())
    }

    /// Returns the nsqds that are named and those that the nsqlookupds know, each address once.
    /// Forgets what was known of others.
    pub(super) fn all_nsqds(&self) -> Vec<Nsqd> {
        let mut seen = BTreeSet::new();
        let mut known = self.known();
        let found = known.found.values().flat_map(|(_, nsqds)| nsqds);
        let all = self.nsqds.iter().chain(found).filter(|nsqd| seen.insert(nsqd.to_string())).cloned().collect();
        known.infos.retain(|address, _| seen.contains(address));
        known.silent.retain(|address| seen.contains(address));
        all
    }

    /// Asks an nsqd, which has less time if it did not answer the last time.
    async fn ask_impatiently(&self, api: &Nsqd, filter: &StatsFilter) -> Result<NsqdAnswer, HttpError> {
        let address = api.to_string();
        let is_silent = self.known().silent.contains(&address);
        let asking = self.ask(api, filter);
        match is_silent {
            true => timeout(RETRY_TIME, asking).await.unwrap_or_else(|_| Err(late("nsqd", address))),
            false => asking.await,
        }
    }

    /// Asks an nsqd. `/info` is asked for once in a run of nsqd, whose start time is in both
    /// answers.
    pub(super) async fn ask(&self, api: &Nsqd, filter: &StatsFilter) -> Result<NsqdAnswer, HttpError> {
        let address = api.to_string();
        let info = self.known().infos.get(&address).cloned();
        let both = async {
            if let Some(info) = info {
                let stats = api.queue_stats(filter).await?;
                if stats.start_time == info.start_time {
                    return Ok((info, Arc::new(stats)));
                }
            }
            let (info, stats) = join(api.info(), api.queue_stats(filter)).await;
            Ok((Arc::new(info?), Arc::new(stats?)))
        };
        let answer: Result<NsqdAnswer, HttpError> = both.await;
        let mut known = self.known();
        match &answer {
            Ok((info, _)) => {
                known.silent.remove(&address);
                known.infos.insert(address, Arc::clone(info));
            }
            Err(_) => {
                known.infos.remove(&address);
                known.silent.insert(address);
            }
        }
        answer
    }

    fn known(&self) -> MutexGuard<'_, KnownNsqds> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a server that has not answered.
pub(super) fn late(program: &'static str, address: String) -> HttpError {
    HttpError::Unreachable { program, address, reason: "no answer in time".to_owned() }
}

/// Removes nsqds that are known under a second address.
pub(super) fn keep_first_of_each(nsqds: &mut Vec<NsqdState>) {
    let mut seen = BTreeSet::new();
    nsqds.retain(|nsqd| {
        let Some((host, broadcast, tcp, http, start)) = nsqd.identity() else { return true };
        seen.insert((host.to_owned(), broadcast.to_owned(), tcp, http, start))
    });
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::proto::TopicCounts;

    /// A cluster of one nsqd for each list of topics.
    pub(in super::super) fn cluster(nsqds: Vec<Vec<TopicCounts>>) -> ClusterState {
        let nsqd = |(number, topics): (usize, Vec<TopicCounts>)| NsqdState {
            api: format!("nsqd{number}:4151").parse().unwrap(),
            answer: Ok((Arc::default(), Arc::new(QueueStats { topics, ..QueueStats::default() }))),
            at: Instant::now(),
        };
        let nsqds = nsqds.into_iter().enumerate().map(nsqd).collect();
        ClusterState { nsqds, lookupd_errors: Vec::new(), at: Instant::now() }
    }

    #[test]
    fn an_nsqd_with_two_addresses_counts_once() {
        let state = |address: &str, answer| NsqdState { api: address.parse().unwrap(), answer, at: Instant::now() };
        let answered = |address: &str, start_time| {
            let info = Info { hostname: "a".to_owned(), start_time, ..Info::default() };
            state(address, Ok((Arc::new(info), Arc::default())))
        };
        let failed = || {
            let address = "c:1".to_owned();
            state("c:1", Err(HttpError::Unreachable { program: "nsqd", address, reason: String::new() }))
        };
        let mut nsqds = vec![answered("a:1", 1), answered("127.0.0.1:1", 1), answered("b:1", 2), failed(), failed()];
        keep_first_of_each(&mut nsqds);
        let left: Vec<String> = nsqds.iter().map(|nsqd| nsqd.api.to_string()).collect();
        assert_eq!(left, ["a:1", "b:1", "c:1", "c:1"]);
    }
}

//! Asking every nsqd of a cluster.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::future::{join, join_all};

use crate::client::{HttpError, Lookupd, Nsqd, StatsFilter};
#[cfg(feature = "tls")]
use crate::net::tls::TlsClient;
use crate::proto::stats::{Info, Stats};

/// The HTTP APIs of a cluster's nsqds and nsqlookupds.
#[derive(Debug, Clone)]
pub struct ClusterApis {
    nsqds: Vec<Nsqd>,
    lookupds: Vec<Lookupd>,
    /// TLS of nsqds that the nsqlookupds know.
    #[cfg(feature = "tls")]
    tls: Option<TlsClient>,
}

/// Every nsqd of a cluster, as it answered at one moment.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClusterState {
    /// The nsqds, each once, even if it is known under several addresses.
    pub nsqds: Vec<NsqdState>,
    /// The nsqlookupds that did not answer: nsqds that only they know are missing.
    pub lookupd_errors: Vec<HttpError>,
    /// The time of the answers.
    pub at: Instant,
}

/// One nsqd.
#[derive(Debug)]
#[non_exhaustive]
pub struct NsqdState {
    /// The HTTP API.
    pub api: Nsqd,
    /// The version, addresses and statistics, or the reason why there are none.
    pub answer: Result<(Info, Stats), HttpError>,
}

impl ClusterState {
    /// Returns the errors of nsqds and nsqlookupds that did not answer.
    pub fn errors(&self) -> impl Iterator<Item = &HttpError> {
        let nsqds = self.nsqds.iter().filter_map(|nsqd| nsqd.answer.as_ref().err());
        nsqds.chain(&self.lookupd_errors)
    }
}

impl NsqdState {
    /// Returns the statistics if the nsqd answered.
    pub fn stats(&self) -> Option<&Stats> {
        self.answer.as_ref().ok().map(|(_, stats)| stats)
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

    /// Asks every nsqd for its statistics, all at the same time.
    ///
    /// # Cancel safety
    /// Nothing is changed, so the future may be dropped at any time.
    pub async fn observe(&self, filter: &StatsFilter) -> ClusterState {
        let mut lookupd_errors = Vec::new();
        let mut nsqds = self.nsqds.clone();
        let mut known: BTreeSet<String> = nsqds.iter().map(ToString::to_string).collect();
        for nodes in join_all(self.lookupds.iter().map(Lookupd::nodes)).await {
            match nodes {
                Ok(nodes) => {
                    let found = nodes.producers.iter().filter_map(|node| self.api(&node.http_address()));
                    nsqds.extend(found.filter(|nsqd| known.insert(nsqd.to_string())));
                }
                Err(error) => lookupd_errors.push(error),
            }
        }
        let ask = |api: Nsqd| async {
            let (info, stats) = join(api.info(), api.stats(filter)).await;
            let answer = info.and_then(|info| Ok((info, stats?)));
            NsqdState { api, answer }
        };
        let mut nsqds = join_all(nsqds.into_iter().map(ask)).await;
        keep_first_of_each(&mut nsqds);
        ClusterState { nsqds, lookupd_errors, at: Instant::now() }
    }
}

/// Removes nsqds that are known under a second address.
fn keep_first_of_each(nsqds: &mut Vec<NsqdState>) {
    let mut seen = BTreeSet::new();
    nsqds.retain(|nsqd| {
        let Some((host, broadcast, tcp, http, start)) = nsqd.identity() else { return true };
        seen.insert((host.to_owned(), broadcast.to_owned(), tcp, http, start))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nsqd_with_two_addresses_counts_once() {
        let state = |address: &str, start_time| NsqdState {
            api: address.parse().unwrap(),
            answer: Ok((Info { hostname: "a".to_owned(), start_time, ..Info::default() }, Stats::default())),
        };
        let failed = || NsqdState {
            api: "c:1".parse().unwrap(),
            answer: Err(HttpError::Unreachable { program: "nsqd", address: "c:1".to_owned(), reason: String::new() }),
        };
        let mut nsqds = vec![state("a:1", 1), state("127.0.0.1:1", 1), state("b:1", 2), failed(), failed()];
        keep_first_of_each(&mut nsqds);
        let left: Vec<String> = nsqds.iter().map(|nsqd| nsqd.api.to_string()).collect();
        assert_eq!(left, ["a:1", "b:1", "c:1", "c:1"]);
    }
}

//! One nsqd or nsqlookupd: its requests, and its last answer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::hosts::{self, ListedHost};
use super::outage::Outage;
use crate::client::{Address, HttpError, Lookupd, Nsqd, StatsFilter};
use crate::proto::TopicName;
use crate::proto::stats::{Lookup, Producer, Stats};

/// An answer, with its sender.
#[derive(Debug)]
pub enum BrokerAnswer {
    Nsqd { name: String, took: Duration, result: Result<NsqdAnswer, HttpError> },
    Lookupd { index: usize, result: Result<BTreeSet<String>, HttpError> },
}

/// An nsqd's identity and statistics, and the hosts that it lists, if they were asked for.
pub type NsqdAnswer = Box<(NsqdInfo, Stats, Vec<ListedHost>)>;

/// The result of `/info`, which an nsqd is asked for once.
#[derive(Debug, Clone)]
pub struct NsqdInfo {
    /// The address for subscriptions.
    pub tcp: Option<Address>,
    pub identity: NsqdIdentity,
}

/// An nsqd's host name, broadcast address and ports.
pub type NsqdIdentity = (String, String, i32, i32);

/// The health of an nsqd or nsqlookupd, for `/state`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BrokerHealth {
    program: &'static str,
    http: String,
    /// The address for subscriptions.
    tcp: Option<String>,
    /// The age of the last good answer, in seconds.
    last_answer: Option<f64>,
    pub trouble: Option<String>,
}

/// An nsqd that is polled over HTTP.
#[derive(Debug)]
pub struct PolledNsqd {
    pub http: Nsqd,
    /// True if its address is a flag, and not found by nsqlookupd.
    pub is_named: bool,
    pub info: Option<NsqdInfo>,
    /// The identity with the last answer.
    pub identity: Option<NsqdIdentity>,
    pub trouble: Outage,
    /// The last answer and its time. A silent nsqd keeps its last known queues.
    pub last: Option<(Stats, Instant)>,
    /// The hosts in the last answer.
    pub hosts: Vec<ListedHost>,
    pub is_asked: bool,
}

impl PolledNsqd {
    pub fn new(http: Nsqd, is_named: bool) -> Self {
        let (trouble, hosts) = (Outage::default(), Vec::new());
        Self { http, is_named, info: None, identity: None, trouble, last: None, hosts, is_asked: false }
    }

    /// Sends a request, unless one is pending; with `hosts`, also for the hosts that wake the same
    /// groups.
    pub fn ask(&mut self, hosts: bool, asking: &mut JoinSet<BrokerAnswer>) {
        if self.is_asked {
            return;
        }
        self.is_asked = true;
        let (http, info) = (self.http.clone(), self.info.clone());
        let hosts = hosts.then(|| self.hosts.clone());
        asking.spawn(async move {
            let start = Instant::now();
            let result = fetch(&http, info, hosts).await;
            BrokerAnswer::Nsqd { name: http.to_string(), took: start.elapsed(), result }
        });
    }

    /// The address for subscriptions.
    pub fn tcp(&self) -> Option<&Address> {
        self.info.as_ref()?.tcp.as_ref()
    }

    pub fn health(&self, now: Instant) -> BrokerHealth {
        BrokerHealth {
            program: "nsqd",
            http: self.http.to_string(),
            tcp: self.tcp().map(ToString::to_string),
            last_answer: self.last.as_ref().map(|(_, then)| seconds(*then, now)),
            trouble: self.trouble.text(),
        }
    }
}

async fn fetch(http: &Nsqd, info: Option<NsqdInfo>, hosts: Option<Vec<ListedHost>>) -> Result<NsqdAnswer, HttpError> {
    let info = match info {
        Some(info) => info,
        None => {
            let info = http.info().await?;
            NsqdInfo {
                tcp: http.tcp_address(&info),
                identity: (info.hostname, info.broadcast_address, info.tcp_port, info.http_port),
            }
        }
    };
    let stats = http.stats(&StatsFilter::default()).await?;
    let hosts = match hosts {
        Some(known) => fetch_hosts(http, &known).await?,
        None => Vec::new(),
    };
    Ok(Box::new((info, stats, hosts)))
}

async fn fetch_hosts(http: &Nsqd, known: &[ListedHost]) -> Result<Vec<ListedHost>, HttpError> {
    let topic = TopicName::new(hosts::TOPIC).expect("a valid name");
    let stats = http.stats(&StatsFilter { topic: Some(topic), clients: true, ..StatsFilter::default() }).await?;
    let channels = stats.topics.iter().flat_map(|topic| topic.channels.iter());
    let channels = channels.filter(|channel| channel.channel_name == hosts::CHANNEL);
    Ok(hosts::listed(channels.flat_map(|channel| channel.clients.iter()), known))
}

/// An nsqlookupd that is polled, and the HTTP addresses of the nsqds that it listed last.
#[derive(Debug)]
pub struct PolledLookupd {
    pub http: Lookupd,
    pub trouble: Outage,
    pub nsqds: BTreeSet<String>,
    pub answered: Option<Instant>,
    pub is_asked: bool,
}

impl PolledLookupd {
    pub fn new(http: Lookupd) -> Self {
        Self { http, trouble: Outage::default(), nsqds: BTreeSet::new(), answered: None, is_asked: false }
    }

    /// Sends a request, unless one is pending.
    pub fn ask(&mut self, index: usize, asking: &mut JoinSet<BrokerAnswer>) {
        if self.is_asked {
            return;
        }
        self.is_asked = true;
        let http = self.http.clone();
        asking.spawn(async move {
            let nsqds = |nodes: Lookup| nodes.producers.iter().map(Producer::http_address).collect();
            BrokerAnswer::Lookupd { index, result: http.nodes().await.map(nsqds) }
        });
    }

    pub fn health(&self, now: Instant) -> BrokerHealth {
        BrokerHealth {
            program: "nsqlookupd",
            http: self.http.to_string(),
            tcp: None,
            last_answer: self.answered.map(|then| seconds(then, now)),
            trouble: self.trouble.text(),
        }
    }
}

/// Returns the age of an instant, rounded to milliseconds.
fn seconds(then: Instant, now: Instant) -> f64 {
    (now.saturating_duration_since(then).as_secs_f64() * 1000.0).round() / 1000.0
}

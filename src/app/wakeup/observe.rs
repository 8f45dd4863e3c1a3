//! What the nsqds say of their groups.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::decide::Group;
use crate::cli::broker;
use crate::client::{Address, HttpError, Nsqd, StatsFilter};
use crate::proto::stats::Stats;

/// One nsqd: where it is asked, and where it is subscribed at.
#[derive(Debug)]
struct Broker {
    http: Nsqd,
    tcp: Option<Address>,
    /// What went wrong the last time; said when it changes.
    trouble: Option<String>,
    last: Option<Stats>,
}

/// All nsqds.
#[derive(Debug)]
pub(super) struct Brokers {
    args: broker::Args,
    known: BTreeMap<String, Broker>,
}

/// One poll's answers.
#[derive(Debug, Default)]
pub(super) struct Poll {
    /// Durable groups by stream and name.
    pub(super) groups: BTreeMap<(String, String), Group>,
    /// Where each stream with a durable group can be subscribed to.
    pub(super) streams: BTreeSet<(Address, String)>,
}

impl Brokers {
    pub(super) fn new(args: broker::Args) -> Self {
        Self { args, known: BTreeMap::new() }
    }

    /// Asks every nsqd. One that does not answer is remembered as it was: silence is no empty queue. Fails if none answers.
    pub(super) async fn poll(&mut self) -> Result<Poll, String> {
        let mut error = self.find().await;
        let answers = join_all(self.known.values_mut().map(Broker::ask)).await;
        error = answers.iter().find_map(|answer| answer.as_ref().err().cloned()).or(error);
        if !answers.iter().any(Result::is_ok) {
            return Err(error.unwrap_or_else(|| "no nsqd is known: name one with --nsqd-http-address".to_owned()));
        }
        let mut poll = Poll::default();
        self.known.values().for_each(|broker| broker.add_to(&mut poll));
        Ok(poll)
    }

    /// Takes in the nsqds that are named, and those that nsqlookupds know.
    async fn find(&mut self) -> Option<String> {
        for http in self.args.nsqd_http() {
            self.know(http);
        }
        let mut error = None;
        for nodes in join_all(self.args.lookupd_http_address.iter().map(|lookupd| lookupd.nodes())).await {
            match nodes {
                Ok(nodes) => {
                    let addresses = nodes.producers.iter().map(|p| format!("{}:{}", p.broadcast_address, p.http_port));
                    addresses.filter_map(|address| address.parse().ok()).for_each(|http| self.know(http));
                }
                Err(e) => error = Some(e.to_string()),
            }
        }
        error
    }

    fn know(&mut self, http: Nsqd) {
        let name = http.to_string();
        self.known.entry(name).or_insert(Broker { http, tcp: None, trouble: None, last: None });
    }
}

impl Broker {
    async fn ask(&mut self) -> Result<(), String> {
        let answer = self.try_ask().await.map_err(|e| e.to_string());
        let trouble = answer.as_ref().err().cloned();
        if trouble != self.trouble {
            match &trouble {
                Some(trouble) => tracing::warn!("{trouble}"),
                None => tracing::info!("nsqd at {} answers again", self.http),
            }
            self.trouble = trouble;
        }
        answer
    }

    async fn try_ask(&mut self) -> Result<(), HttpError> {
        if self.tcp.is_none() {
            let info = self.http.info().await?;
            // the host that was named is one that can be reached; what nsqd calls itself need not be
            let http = self.http.to_string();
            let host = http.rsplit_once(':').map_or("", |(host, _)| host);
            self.tcp = format!("{host}:{}", info.tcp_port).parse().ok();
        }
        self.last = Some(self.http.stats(&StatsFilter::default()).await?);
        Ok(())
    }

    fn add_to(&self, poll: &mut Poll) {
        for topic in self.last.iter().flat_map(|stats| &stats.topics) {
            let durable = topic.channels.iter().filter(|channel| !channel.channel_name.ends_with("#ephemeral"));
            for channel in durable {
                let group = poll.groups.entry((topic.topic_name.clone(), channel.channel_name.clone())).or_default();
                // what is deferred or in flight becomes depth when its time comes
                group.depth += u64::try_from(channel.depth).unwrap_or(0);
                group.clients += u64::try_from(channel.client_count).unwrap_or(0);
                let left = channel.depth + channel.in_flight_count + channel.deferred_count;
                group.finished += channel.message_count.saturating_sub(u64::try_from(left).unwrap_or(0));
                group.paused |= channel.paused || topic.paused;
                // never the first channel of a stream: that one would get its backlog
                if let (Some(tcp), None) = (&self.tcp, &self.trouble) {
                    poll.streams.insert((tcp.clone(), topic.topic_name.clone()));
                }
            }
        }
    }
}

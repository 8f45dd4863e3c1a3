//! The connections of consumers to a group, or to all groups of a stream.

use futures_util::stream::{self, StreamExt};
use serde::Serialize;

use mqueue::client::{Nsqd, StatsFilter};
use mqueue::cluster::{ClusterApis, QueueAction, QueueTarget};
use mqueue::proto::excerpt;
use mqueue::proto::stats::ClientStats;

/// The maximum of shown clients: those with the most messages in flight.
const MAX_SHOWN: usize = 500;
/// nsqds that are asked at the same time: an answer may be large.
const MAX_AT_ONCE: usize = 4;

/// The clients of a target.
#[derive(Debug, Default, Serialize)]
pub(super) struct ShownClients {
    clients: Vec<ShownClient>,
    /// The number of all clients.
    total: usize,
    errors: Vec<String>,
}

/// A connection to one nsqd. Texts are the client's own, made printable.
#[derive(Debug, Serialize)]
struct ShownClient {
    name: String,
    group: String,
    nsqd: String,
    address: String,
    agent: String,
    ready: i64,
    in_flight: i64,
    finished: u64,
    requeued: u64,
    /// The time of its connection in seconds since 1970.
    connected: i64,
}

impl ShownClients {
    /// Asks the nsqds that have the target.
    pub(super) async fn ask(cluster: &ClusterApis, target: &QueueTarget) -> Self {
        let one = StatsFilter::default().with_topic(&target.stream);
        let state = cluster.observe(&one).await;
        let mut shown = Self { errors: state.errors().map(ToString::to_string).collect(), ..Self::default() };
        let filter = target.group.iter().fold(one, |filter, group| filter.with_channel(group)).with_clients();
        let places = state.places(QueueAction::Pause, target).into_iter().map(|(nsqd, _)| nsqd.clone());
        let places: Vec<Nsqd> = places.collect();
        let ask = |nsqd: Nsqd| {
            let filter = &filter;
            async move { (nsqd.to_string(), nsqd.stats(filter).await) }
        };
        let mut answers = stream::iter(places.into_iter().map(ask)).buffer_unordered(MAX_AT_ONCE);
        while let Some((nsqd, answer)) = answers.next().await {
            match answer {
                Err(error) => shown.errors.push(error.to_string()),
                Ok(stats) => {
                    let topics = stats.topics.iter().filter(|topic| topic.topic_name == target.stream.as_str());
                    let is_wanted = |name: &str| target.group.as_ref().is_none_or(|group| group.as_str() == name);
                    let channels = topics.flat_map(|topic| topic.channels.iter());
                    for channel in channels.filter(|channel| is_wanted(&channel.channel_name)) {
                        shown.total += channel.clients.len();
                        let group = excerpt(channel.channel_name.as_bytes());
                        shown.clients.extend(channel.clients.iter().map(|it| ShownClient::new(it, &group, &nsqd)));
                    }
                    shown.trim();
                }
            }
        }
        shown
    }

    fn trim(&mut self) {
        let key = |client: &ShownClient| {
            (std::cmp::Reverse(client.in_flight), client.name.clone(), client.nsqd.clone(), client.address.clone())
        };
        self.clients.sort_by_cached_key(key);
        self.clients.truncate(MAX_SHOWN);
    }
}

impl ShownClient {
    fn new(client: &ClientStats, group: &str, nsqd: &str) -> Self {
        let text = |text: &str| excerpt(text.as_bytes());
        let name = if client.hostname.is_empty() { &client.client_id } else { &client.hostname };
        Self {
            name: text(name),
            group: group.to_owned(),
            nsqd: nsqd.to_owned(),
            address: text(&client.remote_address),
            agent: text(&client.user_agent),
            ready: client.ready_count,
            in_flight: client.in_flight_count,
            finished: client.finish_count,
            requeued: client.requeue_count,
            connected: client.connect_ts,
        }
    }
}

//! The clients of a stream or group, asked from every nsqd that has it, as `top` and the web page
//! show them.

use futures_util::stream::{self, StreamExt};
use serde::Serialize;

use mqueue::client::{HttpError, Nsqd, StatsFilter};
use mqueue::cluster::{ClusterApis, QueueAction, QueueTarget};
use mqueue::proto::excerpt;
use mqueue::proto::stats::{ClientStats, Stats};

/// nsqds that are asked at the same time: an answer may be large.
const MAX_REQUESTS: usize = 4;

/// A client's connection to one nsqd. Texts are the client's own, made printable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ClientRow {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) nsqd: String,
    pub(crate) address: String,
    pub(crate) agent: String,
    pub(crate) ready: i64,
    pub(crate) in_flight: i64,
    pub(crate) messages: u64,
    pub(crate) finished: u64,
    pub(crate) requeued: u64,
    /// Connection time in seconds since 1970.
    pub(crate) connected: i64,
}

/// The clients of a target.
#[derive(Debug, Default, Serialize)]
pub(crate) struct QueueClients {
    /// The clients; those with the most messages in flight first.
    #[serde(rename = "clients")]
    pub(crate) rows: Vec<ClientRow>,
    /// The number of all clients.
    pub(crate) total: usize,
    /// Errors of the nsqds and nsqlookupds that did not answer.
    pub(crate) errors: Vec<String>,
    /// The most rows that are kept.
    #[serde(skip)]
    most: usize,
}

impl QueueClients {
    /// Asks the nsqds that have the target, and keeps at most `most` clients.
    pub(crate) async fn ask(cluster: &ClusterApis, target: &QueueTarget, most: usize) -> Self {
        let one = StatsFilter::default().with_topic(&target.stream);
        let state = cluster.observe(&one).await;
        let filter = target.group.iter().fold(one, |filter, group| filter.with_channel(group)).with_clients();
        let errors = state.errors().map(ToString::to_string).collect();
        let mut clients = Self { errors, most, ..Self::default() };
        // all that have the target
        let places = state.places(QueueAction::Pause, target).into_iter().map(|(nsqd, _)| nsqd.clone());
        let places: Vec<Nsqd> = places.collect();
        let ask = |nsqd: Nsqd| {
            let filter = &filter;
            async move { (nsqd.to_string(), nsqd.stats(filter).await) }
        };
        let mut answers = stream::iter(places.into_iter().map(ask)).buffer_unordered(MAX_REQUESTS);
        while let Some((nsqd, answer)) = answers.next().await {
            clients.take(target, &nsqd, answer);
        }
        drop(answers);
        clients.trim();
        clients
    }

    /// Takes an nsqd's answer.
    fn take(&mut self, target: &QueueTarget, nsqd: &str, answer: Result<Stats, HttpError>) {
        let stats = match answer {
            Ok(stats) => stats,
            Err(error) => return self.errors.push(error.to_string()),
        };
        let topics = stats.topics.iter().filter(|topic| topic.topic_name == target.stream.as_str());
        let is_wanted = |name: &str| target.group.as_ref().is_none_or(|group| group.as_str() == name);
        for channel in topics.flat_map(|topic| topic.channels.iter()) {
            if !is_wanted(&channel.channel_name) {
                continue;
            }
            self.total += channel.clients.len();
            let group = excerpt(channel.channel_name.as_bytes());
            self.rows.extend(channel.clients.iter().map(|client| ClientRow::new(client, &group, nsqd)));
            if self.rows.len() > 2 * self.most {
                self.trim();
            }
        }
    }

    /// Sorts the clients, and keeps the first of them.
    fn trim(&mut self) {
        self.rows.sort_by(|a, b| {
            b.in_flight
                .cmp(&a.in_flight)
                .then_with(|| (&a.name, &a.nsqd, &a.address).cmp(&(&b.name, &b.nsqd, &b.address)))
        });
        self.rows.truncate(self.most);
    }
}

impl ClientRow {
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
            messages: client.message_count,
            finished: client.finish_count,
            requeued: client.requeue_count,
            connected: client.connect_ts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqueue::proto::stats::{ChannelStats, TopicStats};

    #[test]
    fn of_very_many_clients_the_busiest_are_kept_and_all_are_counted() {
        let client = |number: usize| ClientStats {
            hostname: format!("worker-{number}\u{1b}[2J"),
            in_flight_count: number as i64,
            ..ClientStats::default()
        };
        let channel = |name: &str| ChannelStats {
            channel_name: name.to_owned(),
            clients: (0..600).map(client).collect(),
            ..ChannelStats::default()
        };
        let answer = || {
            let channels = ["g", "other"].map(channel).into_iter().collect();
            let topic = TopicStats { topic_name: "s".to_owned(), channels, ..TopicStats::default() };
            Stats { topics: [topic].into_iter().collect(), ..Stats::default() }
        };
        let (target, most) = ("s/g".parse().unwrap(), 2000);
        let mut list = QueueClients { most, ..QueueClients::default() };
        (0..81).for_each(|nsqd| list.take(&target, &format!("nsqd{nsqd}"), Ok(answer())));
        assert!(list.rows.len() <= 2 * most);
        list.trim();
        assert_eq!((list.total, list.rows.len()), (81 * 600, most));
        assert_eq!((list.rows[0].in_flight, list.rows[0].name.as_str()), (599, r"worker-599\x1b[2J"));
        assert!(list.rows.iter().all(|row| row.group == "g" && row.in_flight >= 575), "{:?}", list.rows.last());
    }
}

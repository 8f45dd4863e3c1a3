//! The clients of a stream or group, asked from every nsqd that has it.

use futures_util::stream::{self, StreamExt};

use mqueue::client::{HttpError, Nsqd, StatsFilter};
use mqueue::cluster::{ClusterApis, QueueAction, QueueTarget};
use mqueue::proto::excerpt;
use mqueue::proto::stats::{ClientStats, Stats};

/// Clients that are kept: those with the most messages in flight.
const MAX_CLIENTS: usize = 2000;
/// nsqds that are asked at the same time: an answer may be large.
const MAX_REQUESTS: usize = 4;

/// A client's connection to one nsqd. Texts are the client's own, made printable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ClientRow {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) nsqd: String,
    pub(super) address: String,
    pub(super) agent: String,
    pub(super) ready: i64,
    pub(super) in_flight: i64,
    pub(super) messages: u64,
    pub(super) finished: u64,
    pub(super) requeued: u64,
    /// Connection time in seconds since 1970.
    pub(super) connected: i64,
}

/// The list on the screen.
#[derive(Debug)]
pub(super) struct ClientList {
    pub(super) target: QueueTarget,
    /// The clients; those with the most messages in flight first.
    pub(super) rows: Vec<ClientRow>,
    /// The number of all clients; `None` before the nsqds have answered.
    pub(super) total: Option<usize>,
    /// The first nsqd's error.
    pub(super) error: Option<String>,
    pub(super) first_row: usize,
}

impl ClientList {
    /// A list that waits for the nsqds' answers.
    pub(super) fn new(target: QueueTarget) -> Self {
        Self { target, rows: Vec::new(), total: None, error: None, first_row: 0 }
    }

    /// Takes newer answers, and stays at its place.
    pub(super) fn renew(&mut self, newer: Self) {
        let first_row = self.first_row.min(newer.rows.len().saturating_sub(1));
        *self = Self { first_row, ..newer };
    }

    /// Asks the nsqds.
    pub(super) async fn ask(cluster: &ClusterApis, target: QueueTarget) -> Self {
        let one = StatsFilter::default().with_topic(&target.stream);
        let filter = match &target.group {
            Some(group) => one.clone().with_channel(group),
            None => one.clone(),
        };
        let filter = filter.with_clients();
        let state = cluster.observe(&one).await;
        let error = state.errors().next().map(ToString::to_string);
        let mut list = Self { error, total: Some(0), ..Self::new(target) };
        // all that have the target
        let places: Vec<Nsqd> =
            state.places(QueueAction::Pause, &list.target).into_iter().map(|(nsqd, _)| nsqd.clone()).collect();
        let ask = |nsqd: Nsqd| {
            let filter = &filter;
            async move {
                let answer = nsqd.stats(filter).await;
                (nsqd, answer)
            }
        };
        let mut answers = stream::iter(places.into_iter().map(ask)).buffer_unordered(MAX_REQUESTS);
        while let Some((nsqd, answer)) = answers.next().await {
            list.take(&nsqd.to_string(), answer);
        }
        drop(answers);
        list.trim();
        list
    }

    /// Takes an nsqd's answer.
    fn take(&mut self, nsqd: &str, answer: Result<Stats, HttpError>) {
        let stats = match answer {
            Ok(stats) => stats,
            Err(error) => {
                self.error.get_or_insert(error.to_string());
                return;
            }
        };
        let QueueTarget { stream, group, .. } = self.target.clone();
        let topics = stats.topics.into_iter().filter(|topic| topic.topic_name == stream.as_str());
        for channel in topics.flat_map(|topic| topic.channels) {
            if group.as_ref().is_some_and(|group| group.as_str() != channel.channel_name) {
                continue;
            }
            *self.total.get_or_insert(0) += channel.clients.len();
            self.rows.extend(channel.clients.iter().map(|client| ClientRow::new(client, &channel.channel_name, nsqd)));
            if self.rows.len() > 2 * MAX_CLIENTS {
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
        self.rows.truncate(MAX_CLIENTS);
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
        let mut list = ClientList::new("s/g".parse().unwrap());
        (0..81).for_each(|nsqd| list.take(&format!("nsqd{nsqd}"), Ok(answer())));
        assert!(list.rows.len() <= 2 * MAX_CLIENTS);
        list.trim();
        assert_eq!((list.total, list.rows.len()), (Some(81 * 600), MAX_CLIENTS));
        assert_eq!((list.rows[0].in_flight, list.rows[0].name.as_str()), (599, r"worker-599\x1b[2J"));
        assert!(list.rows.iter().all(|row| row.group == "g" && row.in_flight >= 575), "{:?}", list.rows.last());
    }
}

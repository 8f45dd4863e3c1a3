//! Checks of clients that connect without TLS, from other machines, to an nsqd that offers it.

use std::net::SocketAddr;

use super::finding::{CheckId, Finding};
use super::observed::Observed;
use mqueue::plural::count;
use mqueue::proto::excerpt;
use mqueue::proto::stats::{ClientStats, Stats};

/// The largest number of clients that a finding names, and of characters of a name.
const MAX_NAMED: usize = 3;
const MAX_NAME: usize = 40;

/// A client, by its own name and the address that nsqd sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlainClient {
    pub(super) name: String,
    pub(super) from: String,
}

/// Returns the clients without TLS whose address is not of the loopback interface, each once.
pub(super) fn plain_clients(stats: &Stats) -> Vec<PlainClient> {
    let channels = stats.topics.iter().flat_map(|topic| topic.channels.iter());
    let consumers = channels.flat_map(|channel| channel.clients.iter());
    let mut clients: Vec<PlainClient> = consumers.chain(stats.producers.iter()).filter_map(plain_client).collect();
    clients.sort();
    clients.dedup();
    clients
}

fn plain_client(client: &ClientStats) -> Option<PlainClient> {
    let from: SocketAddr = client.remote_address.parse().ok()?;
    let is_beyond = !from.ip().to_canonical().is_loopback();
    let name = [&client.hostname, &client.client_id].into_iter().find(|name| !name.is_empty());
    let name = name.map(String::as_str).unwrap_or_default().chars().take(MAX_NAME).collect::<String>();
    (is_beyond && !client.tls)
        .then(|| PlainClient { name: excerpt(name.as_bytes()), from: from.ip().to_canonical().to_string() })
}

pub(super) fn check(observed: &Observed) -> Vec<Finding> {
    let finding = |(http, clients): &(String, Vec<PlainClient>)| {
        if clients.is_empty() {
            return None;
        }
        let shown = |client: &PlainClient| match client.name.is_empty() {
            true => client.from.clone(),
            false => format!("{:?} ({})", client.name, client.from),
        };
        let named: Vec<String> = clients.iter().take(MAX_NAMED).map(shown).collect();
        let rest = clients.len().saturating_sub(MAX_NAMED);
        let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        let message = format!(
            "offers TLS, and {} of other machines without it: {}{rest}",
            count(clients.len() as u64, "client"),
            named.join(", ")
        );
        let show = observed.commands().get(http, "stats");
        let fix = format!("{show}    # its clients; give each --tls, then start nsqd with --tls-required=true");
        Some(Finding::warning(CheckId::PlainClients, format!("nsqd {http}"), message, fix))
    };
    observed.plain_clients.iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqueue::proto::stats::{ChannelStats, TopicStats};

    fn client(hostname: &str, from: &str, tls: bool) -> ClientStats {
        let (hostname, remote_address) = (hostname.to_owned(), from.to_owned());
        ClientStats { hostname, remote_address, tls, client_id: "id".to_owned(), ..ClientStats::default() }
    }

    fn stats(consumers: Vec<ClientStats>, producers: Vec<ClientStats>) -> Stats {
        let channel = ChannelStats { clients: consumers.into_iter().collect(), ..ChannelStats::default() };
        let topic = TopicStats { channels: std::iter::once(channel).collect(), ..TopicStats::default() };
        let topics = std::iter::once(topic).collect();
        Stats { topics, producers: producers.into_iter().collect(), ..Stats::default() }
    }

    #[test]
    fn clients_of_other_machines_without_tls_are_listed_once() {
        let seen = |from: &str, tls| plain_clients(&stats(vec![client("h", from, tls)], vec![])).len();
        assert_eq!((seen("10.0.0.1:5", false), seen("[2001:db8::1]:5", false)), (1, 1));
        assert_eq!(seen("10.0.0.1:5", true), 0);
        for from in ["127.0.0.1:5", "127.9.9.9:5", "[::1]:5", "[::ffff:127.0.0.1]:5", "@", "", "host:1"] {
            assert_eq!(seen(from, false), 0, "{from}");
        }
        let both = stats(
            vec![client("h", "10.0.0.1:5", false), client("h", "10.0.0.1:6", false)],
            vec![client("h", "10.0.0.1:7", false), client("", "10.0.0.1:8", false)],
        );
        let names: Vec<String> = plain_clients(&both).into_iter().map(|client| client.name).collect();
        assert_eq!(names, ["h", "id"]);
    }

    #[test]
    fn a_finding_names_a_few_and_their_names_are_data() {
        let odd = format!("$(touch pwned)\n\u{1b}[2J{}", "x".repeat(10_000));
        let all = (1..=9).map(|number| client(&odd, &format!("10.0.0.{number}:5"), false)).collect();
        let plain = plain_clients(&stats(all, vec![]));
        let observed = Observed { plain_clients: vec![("a:1".to_owned(), plain)], ..Observed::default() };
        let finding = check(&observed).remove(0);
        assert!(finding.message.contains("9 clients") && finding.message.ends_with(" and 6 more"), "{finding}");
        assert!(finding.message.len() < 600 && !finding.message.contains(['\n', '\u{1b}']), "{finding}");
        let fix = finding.fix.unwrap();
        assert!(fix.starts_with("curl -fsS http://a:1/stats    # ") && !fix.contains("pwned"), "{fix}");
        let none = Observed { plain_clients: vec![("a:1".to_owned(), vec![])], ..Observed::default() };
        assert_eq!(check(&none), []);
    }
}

//! The hosts that wake the same groups, and the order in which they do: pure.
//!
//! Each host's wakeup is a client of one ephemeral channel on each nsqd, [`TOPIC`] and [`CHANNEL`],
//! and nsqd lists them all. For each group the hosts have an order, by a hash of the group and the
//! host's name, in which every host computes the same: the first pokes at once, and the others when a
//! consumer is missing for longer than it takes those before them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::decide::GroupName;
use super::retry_name::fnv;
use crate::proto::stats::ClientStats;
use crate::proto::{ChannelName, is_host};

/// The stream whose clients are the hosts. Nothing is published to it.
pub const TOPIC: &str = "mqueue-wakeup#ephemeral";
/// The channel whose clients are the hosts.
pub const CHANNEL: &str = "hosts#ephemeral";

/// The largest weight of a host.
pub const MAX_WEIGHT: u32 = 1000;
/// The maximum of hosts in an nsqd's list.
const MAX_HOSTS: usize = 256;
/// The maximum of a host's groups, and of a group's sockets on one host.
const MAX_COUNT: usize = 10_000;
/// The maximum of polls that a host waits for those before it, however many an nsqd lists.
const MAX_TURNS: u64 = 10;
/// The time for which a host stays listed although it sees no other.
const ALONE_AFTER: Duration = Duration::from_secs(60);

/// A host's wakeup, as it describes itself to nsqd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeHost {
    /// The number of the process, which differs between two of one host.
    pub id: String,
    pub name: String,
    /// The share of groups for which it is the first.
    pub weight: u32,
    /// The number of its sockets for each group.
    pub sockets: BTreeMap<String, usize>,
}

impl WakeHost {
    /// Returns the client id that describes this host: its number, its weight, and its sockets.
    pub fn client_id(&self) -> String {
        let mut text = format!("wakeup {} {}", self.id, self.weight);
        for (group, sockets) in &self.sockets {
            text.push(' ');
            text.push_str(group);
            if *sockets != 1 {
                text.push_str(&format!("*{sockets}"));
            }
        }
        text
    }

    /// Reads the description of a client; `None` for a client that is no wakeup.
    pub fn of_client(client: &ClientStats) -> Option<Self> {
        let mut words = client.client_id.split(' ');
        let (Some("wakeup"), Some(id), Some(weight)) = (words.next(), words.next(), words.next()) else { return None };
        let is_id = (1..=16).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let weight = weight.parse().ok().filter(|weight| *weight <= MAX_WEIGHT)?;
        let group = |word: &str| {
            let (group, sockets) = word.split_once('*').unwrap_or((word, "1"));
            let sockets = sockets.parse().ok().filter(|count| (1..=MAX_COUNT).contains(count))?;
            ChannelName::is_valid(group).then(|| (group.to_owned(), sockets))
        };
        let sockets: Option<BTreeMap<_, _>> = words.take(MAX_COUNT).map(group).collect();
        let (id, name) = (id.to_owned(), client.hostname.clone());
        (is_id && is_host(&name)).then_some(Self { id, name, weight, sockets: sockets? })
    }

    /// The place of this host in the order of a group: a higher score is earlier. A host of twice
    /// the weight is the first for twice as many groups.
    fn score(&self, group: &GroupName) -> f64 {
        // in (0, 1)
        let random = ((hash(&self.name, group) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(self.weight) / -random.ln()
    }
}

/// Returns a hash of a host and a group in which each bit depends on all of them.
fn hash(host: &str, (stream, group): &GroupName) -> u64 {
    let words = [host, stream, group].into_iter().flat_map(|word| word.bytes().chain([0]));
    let mut hash = fnv(words);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

/// A host in an nsqd's list.
#[derive(Debug, Clone)]
pub struct ListedHost {
    /// Its description, which seldom changes.
    client_id: Arc<str>,
    pub host: Arc<WakeHost>,
}

/// Reads the hosts from the clients of the channel, on one nsqd; `known` is the last list.
pub fn listed<'a>(clients: impl Iterator<Item = &'a ClientStats>, known: &[ListedHost]) -> Vec<ListedHost> {
    let read = |client: &ClientStats| {
        let is_same = |known: &&ListedHost| *known.client_id == *client.client_id && known.host.name == client.hostname;
        if let Some(known) = known.iter().find(is_same) {
            return Some(known.clone());
        }
        let host = Arc::new(WakeHost::of_client(client)?);
        Some(ListedHost { client_id: client.client_id.as_str().into(), host })
    };
    clients.filter_map(read).take(MAX_HOSTS).collect()
}

/// The decision whether nsqds should list this host: only while there are others, so that a single
/// host costs them nothing.
#[derive(Debug, Default)]
pub struct HostMembership {
    /// The last time at which another host was seen; `None` if none was for too long.
    last_other: Option<Instant>,
}

impl HostMembership {
    /// Records whether there are other hosts; returns true if nsqds should list this host.
    pub fn saw(&mut self, others: bool, now: Instant) -> bool {
        if others {
            self.last_other = Some(now);
        }
        self.last_other = self.last_other.filter(|last| now.saturating_duration_since(*last) < ALONE_AFTER);
        self.is_listed()
    }

    /// True if nsqds should list this host.
    pub fn is_listed(&self) -> bool {
        self.last_other.is_some()
    }
}

/// The listed hosts, and since when each is listed.
#[derive(Debug)]
pub struct WakeHosts {
    /// This host's number.
    own: String,
    poll: Duration,
    hosts: BTreeMap<String, (Arc<WakeHost>, Since)>,
}

/// The time since which a host is listed.
#[derive(Debug, Clone, Copy)]
enum Since {
    /// It was listed before this one.
    Before,
    At(Instant),
}

impl WakeHosts {
    /// Creates an empty list for the host with this number, which polls at this interval.
    pub fn new(own: String, poll: Duration) -> Self {
        Self { own, poll, hosts: BTreeMap::new() }
    }

    /// Replaces the list by that of the last poll.
    pub fn are(&mut self, listed: Vec<Arc<WakeHost>>, now: Instant) {
        let was_listed = self.hosts.contains_key(&self.own);
        let mut hosts = BTreeMap::new();
        for host in listed {
            let since = match self.hosts.get(&host.id) {
                Some((_, since)) => *since,
                None if !was_listed && host.id != self.own => Since::Before,
                None => Since::At(now),
            };
            hosts.insert(host.id.clone(), (host, since));
        }
        self.hosts = hosts;
    }

    /// Returns the other hosts.
    pub fn others(&self) -> impl Iterator<Item = &Arc<WakeHost>> {
        self.hosts.values().map(|(host, _)| host).filter(|host| host.id != self.own)
    }

    /// Returns the turns of the hosts, for one decision.
    pub fn turns(&self, now: Instant) -> HostTurns {
        if self.others().next().is_none() {
            return HostTurns::default();
        }
        // a host that was just listed has its turn after the others for one poll: the others may
        // not see it yet, and would poke as well
        let is_settled = |since: &Since| match since {
            Since::Before => true,
            Since::At(since) => polls(now.saturating_duration_since(*since), self.poll) > 0,
        };
        let hosts = self.hosts.values().map(|(host, since)| PresentHost {
            host: host.clone(),
            is_own: host.id == self.own,
            is_settled: is_settled(since),
        });
        HostTurns { hosts: hosts.collect(), poll: self.poll }
    }
}

/// A host in the order.
#[derive(Debug, Clone)]
struct PresentHost {
    host: Arc<WakeHost>,
    is_own: bool,
    /// False for a host that was listed just now.
    is_settled: bool,
}

/// The turns of all hosts; empty for a host that is alone.
#[derive(Debug, Clone, Default)]
pub struct HostTurns {
    hosts: Vec<PresentHost>,
    poll: Duration,
}

/// One host's place in the order of a group.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// False for what other hosts may not see: it is last, so that no socket is without a turn.
    is_seen: bool,
    score: f64,
    /// Tells hosts of one name apart.
    number: u64,
    sockets: usize,
    /// The number of sockets that are used before the next host's.
    at_once: usize,
    is_own: bool,
}

impl PresentHost {
    /// Returns the place in the order of a group; `None` for a host without a socket for it. This
    /// host has `own` sockets.
    fn turn(&self, name: &GroupName, own: usize) -> Option<Turn> {
        let (host, is_own) = (&self.host, self.is_own);
        let told = host.sockets.get(&name.1).copied();
        let sockets = if is_own { own } else { told? };
        let (is_seen, at_once) = (self.is_settled && told.is_some(), host.weight.max(1) as usize);
        let (score, number) = (host.score(name), hash(&host.id, name));
        (sockets > 0).then_some(Turn { is_seen, score, number, sockets, at_once, is_own })
    }
}

impl HostTurns {
    /// True if there is no other host.
    pub fn is_alone(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Returns the number of whole polls in this time.
    pub fn polls(&self, time: Duration) -> u64 {
        polls(time, self.poll).min(MAX_TURNS)
    }

    /// Returns the hosts with sockets for a group in its order; this host has `own` sockets.
    fn order(&self, name: &GroupName, own: usize) -> Vec<Turn> {
        let mut turns: Vec<Turn> = self.hosts.iter().filter_map(|host| host.turn(name, own)).collect();
        if own > 0 && !turns.iter().any(|turn| turn.is_own) {
            // nsqd does not list this host
            turns.push(Turn { is_seen: false, score: 0.0, number: u64::MAX, sockets: own, at_once: 1, is_own: true });
        }
        let score = |a: &Turn, b: &Turn| b.score.total_cmp(&a.score);
        turns.sort_by(|a, b| b.is_seen.cmp(&a.is_seen).then(score(a, b)).then(a.number.cmp(&b.number)));
        turns
    }

    /// Returns the number of a group's sockets on all hosts.
    pub fn sockets(&self, name: &GroupName, own: usize) -> usize {
        let others = self.hosts.iter().filter(|host| !host.is_own);
        own + others.filter_map(|host| host.host.sockets.get(&name.1)).sum::<usize>()
    }

    /// True if this host is the first of a group: an arrival is its to handle.
    pub fn is_first(&self, name: &GroupName, own: usize) -> bool {
        self.is_alone() || self.order(name, own).first().is_some_and(|turn| turn.is_own)
    }

    /// Returns the number of this host's `own` sockets among the first `wanted` of all hosts. Once
    /// consumers have been missing for some polls, those hosts that had their turn since count as
    /// absent, and further sockets are used: one for each poll.
    pub fn share(&self, name: &GroupName, own: usize, wanted: usize, polls: u64) -> usize {
        if self.is_alone() {
            return own.min(wanted);
        }
        let turns = self.order(name, own);
        let Some(place) = turns.iter().position(|turn| turn.is_own) else { return 0 };
        let polls = usize::try_from(polls).unwrap_or(usize::MAX);
        // the last one waits no longer than the maximum
        let absent = if polls as u64 >= MAX_TURNS { place } else { polls.min(place) };
        share_of(&turns[absent..], wanted).max(share_of(&turns, wanted.saturating_add(polls)))
    }
}

/// Returns the number of whole polls in this time. A poll may come a little early.
fn polls(time: Duration, poll: Duration) -> u64 {
    let polls = (time + poll / 10).as_nanos() / poll.as_nanos().max(1);
    u64::try_from(polls).unwrap_or(u64::MAX)
}

/// Returns the number of this host's sockets among the first `wanted`: the hosts take turns.
fn share_of(turns: &[Turn], wanted: usize) -> usize {
    let (mut left, mut used) = (wanted, vec![0; turns.len()]);
    while left > 0 {
        let before = left;
        for (turn, used) in turns.iter().zip(&mut used) {
            let more = turn.at_once.min(turn.sockets - *used).min(left);
            (*used, left) = (*used + more, left - more);
        }
        if left == before {
            break;
        }
    }
    turns.iter().zip(used).find(|(turn, _)| turn.is_own).map_or(0, |(_, used)| used)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(1);

    fn host(name: &str, weight: u32, sockets: &[(&str, usize)]) -> WakeHost {
        let sockets = sockets.iter().map(|(group, count)| ((*group).to_owned(), *count)).collect();
        WakeHost { id: format!("id{name}"), name: name.to_owned(), weight, sockets }
    }

    fn group(number: usize) -> GroupName {
        (format!("stream-{}", number / 5), format!("group-{number}"))
    }

    /// The turns as each of these hosts sees them, with the hosts listed for long.
    fn seen_by_each(hosts: &[WakeHost]) -> Vec<HostTurns> {
        let (now, listed) = (Instant::now(), hosts.iter().cloned().map(Arc::new).collect::<Vec<_>>());
        let turns = hosts.iter().map(|own| {
            let mut seen = WakeHosts::new(own.id.clone(), POLL);
            seen.are(listed.clone(), now);
            seen.turns(now + POLL)
        });
        turns.collect()
    }

    /// Each host's share of a group, with the turns as it sees them.
    fn shares_of(seen: &[HostTurns], hosts: &[WakeHost], name: &GroupName, wanted: usize, polls: u64) -> Vec<usize> {
        let own = |host: &WakeHost| host.sockets.get(&name.1).copied().unwrap_or_default();
        seen.iter().zip(hosts).map(|(turns, host)| turns.share(name, own(host), wanted, polls)).collect()
    }

    /// Each host's share of a group.
    fn shares(hosts: &[WakeHost], name: &GroupName, wanted: usize, polls: u64) -> Vec<usize> {
        shares_of(&seen_by_each(hosts), hosts, name, wanted, polls)
    }

    fn client(name: &str, client_id: &str) -> ClientStats {
        ClientStats { hostname: name.to_owned(), client_id: client_id.to_owned(), ..ClientStats::default() }
    }

    #[test]
    fn hosts_describe_themselves_by_their_client_id() {
        let itself = host("a.example", 2, &[("billing", 1), ("mail", 3)]);
        assert_eq!(itself.client_id(), "wakeup ida.example 2 billing mail*3");
        let itself = WakeHost { id: "5c0d8f21".to_owned(), ..itself };
        assert_eq!(WakeHost::of_client(&client("a.example", &itself.client_id())), Some(itself));
        let none = WakeHost { sockets: BTreeMap::new(), ..host("b", 0, &[]) };
        assert_eq!(WakeHost::of_client(&client("b", &none.client_id())), Some(none));
    }

    #[test]
    fn clients_that_are_no_hosts_are_left_out() {
        let cases = [
            ("a", ""),
            ("a", "wakeup 5c"),
            ("a", "wakeup 5c 1001"),
            ("a", "wakeup 5c -1"),
            ("a", "wakeup 5c 1 mail*0"),
            ("a", "wakeup 5c 1 mail*99999999999999999999"),
            ("a", "wakeup 5c 1 ma/il"),
            ("a", "wakeup 5c 1 mail "),
            ("a", "wakeup \u{1b}[2J 1 mail"),
            ("a", "wakeup 0123456789abcdef0 1 mail"),
            ("a b", "wakeup 5c 1 mail"),
            ("", "wakeup 5c 1 mail"),
        ];
        for (name, client_id) in cases {
            assert_eq!(WakeHost::of_client(&client(name, client_id)), None, "{name} {client_id:?}");
        }
        let crowd: Vec<_> = (0..1000).map(|n| client("a", &format!("wakeup {n} 1 mail"))).collect();
        let all = listed(crowd.iter(), &[]);
        assert_eq!(all.len(), MAX_HOSTS);
        let again = listed(crowd.iter(), &all);
        assert!(all.iter().zip(&again).all(|(a, b)| Arc::ptr_eq(&a.host, &b.host)), "they are read once");
    }

    #[test]
    fn one_host_is_first_for_each_group_and_the_groups_are_spread_by_weight() {
        let groups: Vec<GroupName> = (0..1000).map(group).collect();
        let sockets: Vec<_> = groups.iter().map(|name| (name.1.as_str(), 1)).collect();
        let hosts = [host("a", 1, &sockets), host("b", 1, &sockets), host("c", 2, &sockets)];
        let (seen, two) = (seen_by_each(&hosts), seen_by_each(&hosts[..2]));
        let mut first = [0; 3];
        for name in &groups {
            let firsts: Vec<usize> = (0..3).filter(|n| seen[*n].is_first(name, 1)).collect();
            assert_eq!(firsts.len(), 1, "{name:?}");
            let shares = shares_of(&seen, &hosts, name, 1, 0);
            assert_eq!(shares.iter().position(|share| *share == 1), Some(firsts[0]));
            first[firsts[0]] += 1;
            // the others keep theirs when a host goes
            assert!((0..2).all(|n| !seen[n].is_first(name, 1) || two[n].is_first(name, 1)), "{name:?}");
        }
        assert!(first[..2].iter().all(|count| (200..300).contains(count)) && first[2] > 430, "{first:?}");
    }

    #[test]
    fn hosts_without_a_socket_take_no_part_and_those_of_weight_0_are_last() {
        for name in (0..100).map(group) {
            let with = [(name.1.as_str(), 1)];
            let hosts = [host("a", 1, &[("another", 1)]), host("b", 0, &with), host("c", 1, &with)];
            assert_eq!(shares(&hosts, &name, 1, 0), [0, 0, 1]);
            assert_eq!(shares(&hosts, &name, 1, 1), [0, 1, 1], "b is the second, not the third");
        }
    }

    #[test]
    fn the_next_host_covers_for_those_before_it_poll_by_poll() {
        let name = group(1);
        let one = [("group-1", 1)];
        let hosts = [host("a", 1, &one), host("b", 1, &one), host("c", 1, &one)];
        let poking = |polls| shares(&hosts, &name, 1, polls).iter().sum::<usize>();
        assert_eq!([0, 1, 2, 3].map(poking), [1, 2, 3, 3]);
        let turns = &seen_by_each(&hosts)[0];
        let millis = Duration::from_millis;
        assert_eq!([0, 880, 950, 1000, 1899, 1950, 99_000].map(|ms| turns.polls(millis(ms))), [0, 0, 1, 1, 1, 2, 10]);
        // however many hosts a broken nsqd lists, each one's turn comes
        let crowd: Vec<_> = (0..100).map(|n| host(&format!("h{n}"), 1, &one)).collect();
        assert_eq!(shares(&crowd, &name, 1, MAX_TURNS).iter().sum::<usize>(), 100);
    }

    #[test]
    fn numbered_sockets_count_over_all_hosts() {
        let name = group(1);
        let hosts = |weight| [host("a", weight, &[("group-1", 5)]), host("b", 1, &[("group-1", 2)])];
        for (wanted, sum) in [(1, 1), (2, 2), (3, 3), (7, 7), (100, 7)] {
            let shares = shares(&hosts(1), &name, wanted, 0);
            assert_eq!(shares.iter().sum::<usize>(), sum, "{wanted}: {shares:?}");
        }
        assert_eq!(shares(&hosts(1), &name, 2, 0), [1, 1]);
        assert_eq!(shares(&hosts(1), &name, 4, 0), [2, 2]);
        assert_eq!(shares(&hosts(1), &name, 5, 0), [3, 2]);
        assert_eq!(shares(&hosts(1000), &name, 5, 0), [5, 0]);
        assert_eq!(seen_by_each(&hosts(1))[0].sockets(&name, 5), 7);
        // a consumer is missing, wherever it is: one more for each poll
        assert!(shares(&hosts(1), &name, 4, 1).iter().sum::<usize>() > 4);
        assert_eq!(shares(&hosts(1), &name, 4, 9), [5, 2]);
    }

    #[test]
    fn a_host_that_was_just_listed_is_last_for_one_poll() {
        let one = |name: &GroupName| host("new", 1000, &[(name.1.as_str(), 1)]);
        for name in (0..50).map(group) {
            let (old, new) = (host("old", 1, &[(name.1.as_str(), 1)]), one(&name));
            let listed = |hosts: [&WakeHost; 2]| hosts.map(|host| Arc::new(host.clone())).to_vec();
            let start = Instant::now();
            for own in [&old, &new] {
                let mut seen = WakeHosts::new(own.id.clone(), POLL);
                seen.are(vec![Arc::new(old.clone())], start);
                seen.are(listed([&old, &new]), start + POLL);
                let first = |turns: HostTurns| turns.is_first(&name, 1) == (own.name == "old");
                assert!(first(seen.turns(start + POLL)) && first(seen.turns(start + POLL * 3 / 2)));
                seen.are(listed([&old, &new]), start + 2 * POLL);
                let is_new_first = seen_by_each(&[old.clone(), new.clone()])[1].is_first(&name, 1);
                assert_eq!(seen.turns(start + 2 * POLL).is_first(&name, 1), is_new_first == (own.name == "new"));
            }
        }
    }

    #[test]
    fn a_host_that_nsqd_does_not_list_waits_for_those_that_it_lists() {
        let name = group(1);
        let (a, now) = (Arc::new(host("a", 1, &[("group-1", 1)])), Instant::now());
        let mut seen = WakeHosts::new("refused".to_owned(), POLL);
        assert!(seen.turns(now).is_alone());
        seen.are(vec![a], now);
        let turns = seen.turns(now);
        assert!(!turns.is_alone() && !turns.is_first(&name, 1));
        assert_eq!([0, 1].map(|polls| turns.share(&name, 1, 1, polls)), [0, 1]);
        // nor may a socket that it does not tell be forgotten
        let other = group(2);
        assert!(turns.is_first(&other, 1));
        assert_eq!(turns.share(&other, 1, 1, 0), 1);
    }

    #[test]
    fn hosts_of_one_name_share_the_groups() {
        let groups: Vec<GroupName> = (0..200).map(group).collect();
        let sockets: Vec<_> = groups.iter().map(|name| (name.1.as_str(), 1)).collect();
        let named = |id: &str| WakeHost { id: id.to_owned(), ..host("localhost", 1, &sockets) };
        let hosts = [named("1"), named("2")];
        let seen = seen_by_each(&hosts);
        let first: Vec<usize> =
            seen.iter().map(|turns| groups.iter().filter(|name| turns.is_first(name, 1)).count()).collect();
        assert_eq!(first[0] + first[1], 200);
        assert!(first.iter().all(|count| *count > 70), "{first:?}");
    }

    #[test]
    fn a_host_is_listed_only_while_there_are_others() {
        let (start, mut membership) = (Instant::now(), HostMembership::default());
        let second = |n| start + n * Duration::from_secs(1);
        assert!(!membership.saw(false, second(0)));
        assert!(membership.saw(true, second(1)) && membership.is_listed());
        assert!(membership.saw(false, second(60)));
        assert!(!membership.saw(false, second(61)));
        assert!(!membership.is_listed());
    }
}

//! The decision which sockets to poke: pure.
//!
//! A socket is poked when its group has messages and too few consumers, at most once a second.
//! While pokes bring no consumer, the interval doubles up to 30 s: a consumer that crashes at its
//! start does not run into systemd's trigger limit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::hosts::HostTurns;
use super::poke_history::PokeHistory;
use crate::plural::count;

/// One group (channel) of one stream (topic), summed over all nsqds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupTotals {
    /// Messages that wait for a consumer; those of paused queues do not count.
    pub depth: u64,
    /// Connected consumers.
    pub clients: u64,
    /// Paused on every nsqd, so nothing is delivered.
    pub paused: bool,
    /// Deliveries to consumers, counted from an arbitrary start: a change means that a consumer was
    /// connected.
    pub deliveries: u64,
}

/// A stream and one of its groups.
pub type GroupName = (String, String);

/// The groups of the last poll, and each group's sockets in the order of their use.
#[derive(Debug, Default)]
pub struct WakeSnapshot {
    pub groups: BTreeMap<GroupName, GroupTotals>,
    pub sockets: HashMap<String, Vec<PathBuf>>,
    /// The turns of the hosts that wake the same groups.
    pub turns: HostTurns,
}

impl WakeSnapshot {
    /// Names the groups of a stream that have a socket and no consumer.
    pub fn asleep<'a>(&'a self, stream: &'a str) -> impl Iterator<Item = &'a GroupName> {
        self.of_stream(stream).filter(|(name, group)| self.sleeps(name, group)).map(|(name, _)| name)
    }

    /// True if a message published to this stream would wait in a sleeping group that is empty now,
    /// and that this host is the first to wake. A group that has messages is poked for those.
    pub fn wants_arrivals(&self, stream: &str) -> bool {
        let mut groups = self.of_stream(stream);
        groups.any(|(name, group)| group.depth == 0 && self.sleeps(name, group) && self.is_first(name))
    }

    /// True if this host is the first to wake a group.
    fn is_first(&self, name: &GroupName) -> bool {
        self.sockets.get(&name.1).is_some_and(|sockets| self.turns.is_first(name, sockets.len()))
    }

    /// True for a group that has a socket and no consumer, and is not paused.
    pub fn sleeps(&self, (_, name): &GroupName, group: &GroupTotals) -> bool {
        group.clients == 0 && !group.paused && self.sockets.contains_key(name)
    }

    pub fn of_stream<'a>(&'a self, stream: &'a str) -> impl Iterator<Item = (&'a GroupName, &'a GroupTotals)> {
        let first = (stream.to_owned(), String::new());
        self.groups.range(first..).take_while(move |((of, _), _)| of == stream)
    }
}

/// The reason for a poke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// Messages wait, and there are too few consumers.
    Waiting { depth: u64, clients: u64 },
    /// A message was published just now.
    Arrived,
}

impl fmt::Display for WakeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { depth, clients: 0 } => write!(f, "{depth} waiting"),
            Self::Waiting { depth, clients } => write!(f, "{depth} waiting for {}", count(*clients, "consumer")),
            Self::Arrived => f.write_str("a message arrived"),
        }
    }
}

/// A socket to poke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wake {
    pub stream: String,
    pub group: String,
    pub socket: PathBuf,
    pub reason: WakeReason,
}

impl Wake {
    fn new((stream, group): &GroupName, socket: &Path, reason: WakeReason) -> Self {
        Self { stream: stream.clone(), group: group.clone(), socket: socket.to_owned(), reason }
    }
}

/// Returns the sockets to poke after a poll.
pub fn decide(snapshot: &WakeSnapshot, per_consumer: u64, history: &mut PokeHistory, now: Instant) -> Vec<Wake> {
    let mut wakes = Vec::new();
    for (name, group) in &snapshot.groups {
        let Some(sockets) = snapshot.sockets.get(&name.1) else { continue };
        let consumers = usize::try_from(group.clients).unwrap_or(usize::MAX);
        // deliveries prove that a consumer was connected, even if it came and went between two
        // polls
        let before = match history.deliveries.get_mut(name) {
            Some(deliveries) => Some(std::mem::replace(deliveries, group.deliveries)),
            None => history.deliveries.insert(name.clone(), group.deliveries),
        };
        let served = if before != Some(group.deliveries) { sockets.len() } else { consumers };
        // a restarted nsqd counts from 0: this resets the pace of pokes, but is no proof of a
        // consumer
        let counts_anew = before.is_some_and(|before| group.deliveries.wrapping_sub(before).cast_signed() < 0);
        for (number, socket) in sockets.iter().take(served).enumerate() {
            match counts_anew && number >= consumers {
                true => history.reset(socket, name),
                false => history.consumer_came(socket, name, now),
            }
        }
        if !snapshot.turns.is_alone() {
            let is_short = missing(snapshot, name, group, sockets.len(), per_consumer).is_some();
            let was_served = group.clients == 0 && before != Some(group.deliveries);
            history.consumers_are_missing(name, is_short, was_served, now);
        }
        let reason = WakeReason::Waiting { depth: group.depth, clients: group.clients };
        let polls = snapshot.turns.polls(history.missing_for(name, now));
        for socket in wanted(snapshot, name, group, per_consumer, polls).into_iter().flatten() {
            if history.may_poke(socket, name, now) {
                wakes.push(Wake::new(name, socket, reason));
            }
        }
    }
    history.keep_only(snapshot);
    wakes
}

/// Returns this host's sockets that the group's depth calls for, one for `per_consumer` messages;
/// `None` if the group has enough consumers, or other hosts have their turn. `polls` is the number of
/// polls for which consumers have been missing.
pub fn wanted<'a>(
    snapshot: &'a WakeSnapshot,
    name: &GroupName,
    group: &GroupTotals,
    per_consumer: u64,
    polls: u64,
) -> Option<&'a [PathBuf]> {
    let sockets = snapshot.sockets.get(&name.1)?;
    let wanted = missing(snapshot, name, group, sockets.len(), per_consumer)?;
    let share = snapshot.turns.share(name, sockets.len(), wanted, polls);
    (share > 0).then(|| &sockets[..share])
}

/// Returns the number of consumers that the group's depth calls for on all hosts; `None` if it has
/// them. `own` is the number of this host's sockets.
fn missing(
    snapshot: &WakeSnapshot,
    name: &GroupName,
    group: &GroupTotals,
    own: usize,
    per_consumer: u64,
) -> Option<usize> {
    let sockets = snapshot.turns.sockets(name, own);
    let wanted = usize::try_from(group.depth.div_ceil(per_consumer)).unwrap_or(usize::MAX).min(sockets);
    let consumers = usize::try_from(group.clients).unwrap_or(usize::MAX);
    (!group.paused && wanted > consumers).then_some(wanted)
}

/// Returns the sockets to poke as a message was published to this stream: those of the groups that
/// this host is the first to wake.
pub fn decide_arrival(stream: &str, snapshot: &WakeSnapshot, history: &mut PokeHistory, now: Instant) -> Vec<Wake> {
    let first = |name: &GroupName| snapshot.sockets.get(&name.1).and_then(|sockets| sockets.first());
    let asleep = snapshot.asleep(stream).filter(|name| snapshot.is_first(name));
    let asleep = asleep.filter_map(|name| Some((name, first(name)?)));
    asleep
        .filter(|(name, socket)| history.may_poke(socket, name, now))
        .map(|(name, socket)| Wake::new(name, socket, WakeReason::Arrived))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::poke_history::MIN_POKE_INTERVAL;
    use super::*;

    fn snapshot(depth: u64, clients: u64, paused: bool, sockets: usize) -> WakeSnapshot {
        let mut snapshot = WakeSnapshot::default();
        snapshot
            .groups
            .insert(("foo".to_owned(), "1".to_owned()), GroupTotals { depth, clients, paused, deliveries: 0 });
        snapshot
            .sockets
            .insert("1".to_owned(), (0..sockets).map(|n| PathBuf::from(format!("/run/1@{n}.sock"))).collect());
        snapshot
    }

    fn count(snapshot: &WakeSnapshot, history: &mut PokeHistory, now: Instant) -> usize {
        decide(snapshot, 10, history, now).len()
    }

    #[test]
    fn only_sleeping_groups_with_messages_are_poked() {
        let now = Instant::now();
        assert_eq!(count(&snapshot(1, 0, false, 1), &mut PokeHistory::default(), now), 1);
        for other in [snapshot(0, 0, false, 1), snapshot(1, 1, false, 1), snapshot(1, 0, true, 1)] {
            assert_eq!(count(&other, &mut PokeHistory::default(), now), 0, "{other:?}");
        }
    }

    #[test]
    fn depth_decides_the_number_of_consumers() {
        let now = Instant::now();
        assert_eq!(count(&snapshot(25, 0, false, 5), &mut PokeHistory::default(), now), 3);
        assert_eq!(count(&snapshot(25, 3, false, 5), &mut PokeHistory::default(), now), 0);
        assert_eq!(count(&snapshot(1000, 1, false, 5), &mut PokeHistory::default(), now), 5);
    }

    #[test]
    fn unanswered_pokes_back_off_until_a_consumer_comes() {
        let (start, mut history) = (Instant::now(), PokeHistory::default());
        let asleep = snapshot(1, 0, false, 1);
        let second = |n| start + n * Duration::from_secs(1);
        let poked: Vec<u32> = (0..100).filter(|n| count(&asleep, &mut history, second(*n)) == 1).collect();
        assert_eq!(poked, [0, 1, 3, 7, 15, 31, 61, 91]);
        assert_eq!(count(&snapshot(1, 1, false, 1), &mut history, second(92)), 0);
        assert_eq!(count(&asleep, &mut history, second(200)), 1);
        assert_eq!(count(&asleep, &mut history, second(201)), 1, "a second later, not half a minute");
    }

    #[test]
    fn deliveries_reveal_consumers_between_polls() {
        let (start, mut history) = (Instant::now(), PokeHistory::default());
        let mut asleep = snapshot(1, 0, false, 1);
        for n in 0..10 {
            asleep.groups.values_mut().for_each(|group| group.deliveries = n);
            assert_eq!(count(&asleep, &mut history, start + n as u32 * MIN_POKE_INTERVAL), 1, "poll {n}");
        }
    }

    #[test]
    fn unanswered_pokes_are_reported_until_a_consumer_comes() {
        let (start, mut history) = (Instant::now(), PokeHistory::default());
        let asleep = snapshot(1, 0, false, 1);
        let mut told = Vec::new();
        for n in 0..8 {
            let now = start + n * MIN_POKE_INTERVAL;
            decide(&asleep, 10, &mut history, now);
            told.extend(history.unanswered(&asleep, 10, now).iter().map(|(.., pace)| (n, pace.pokes)));
        }
        assert_eq!(told, [(5, 3), (6, 3), (7, 4)], "an ordinary start is not that slow");
        assert!(history.take_woken().is_empty());
        let awake = snapshot(1, 1, false, 1);
        decide(&awake, 10, &mut history, start + 8 * MIN_POKE_INTERVAL);
        assert!(history.unanswered(&awake, 10, start + 8 * MIN_POKE_INTERVAL).is_empty());
        let came: Vec<Duration> = history.take_woken().into_iter().map(|came| came.after).collect();
        assert_eq!(came, [8 * MIN_POKE_INTERVAL]);
        decide(&awake, 10, &mut history, start + 9 * MIN_POKE_INTERVAL);
        assert!(history.take_woken().is_empty(), "it is told once");
    }

    #[test]
    fn failed_pokes_do_not_count_as_unanswered() {
        let (start, mut history) = (Instant::now(), PokeHistory::default());
        let asleep = snapshot(1, 0, false, 1);
        for n in 0..10 {
            let now = start + n * MIN_POKE_INTERVAL;
            decide(&asleep, 10, &mut history, now).iter().for_each(|wake| history.poke_failed(wake));
            assert!(history.unanswered(&asleep, 10, now).is_empty() && history.take_woken().is_empty(), "second {n}");
        }
    }

    #[test]
    fn groups_that_share_a_socket_do_not_slow_each_other_down() {
        let (start, mut history) = (Instant::now(), PokeHistory::default());
        let mut snapshot = snapshot(1, 0, false, 1);
        // the socket's consumer serves stream foo; no consumer ever connects for bar
        snapshot.groups.insert(("bar".to_owned(), "1".to_owned()), GroupTotals { depth: 1, ..GroupTotals::default() });
        let (mut foo, mut bar) = (Vec::new(), Vec::new());
        for n in 0..60_u32 {
            snapshot.groups.get_mut(&("foo".to_owned(), "1".to_owned())).unwrap().deliveries = n.into();
            for wake in decide(&snapshot, 10, &mut history, start + n * MIN_POKE_INTERVAL) {
                if wake.stream == "foo" { &mut foo } else { &mut bar }.push(n);
            }
        }
        assert_eq!(bar, [0, 1, 3, 7, 15, 31]);
        assert!(
            history.unanswered(&snapshot, 10, start + 60 * MIN_POKE_INTERVAL).is_empty(),
            "that is said of the shared socket"
        );
        assert_eq!(foo.len() + bar.len(), 60, "one poke a second, whoever it is for: {foo:?}");
    }

    #[test]
    fn failed_pokes_are_retried_after_the_minimum_interval() {
        let (start, mut history) = (Instant::now(), PokeHistory::default());
        for n in 0..10 {
            let wakes = decide(&snapshot(1, 0, false, 1), 10, &mut history, start + n * MIN_POKE_INTERVAL);
            assert_eq!(wakes.len(), 1, "second {n}");
            history.poke_failed(&wakes[0]);
        }
    }

    #[test]
    fn postponed_pokes_are_due_at_the_end_of_their_interval() {
        let (start, mut history) = (Instant::now(), PokeHistory::default());
        let asleep = snapshot(1, 0, false, 1);
        assert_eq!(history.due(&asleep, 10, start), None);
        for (poke, at, next) in [(1, 0, 1), (2, 1, 3), (3, 3, 7)] {
            assert_eq!(count(&asleep, &mut history, start + at * MIN_POKE_INTERVAL), 1, "poke {poke}");
            assert_eq!(history.due(&asleep, 10, start), Some(start + next * MIN_POKE_INTERVAL), "poke {poke}");
        }
        for other in
            [snapshot(0, 0, false, 1), snapshot(1, 1, false, 1), snapshot(1, 0, true, 1), snapshot(1, 0, false, 0)]
        {
            assert_eq!(history.due(&other, 10, start), None, "{other:?}");
        }
    }

    #[test]
    fn deleted_groups_are_forgotten() {
        let (now, mut history) = (Instant::now(), PokeHistory::default());
        assert_eq!(count(&snapshot(1, 0, false, 1), &mut history, now), 1);
        assert_eq!(count(&WakeSnapshot::default(), &mut history, now), 0);
        assert!(history.sockets.is_empty() && history.deliveries.is_empty(), "{history:?}");
    }

    #[test]
    fn streams_with_an_empty_sleeping_group_are_subscribed_to() {
        assert!(snapshot(0, 0, false, 1).wants_arrivals("foo"));
        assert!(!snapshot(0, 0, false, 1).wants_arrivals("fo"));
        for other in [snapshot(0, 1, false, 1), snapshot(0, 0, true, 1), snapshot(5, 0, false, 1)] {
            assert!(!other.wants_arrivals("foo"), "{other:?}");
        }
    }

    #[test]
    fn an_arrival_pokes_sleeping_groups_once() {
        let (now, mut history) = (Instant::now(), PokeHistory::default());
        let asleep = snapshot(0, 0, false, 1);
        assert_eq!(decide_arrival("foo", &asleep, &mut history, now).len(), 1);
        assert_eq!(decide_arrival("foo", &asleep, &mut history, now).len(), 0, "it was poked just now");
        assert_eq!(decide_arrival("bar", &asleep, &mut history, now).len(), 0);
        assert_eq!(decide_arrival("foo", &snapshot(0, 1, false, 1), &mut PokeHistory::default(), now).len(), 0);
    }
}

//! Whom to wake: pure.
//!
//! A socket is poked when its group has messages and too few consumers, at most once a second, and ever more rarely (up to
//! 30 s apart) while pokes bring no consumer: one that crashes at its start is not driven into systemd's trigger limit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::memory::Memory;
use crate::plural::count;

/// One group of one stream, over all nsqds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Group {
    /// Messages waiting.
    pub depth: u64,
    /// Connected consumers.
    pub clients: u64,
    /// Nothing is delivered.
    pub paused: bool,
    /// How often messages were handed to consumers, from some number on: a change tells that one was there.
    pub handed_out: u64,
}

/// A stream and one of its groups.
pub type Name = (String, String);

/// What is known now: groups by stream and name, and each group's sockets in the order in which they are to be used.
#[derive(Debug, Default)]
pub struct Observed {
    pub groups: BTreeMap<Name, Group>,
    pub sockets: HashMap<String, Vec<PathBuf>>,
}

impl Observed {
    /// Groups of a stream that sleep, and can be woken.
    pub fn asleep<'a>(&'a self, stream: &'a str) -> impl Iterator<Item = &'a Name> {
        self.of_stream(stream).filter(|(name, group)| self.sleeps(name, group)).map(|(name, _)| name)
    }

    /// True if a message of this stream would find a group that sleeps with nothing to do. One that has messages is poked for those.
    pub fn is_worth_hearing(&self, stream: &str) -> bool {
        self.of_stream(stream).any(|(name, group)| group.depth == 0 && self.sleeps(name, group))
    }

    /// True for a group without a consumer, which has a socket to be woken by.
    pub fn sleeps(&self, (_, name): &Name, group: &Group) -> bool {
        group.clients == 0 && !group.paused && self.sockets.contains_key(name)
    }

    pub fn of_stream<'a>(&'a self, stream: &'a str) -> impl Iterator<Item = (&'a Name, &'a Group)> {
        let first = (stream.to_owned(), String::new());
        self.groups.range(first..).take_while(move |((of, _), _)| of == stream)
    }
}

/// Why a group is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Messages wait and there are too few consumers.
    Waiting { depth: u64, clients: u64 },
    /// A message came in just now.
    Arrived,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { depth, clients: 0 } => write!(f, "{depth} waiting"),
            Self::Waiting { depth, clients } => write!(f, "{depth} waiting for {}", count(*clients, "consumer")),
            Self::Arrived => f.write_str("a message came"),
        }
    }
}

/// A socket to poke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wake {
    pub stream: String,
    pub group: String,
    pub socket: PathBuf,
    pub reason: Reason,
}

impl Wake {
    fn new((stream, group): &Name, socket: &Path, reason: Reason) -> Self {
        Self { stream: stream.clone(), group: group.clone(), socket: socket.to_owned(), reason }
    }
}

/// Whom to wake for what was seen by polling.
pub fn decide(seen: &Observed, per_consumer: u64, memory: &mut Memory, now: Instant) -> Vec<Wake> {
    let mut wakes = Vec::new();
    for (name, group) in &seen.groups {
        let Some(sockets) = seen.sockets.get(&name.1) else { continue };
        let consumers = usize::try_from(group.clients).unwrap_or(usize::MAX);
        // who was handed messages was there, though it may have come and gone between two polls
        let before = match memory.handed_out.get_mut(name) {
            Some(handed_out) => Some(std::mem::replace(handed_out, group.handed_out)),
            None => memory.handed_out.insert(name.clone(), group.handed_out),
        };
        let served = if before != Some(group.handed_out) { sockets.len() } else { consumers };
        // an nsqd that was restarted counts from 0: that makes no pace slower, but tells nothing of a consumer
        let counts_anew = before.is_some_and(|before| group.handed_out.wrapping_sub(before).cast_signed() < 0);
        for (number, socket) in sockets.iter().take(served).enumerate() {
            match counts_anew && number >= consumers {
                true => memory.forgive(socket, name),
                false => memory.worked(socket, name, now),
            }
        }
        let reason = Reason::Waiting { depth: group.depth, clients: group.clients };
        for socket in wanted(seen, name, group, per_consumer).into_iter().flatten() {
            if memory.may_poke(socket, name, now) {
                wakes.push(Wake::new(name, socket, reason));
            }
        }
    }
    memory.keep_only(seen);
    wakes
}

/// The sockets that this group's depth asks for; `None` if it has enough consumers.
pub fn wanted<'a>(seen: &'a Observed, name: &Name, group: &Group, per_consumer: u64) -> Option<&'a [PathBuf]> {
    let sockets = seen.sockets.get(&name.1)?;
    let wanted = usize::try_from(group.depth.div_ceil(per_consumer)).unwrap_or(usize::MAX).min(sockets.len());
    let consumers = usize::try_from(group.clients).unwrap_or(usize::MAX);
    (!group.paused && wanted > consumers).then(|| &sockets[..wanted])
}

/// Whom to wake as a message of this stream came in.
pub fn arrived(stream: &str, seen: &Observed, memory: &mut Memory, now: Instant) -> Vec<Wake> {
    let first = |name: &Name| seen.sockets.get(&name.1).and_then(|sockets| sockets.first());
    let asleep = seen.asleep(stream).filter_map(|name| Some((name, first(name)?)));
    asleep
        .filter(|(name, socket)| memory.may_poke(socket, name, now))
        .map(|(name, socket)| Wake::new(name, socket, Reason::Arrived))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::memory::LEAST;
    use super::*;

    fn seen(depth: u64, clients: u64, paused: bool, sockets: usize) -> Observed {
        let mut seen = Observed::default();
        seen.groups.insert(("foo".to_owned(), "1".to_owned()), Group { depth, clients, paused, handed_out: 0 });
        seen.sockets.insert("1".to_owned(), (0..sockets).map(|n| PathBuf::from(format!("/run/1@{n}.sock"))).collect());
        seen
    }

    fn count(seen: &Observed, memory: &mut Memory, now: Instant) -> usize {
        decide(seen, 10, memory, now).len()
    }

    #[test]
    fn a_sleeping_group_with_messages_is_woken_and_no_other() {
        let now = Instant::now();
        assert_eq!(count(&seen(1, 0, false, 1), &mut Memory::default(), now), 1);
        for other in [seen(0, 0, false, 1), seen(1, 1, false, 1), seen(1, 0, true, 1)] {
            assert_eq!(count(&other, &mut Memory::default(), now), 0, "{other:?}");
        }
    }

    #[test]
    fn as_many_consumers_are_woken_as_the_depth_asks_for() {
        let now = Instant::now();
        assert_eq!(count(&seen(25, 0, false, 5), &mut Memory::default(), now), 3);
        assert_eq!(count(&seen(25, 3, false, 5), &mut Memory::default(), now), 0);
        assert_eq!(count(&seen(1000, 1, false, 5), &mut Memory::default(), now), 5);
    }

    #[test]
    fn pokes_that_bring_nobody_become_rare_and_one_that_does_starts_over() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        let asleep = seen(1, 0, false, 1);
        let second = |n| start + n * Duration::from_secs(1);
        let poked: Vec<u32> = (0..100).filter(|n| count(&asleep, &mut memory, second(*n)) == 1).collect();
        assert_eq!(poked, [0, 1, 3, 7, 15, 31, 61, 91]);
        assert_eq!(count(&seen(1, 1, false, 1), &mut memory, second(92)), 0);
        assert_eq!(count(&asleep, &mut memory, second(200)), 1);
        assert_eq!(count(&asleep, &mut memory, second(201)), 1, "a second later, not half a minute");
    }

    #[test]
    fn a_consumer_that_comes_and_goes_between_polls_is_seen_by_what_it_was_handed() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        let mut asleep = seen(1, 0, false, 1);
        for n in 0..10 {
            asleep.groups.values_mut().for_each(|group| group.handed_out = n);
            assert_eq!(count(&asleep, &mut memory, start + n as u32 * LEAST), 1, "poll {n}");
        }
    }

    #[test]
    fn a_poke_after_which_no_consumer_comes_is_told_until_one_comes() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        let asleep = seen(1, 0, false, 1);
        let mut told = Vec::new();
        for n in 0..8 {
            let now = start + n * LEAST;
            decide(&asleep, 10, &mut memory, now);
            told.extend(memory.unanswered(&asleep, 10, now).iter().map(|(.., pace)| (n, pace.pokes)));
        }
        assert_eq!(told, [(5, 3), (6, 3), (7, 4)], "an ordinary start is not that slow");
        assert!(memory.came().is_empty());
        let awake = seen(1, 1, false, 1);
        decide(&awake, 10, &mut memory, start + 8 * LEAST);
        assert!(memory.unanswered(&awake, 10, start + 8 * LEAST).is_empty());
        let came: Vec<Duration> = memory.came().into_iter().map(|came| came.after).collect();
        assert_eq!(came, [8 * LEAST]);
        decide(&awake, 10, &mut memory, start + 9 * LEAST);
        assert!(memory.came().is_empty(), "it is told once");
    }

    #[test]
    fn a_poke_that_reached_nobody_says_nothing_of_a_consumer() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        let asleep = seen(1, 0, false, 1);
        for n in 0..10 {
            let now = start + n * LEAST;
            decide(&asleep, 10, &mut memory, now).iter().for_each(|wake| memory.missed(wake));
            assert!(memory.unanswered(&asleep, 10, now).is_empty() && memory.came().is_empty(), "second {n}");
        }
    }

    #[test]
    fn groups_that_share_a_socket_do_not_slow_each_other_down() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        let mut seen = seen(1, 0, false, 1);
        // the socket's consumer serves stream foo; nobody ever comes for bar
        seen.groups.insert(("bar".to_owned(), "1".to_owned()), Group { depth: 1, ..Group::default() });
        let (mut foo, mut bar) = (Vec::new(), Vec::new());
        for n in 0..60_u32 {
            seen.groups.get_mut(&("foo".to_owned(), "1".to_owned())).unwrap().handed_out = n.into();
            for wake in decide(&seen, 10, &mut memory, start + n * LEAST) {
                if wake.stream == "foo" { &mut foo } else { &mut bar }.push(n);
            }
        }
        assert_eq!(bar, [0, 1, 3, 7, 15, 31]);
        assert!(memory.unanswered(&seen, 10, start + 60 * LEAST).is_empty(), "that is said of the shared socket");
        assert_eq!(foo.len() + bar.len(), 60, "one poke a second, whoever it is for: {foo:?}");
    }

    #[test]
    fn a_poke_that_reached_nobody_is_tried_again_after_the_least_time() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        for n in 0..10 {
            let wakes = decide(&seen(1, 0, false, 1), 10, &mut memory, start + n * LEAST);
            assert_eq!(wakes.len(), 1, "second {n}");
            memory.missed(&wakes[0]);
        }
    }

    #[test]
    fn who_waits_for_its_next_poke_is_due_when_that_may_come() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        let asleep = seen(1, 0, false, 1);
        assert_eq!(memory.due(&asleep, 10, start), None);
        for (poke, at, next) in [(1, 0, 1), (2, 1, 3), (3, 3, 7)] {
            assert_eq!(count(&asleep, &mut memory, start + at * LEAST), 1, "poke {poke}");
            assert_eq!(memory.due(&asleep, 10, start), Some(start + next * LEAST), "poke {poke}");
        }
        for other in [seen(0, 0, false, 1), seen(1, 1, false, 1), seen(1, 0, true, 1), seen(1, 0, false, 0)] {
            assert_eq!(memory.due(&other, 10, start), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let (now, mut memory) = (Instant::now(), Memory::default());
        assert_eq!(count(&seen(1, 0, false, 1), &mut memory, now), 1);
        assert_eq!(count(&Observed::default(), &mut memory, now), 0);
        assert!(memory.sockets.is_empty() && memory.handed_out.is_empty(), "{memory:?}");
    }

    #[test]
    fn a_stream_is_worth_hearing_while_a_group_sleeps_with_nothing_to_do() {
        assert!(seen(0, 0, false, 1).is_worth_hearing("foo"));
        assert!(!seen(0, 0, false, 1).is_worth_hearing("fo"));
        for other in [seen(0, 1, false, 1), seen(0, 0, true, 1), seen(5, 0, false, 1)] {
            assert!(!other.is_worth_hearing("foo"), "{other:?}");
        }
    }

    #[test]
    fn an_arrival_wakes_what_sleeps_once() {
        let (now, mut memory) = (Instant::now(), Memory::default());
        let asleep = seen(0, 0, false, 1);
        assert_eq!(arrived("foo", &asleep, &mut memory, now).len(), 1);
        assert_eq!(arrived("foo", &asleep, &mut memory, now).len(), 0, "it was poked just now");
        assert_eq!(arrived("bar", &asleep, &mut memory, now).len(), 0);
        assert_eq!(arrived("foo", &seen(0, 1, false, 1), &mut Memory::default(), now).len(), 0);
    }
}

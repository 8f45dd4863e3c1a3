//! Whom to wake: pure.
//!
//! A socket is poked when its group has messages and too few consumers, at the most once a second, and ever more rarely (up to
//! [`MOST`]) while pokes bring no consumer: one that crashes at its start is not driven into systemd's trigger limit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The least time between two pokes of a socket.
const LEAST: Duration = Duration::from_secs(1);
/// The most time between two pokes of a socket whose group waits for a consumer.
const MOST: Duration = Duration::from_secs(30);

/// One group of one stream, over all nsqds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// Messages waiting.
    pub(super) depth: u64,
    /// Connected consumers.
    pub(super) clients: u64,
    /// Nothing is delivered.
    pub(super) paused: bool,
    /// Messages that have left the queue since nsqd started.
    pub(super) finished: u64,
}

/// What is known now: groups by stream and name, and each group's sockets in the order in which they are to be used.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) groups: BTreeMap<(String, String), Group>,
    pub(super) sockets: HashMap<String, Vec<PathBuf>>,
}

impl Observed {
    /// Groups of a stream that sleep, and can be woken.
    pub(super) fn asleep<'a>(&'a self, stream: &'a str) -> impl Iterator<Item = &'a str> {
        let of_stream = self.groups.iter().filter(move |((s, _), _)| s == stream);
        of_stream
            .filter(|((_, name), group)| group.clients == 0 && !group.paused && self.sockets.contains_key(name))
            .map(|((_, name), _)| name.as_str())
    }
}

/// Why a group is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Messages wait and there are too few consumers.
    Waiting { depth: u64, clients: u64 },
    /// A message came in just now.
    Arrived,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { depth, clients: 0 } => write!(f, "{depth} waiting"),
            Self::Waiting { depth, clients } => write!(f, "{depth} waiting for {clients} consumers"),
            Self::Arrived => f.write_str("a message came"),
        }
    }
}

/// A socket to poke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wake {
    pub(super) stream: String,
    pub(super) group: String,
    pub(super) socket: PathBuf,
    pub(super) reason: Reason,
}

/// When each socket may be poked again.
#[derive(Debug, Default)]
pub(super) struct Memory {
    sockets: HashMap<PathBuf, Pace>,
    /// How many messages each group had finished.
    finished: HashMap<(String, String), u64>,
}

#[derive(Debug)]
struct Pace {
    last: Instant,
    /// Pokes since one brought a consumer.
    pokes: u32,
}

impl Pace {
    /// How long after the last poke the next may come.
    fn delay(&self) -> Duration {
        LEAST.saturating_mul(1 << self.pokes.saturating_sub(1).min(16)).min(MOST)
    }
}

impl Memory {
    /// True if the socket may be poked now; it then counts as poked.
    fn may_poke(&mut self, socket: &PathBuf, now: Instant) -> bool {
        let Some(pace) = self.sockets.get_mut(socket) else {
            self.sockets.insert(socket.clone(), Pace { last: now, pokes: 1 });
            return true;
        };
        let may = now >= pace.last + pace.delay();
        if may {
            *pace = Pace { last: now, pokes: pace.pokes.saturating_add(1) };
        }
        may
    }

    /// Pokes of this socket bring a consumer: the next is not put off by those before.
    fn worked(&mut self, socket: &PathBuf) {
        if let Some(pace) = self.sockets.get_mut(socket) {
            pace.pokes = 0;
        }
    }
}

/// Whom to wake for what was seen by polling.
pub(super) fn decide(seen: &Observed, per_consumer: u64, memory: &mut Memory, now: Instant) -> Vec<Wake> {
    let mut wakes = Vec::new();
    for ((stream, name), group) in &seen.groups {
        let Some(sockets) = seen.sockets.get(name) else { continue };
        let consumers = usize::try_from(group.clients).unwrap_or(usize::MAX);
        // who finished messages was there, though it may have come and gone between two polls
        let key = (stream.clone(), name.clone());
        let has_worked = memory.finished.insert(key, group.finished) != Some(group.finished);
        let served = if has_worked { sockets.len() } else { consumers };
        sockets.iter().take(served).for_each(|socket| memory.worked(socket));
        if group.paused || group.depth == 0 {
            continue;
        }
        let wanted = usize::try_from(group.depth.div_ceil(per_consumer)).unwrap_or(usize::MAX).min(sockets.len());
        if wanted <= consumers {
            continue;
        }
        let reason = Reason::Waiting { depth: group.depth, clients: group.clients };
        for socket in sockets.iter().take(wanted).filter(|socket| memory.may_poke(socket, now)) {
            wakes.push(Wake { stream: stream.clone(), group: name.clone(), socket: socket.clone(), reason });
        }
    }
    wakes
}

/// Whom to wake as a message of this stream came in.
pub(super) fn arrived(stream: &str, seen: &Observed, memory: &mut Memory, now: Instant) -> Vec<Wake> {
    let first = |group: &str| seen.sockets.get(group).and_then(|sockets| sockets.first()).cloned();
    let asleep = seen.asleep(stream).filter_map(|group| Some((group, first(group)?)));
    asleep
        .filter(|(_, socket)| memory.may_poke(socket, now))
        .map(|(group, socket)| Wake {
            stream: stream.to_owned(),
            group: group.to_owned(),
            socket,
            reason: Reason::Arrived,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(depth: u64, clients: u64, paused: bool, sockets: usize) -> Observed {
        let mut seen = Observed::default();
        seen.groups.insert(("foo".to_owned(), "1".to_owned()), Group { depth, clients, paused, finished: 0 });
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
    fn a_consumer_that_comes_and_goes_between_polls_is_seen_by_what_it_finished() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        let mut asleep = seen(1, 0, false, 1);
        for n in 0..10 {
            asleep.groups.values_mut().for_each(|group| group.finished = n);
            assert_eq!(count(&asleep, &mut memory, start + n as u32 * LEAST), 1, "poll {n}");
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

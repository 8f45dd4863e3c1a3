//! The pokes so far, and when the next may come: pure.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::decide::{Name, Observed, Wake, wanted};

/// The least time between two pokes of a socket.
pub const LEAST: Duration = Duration::from_secs(1);
/// The least time between a poll and one for a poke that was put off.
const SOON: Duration = Duration::from_millis(100);
/// How long after how many pokes (which take 3 s) a consumer that has not come is not just slow to start. Only pokes count, and not the time
/// since the first: meanwhile nsqd may have been away.
const PATIENCE: (Duration, u32) = (Duration::from_secs(2), 3);
/// The most time between two pokes of a socket whose group waits for a consumer.
const MOST: Duration = Duration::from_secs(30);

/// When each socket may be poked again. Groups that share a socket's name have a pace each: the one that its consumer does not
/// serve becomes rare, and the other is woken as ever.
#[derive(Debug, Default)]
pub struct Memory {
    pub sockets: HashMap<PathBuf, HashMap<Name, Pace>>,
    /// How often messages of each group had been handed out.
    pub handed_out: HashMap<Name, u64>,
    came: Vec<Came>,
}

/// A consumer that came after its socket was poked for this group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    pub name: Name,
    pub socket: PathBuf,
    /// The time from the first poke that it did not answer until it was seen.
    pub after: Duration,
}

/// The pokes of a socket for a group.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub last: Instant,
    /// The first of these pokes.
    first: Instant,
    /// Pokes since one brought a consumer.
    pub pokes: u32,
}

impl Pace {
    /// How long after the last poke the next may come.
    fn delay(self) -> Duration {
        LEAST.saturating_mul(1 << self.pokes.saturating_sub(1).min(16)).min(MOST)
    }

    /// When the next poke may come.
    pub fn next(self) -> Instant {
        self.last + self.delay()
    }
}

impl Memory {
    /// True if the socket may be poked for this group now; it then counts as poked.
    pub fn may_poke(&mut self, socket: &PathBuf, group: &Name, now: Instant) -> bool {
        if !self.sockets.contains_key(socket) {
            self.sockets.insert(socket.clone(), HashMap::new());
        }
        let paces = self.sockets.get_mut(socket).expect("it was put there");
        if paces.values().any(|pace| now < pace.last + LEAST) {
            return false;
        }
        match paces.get_mut(group) {
            Some(pace) if now < pace.next() => return false,
            Some(pace) => {
                let first = if pace.pokes == 0 { now } else { pace.first };
                *pace = Pace { last: now, first, pokes: pace.pokes.saturating_add(1) };
            }
            None => drop(paces.insert(group.clone(), Pace { last: now, first: now, pokes: 1 })),
        }
        true
    }

    /// Pokes of this socket bring a consumer: the next is not put off by those before.
    pub fn worked(&mut self, socket: &PathBuf, group: &Name, now: Instant) {
        if let Some(pace) = self.pace_mut(socket, group).filter(|pace| pace.pokes > 0) {
            pace.pokes = 0;
            let after = now.saturating_duration_since(pace.first);
            self.came.push(Came { name: group.clone(), socket: socket.clone(), after });
        }
    }

    /// The next poke is not put off by those before, for they say nothing of a consumer.
    pub fn forgive(&mut self, socket: &PathBuf, group: &Name) {
        if let Some(pace) = self.pace_mut(socket, group) {
            pace.pokes = 0;
        }
    }

    fn pace_mut(&mut self, socket: &PathBuf, group: &Name) -> Option<&mut Pace> {
        self.sockets.get_mut(socket)?.get_mut(group)
    }

    /// The consumers that came since this was asked last.
    pub fn came(&mut self) -> Vec<Came> {
        std::mem::take(&mut self.came)
    }

    /// The sockets that were poked for groups that wait, again and again, and no consumer came. Where two groups share a socket it
    /// is known that the consumer serves one of them.
    pub fn unanswered<'a>(
        &self,
        seen: &'a Observed,
        per_consumer: u64,
        now: Instant,
    ) -> Vec<(&'a Name, &'a PathBuf, Pace)> {
        let waiting =
            seen.groups.iter().filter_map(|(name, group)| Some((name, wanted(seen, name, group, per_consumer)?)));
        let pokes = waiting.flat_map(|(name, sockets)| sockets.iter().map(move |socket| (name, socket)));
        let in_vain = |pace: &Pace| {
            pace.pokes > PATIENCE.1
                || pace.pokes == PATIENCE.1 && now.saturating_duration_since(pace.last) >= PATIENCE.0
        };
        let unanswered = pokes.filter_map(|(name, socket)| Some((name, socket, self.alone(socket, name)?)));
        unanswered.filter(|(.., pace)| in_vain(pace)).collect()
    }

    /// The pokes of a socket that is poked for no other group.
    fn alone(&self, socket: &PathBuf, group: &Name) -> Option<Pace> {
        let paces = self.sockets.get(socket).filter(|paces| paces.len() == 1)?;
        paces.get(group).copied()
    }

    /// This poke reached nobody, so it started nothing: the next is due after the least time.
    pub fn missed(&mut self, Wake { stream, group, socket, .. }: &Wake) {
        self.forgive(socket, &(stream.clone(), group.clone()));
    }

    /// When a group that waits now, as pokes were too few or too many, may be poked for next; many of them are looked at together.
    pub fn due(&self, seen: &Observed, per_consumer: u64, now: Instant) -> Option<Instant> {
        let waiting =
            seen.groups.iter().filter_map(|(name, group)| Some((name, wanted(seen, name, group, per_consumer)?)));
        let due =
            |(name, sockets): (&Name, &[PathBuf])| sockets.iter().filter_map(|socket| self.next(socket, name)).min();
        waiting.filter_map(due).min().map(|due| due.max(now + SOON))
    }

    /// When this socket may be poked for this group; `None` if it never was.
    fn next(&self, socket: &PathBuf, group: &Name) -> Option<Instant> {
        let paces = self.sockets.get(socket)?;
        let free = paces.values().map(|pace| pace.last + LEAST).max()?;
        Some(paces.get(group).map_or(free, |pace| pace.next().max(free)))
    }

    /// The pokes of this socket for this group so far.
    pub fn pace(&self, socket: &PathBuf, group: &Name) -> Option<Pace> {
        self.sockets.get(socket)?.get(group).copied()
    }

    /// Forgets groups that are gone.
    pub fn keep_only(&mut self, seen: &Observed) {
        if self.handed_out.len() <= seen.groups.len() {
            return;
        }
        self.handed_out.retain(|name, _| seen.groups.contains_key(name));
        for paces in self.sockets.values_mut() {
            paces.retain(|name, _| seen.groups.contains_key(name));
        }
        self.sockets.retain(|_, paces| !paces.is_empty());
    }
}

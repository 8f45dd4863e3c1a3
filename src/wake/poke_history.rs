//! The pokes so far, and the time of the next one: pure.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::decide::{GroupName, Wake, WakeSnapshot, wanted};

/// The minimum interval between two pokes of a socket.
pub const MIN_POKE_INTERVAL: Duration = Duration::from_secs(1);
/// The minimum delay between a poll and an extra poll for a postponed poke.
const MIN_POLL_DELAY: Duration = Duration::from_millis(100);
/// A consumer is missing after this many pokes (which take 3 s) and this time since the last one;
/// until then it may be slow to start. The time since the first poke does not count: nsqd may have
/// been unreachable meanwhile.
const UNANSWERED_AFTER: (Duration, u32) = (Duration::from_secs(2), 3);
/// The maximum interval between two pokes of a socket whose group waits for a consumer.
const MAX_POKE_INTERVAL: Duration = Duration::from_secs(30);

/// The pace of pokes of each socket. Groups that share a socket have a pace each: the group that
/// the consumer does not serve is poked ever more rarely, and the other one as usual.
#[derive(Debug, Default)]
pub struct PokeHistory {
    pub sockets: HashMap<PathBuf, HashMap<GroupName, PokePace>>,
    /// The delivery count of each group at the last poll.
    pub deliveries: HashMap<GroupName, u64>,
    /// Since when groups have too few consumers, if several hosts wake them.
    missing: HashMap<GroupName, Instant>,
    woken: Vec<WokenConsumer>,
}

/// A consumer that connected after its socket was poked for this group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WokenConsumer {
    pub name: GroupName,
    pub socket: PathBuf,
    /// The time from the first unanswered poke until the consumer was seen.
    pub after: Duration,
}

/// The pokes of a socket for a group.
#[derive(Debug, Clone, Copy)]
pub struct PokePace {
    pub last: Instant,
    /// The first poke since a consumer was seen.
    first: Instant,
    /// Pokes since a consumer was seen.
    pub pokes: u32,
}

impl PokePace {
    /// Returns the delay from the last poke to the next one.
    fn delay(self) -> Duration {
        MIN_POKE_INTERVAL.saturating_mul(1 << self.pokes.saturating_sub(1).min(16)).min(MAX_POKE_INTERVAL)
    }

    /// Returns the earliest time of the next poke.
    pub fn next(self) -> Instant {
        self.last + self.delay()
    }
}

impl PokeHistory {
    /// Returns true if the socket may be poked for this group now, and counts that poke.
    pub fn may_poke(&mut self, socket: &PathBuf, group: &GroupName, now: Instant) -> bool {
        if !self.sockets.contains_key(socket) {
            self.sockets.insert(socket.clone(), HashMap::new());
        }
        let paces = self.sockets.get_mut(socket).expect("it was put there");
        if paces.values().any(|pace| now < pace.last + MIN_POKE_INTERVAL) {
            return false;
        }
        match paces.get_mut(group) {
            Some(pace) if now < pace.next() => return false,
            Some(pace) => {
                let first = if pace.pokes == 0 { now } else { pace.first };
                *pace = PokePace { last: now, first, pokes: pace.pokes.saturating_add(1) };
            }
            None => drop(paces.insert(group.clone(), PokePace { last: now, first: now, pokes: 1 })),
        }
        true
    }

    /// Records that a consumer was seen: the next poke is not delayed by those before.
    pub fn consumer_came(&mut self, socket: &PathBuf, group: &GroupName, now: Instant) {
        if let Some(pace) = self.pace_mut(socket, group).filter(|pace| pace.pokes > 0) {
            pace.pokes = 0;
            let after = now.saturating_duration_since(pace.first);
            self.woken.push(WokenConsumer { name: group.clone(), socket: socket.clone(), after });
        }
    }

    /// Forgets the pokes so far without recording a consumer.
    pub fn reset(&mut self, socket: &PathBuf, group: &GroupName) {
        if let Some(pace) = self.pace_mut(socket, group) {
            pace.pokes = 0;
        }
    }

    /// Records whether the group has too few consumers. `was_served` is true if it had one since the
    /// last poll, and has none now: what waits now has not waited for long.
    pub fn consumers_are_missing(&mut self, group: &GroupName, is_short: bool, was_served: bool, now: Instant) {
        if !is_short {
            self.missing.remove(group);
        } else if was_served || !self.missing.contains_key(group) {
            self.missing.insert(group.clone(), now);
        }
    }

    /// Returns for how long the group has had too few consumers.
    pub fn missing_for(&self, group: &GroupName, now: Instant) -> Duration {
        self.missing.get(group).map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }

    /// Returns the groups that wait for consumers which this host is to start now, and their sockets.
    pub fn waiting<'a>(
        &self,
        snapshot: &'a WakeSnapshot,
        per_consumer: u64,
        now: Instant,
    ) -> impl Iterator<Item = (&'a GroupName, &'a [PathBuf])> {
        snapshot.groups.iter().filter_map(move |(name, group)| {
            let polls = snapshot.turns.polls(self.missing_for(name, now));
            Some((name, wanted(snapshot, name, group, per_consumer, polls)?))
        })
    }

    fn pace_mut(&mut self, socket: &PathBuf, group: &GroupName) -> Option<&mut PokePace> {
        self.sockets.get_mut(socket)?.get_mut(group)
    }

    /// Returns the consumers that came since the last call.
    pub fn take_woken(&mut self) -> Vec<WokenConsumer> {
        std::mem::take(&mut self.woken)
    }

    /// Returns the sockets that were poked repeatedly for waiting groups without a consumer coming.
    /// A socket that two groups share is left out: its consumer may serve the other one.
    pub fn unanswered<'a>(
        &self,
        snapshot: &'a WakeSnapshot,
        per_consumer: u64,
        now: Instant,
    ) -> Vec<(&'a GroupName, &'a PathBuf, PokePace)> {
        let waiting = self.waiting(snapshot, per_consumer, now);
        let pokes = waiting.flat_map(|(name, sockets)| sockets.iter().map(move |socket| (name, socket)));
        let in_vain = |pace: &PokePace| {
            pace.pokes > UNANSWERED_AFTER.1
                || pace.pokes == UNANSWERED_AFTER.1 && now.saturating_duration_since(pace.last) >= UNANSWERED_AFTER.0
        };
        let unanswered = pokes.filter_map(|(name, socket)| Some((name, socket, self.unshared_pace(socket, name)?)));
        unanswered.filter(|(.., pace)| in_vain(pace)).collect()
    }

    /// Returns the pace of a socket that is poked for this group alone.
    fn unshared_pace(&self, socket: &PathBuf, group: &GroupName) -> Option<PokePace> {
        let paces = self.sockets.get(socket).filter(|paces| paces.len() == 1)?;
        paces.get(group).copied()
    }

    /// Records that a poke reached no listener: the next one is due after the minimum interval.
    pub fn poke_failed(&mut self, Wake { stream, group, socket, .. }: &Wake) {
        self.reset(socket, &(stream.clone(), group.clone()));
    }

    /// Returns the earliest time at which a group that still waits may be poked; pokes that are due
    /// at about the same time share one poll.
    pub fn due(&self, snapshot: &WakeSnapshot, per_consumer: u64, now: Instant) -> Option<Instant> {
        let waiting = self.waiting(snapshot, per_consumer, now);
        let due = |(name, sockets): (&GroupName, &[PathBuf])| {
            sockets.iter().filter_map(|socket| self.next(socket, name)).min()
        };
        waiting.filter_map(due).min().map(|due| due.max(now + MIN_POLL_DELAY))
    }

    /// Returns the earliest time of the next poke of this socket for this group; `None` if there
    /// was none.
    fn next(&self, socket: &PathBuf, group: &GroupName) -> Option<Instant> {
        let paces = self.sockets.get(socket)?;
        let free = paces.values().map(|pace| pace.last + MIN_POKE_INTERVAL).max()?;
        Some(paces.get(group).map_or(free, |pace| pace.next().max(free)))
    }

    /// Returns the pace of this socket for this group.
    pub fn pace(&self, socket: &PathBuf, group: &GroupName) -> Option<PokePace> {
        self.sockets.get(socket)?.get(group).copied()
    }

    /// Forgets groups that no longer exist.
    pub fn keep_only(&mut self, snapshot: &WakeSnapshot) {
        if self.deliveries.len() <= snapshot.groups.len() {
            return;
        }
        self.deliveries.retain(|name, _| snapshot.groups.contains_key(name));
        self.missing.retain(|name, _| snapshot.groups.contains_key(name));
        for paces in self.sockets.values_mut() {
            paces.retain(|name, _| snapshot.groups.contains_key(name));
        }
        self.sockets.retain(|_, paces| !paces.is_empty());
    }
}

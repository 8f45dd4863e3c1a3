//! A model of nsqd: a channel with tokens, and heartbeats that go to all subscribers.

use std::collections::{BTreeMap, VecDeque};

use super::super::{Heartbeat, LeaseToken};
use mqueue::proto::MessageId;

/// A connection; each node has one for the token and one for heartbeats.
pub(super) type ConnectionId = u64;

/// A command on the connection for the token.
#[derive(Debug, Clone)]
pub(super) enum Command {
    Ready(bool),
    Heartbeat { beat: Heartbeat, touch: Option<LeaseToken> },
    Finish(LeaseToken),
    Requeue(LeaseToken),
    PublishToken,
}

/// A message or reply from nsqd.
#[derive(Debug, Clone)]
pub(super) enum FromNsqd {
    Delivered { token: LeaseToken, published: u64 },
    Ok { number: u64 },
    TouchFailed,
    Heard { beat: Heartbeat, published: u64 },
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Queued,
    InFlight { to: ConnectionId, delivered: u64, deadline: u64 },
}

/// A token, and when it was published.
#[derive(Debug)]
struct Stored {
    token: LeaseToken,
    published: u64,
    place: Place,
}

#[derive(Debug)]
pub(super) struct Nsqd {
    pub(super) is_up: bool,
    /// How far its clock is ahead, in milliseconds.
    pub(super) ahead: u64,
    /// The deliveries of some tokens are about to wrap.
    pub(super) wraps: bool,
    tokens: Vec<Stored>,
    minted: u64,
    ready: BTreeMap<ConnectionId, bool>,
    pub(super) monitor: Vec<ConnectionId>,
    /// The last heartbeats, for the forger.
    pub(super) beats: VecDeque<Heartbeat>,
}

impl Nsqd {
    pub(super) const MAX_MSG_TIMEOUT: u64 = 12_000;
    pub(super) const LEASE: u64 = 1000;

    pub(super) fn new(ahead: u64) -> Self {
        Self {
            is_up: true,
            wraps: true,
            ahead,
            tokens: Vec::new(),
            minted: 0,
            ready: BTreeMap::new(),
            monitor: Vec::new(),
            beats: VecDeque::new(),
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn subscribe(&mut self, connection: ConnectionId) {
        self.ready.insert(connection, false);
    }

    pub(super) fn knows(&self, connection: ConnectionId) -> bool {
        self.ready.contains_key(&connection) || self.monitor.contains(&connection)
    }

    /// Forgets a connection. Its messages stay in flight.
    pub(super) fn drop_connection(&mut self, connection: ConnectionId) {
        self.ready.remove(&connection);
        self.monitor.retain(|ear| *ear != connection);
    }

    /// Stops nsqd; a killed nsqd loses its tokens.
    pub(super) fn end(&mut self, killed: bool) {
        self.is_up = false;
        self.ready.clear();
        self.monitor.clear();
        if killed {
            self.tokens.clear();
        }
        self.tokens.iter_mut().for_each(|stored| stored.place = Place::Queued);
    }

    /// Executes a command; `wall` is nsqd's time.
    pub(super) fn execute(
        &mut self,
        from: ConnectionId,
        command: Command,
        wall: u64,
        rng: &mut fastrand::Rng,
    ) -> Vec<(ConnectionId, FromNsqd)> {
        let mut said = Vec::new();
        match command {
            Command::Ready(ready) => drop(self.ready.insert(from, ready)),
            Command::Heartbeat { beat, touch } => {
                if touch.is_some_and(|token| !self.touch(from, token, wall)) {
                    said.push((from, FromNsqd::TouchFailed));
                }
                said.push((from, FromNsqd::Ok { number: beat.number }));
                said.extend(self.publish(&beat, wall));
                self.beats.truncate(9);
                self.beats.push_front(beat);
            }
            Command::Finish(token) => self.tokens.retain(|stored| !stored.is_held(token, from)),
            Command::Requeue(token) => {
                let given = self.tokens.iter_mut().find(|stored| stored.is_held(token, from));
                given.into_iter().for_each(|stored| stored.place = Place::Queued);
            }
            Command::PublishToken => {
                self.minted += 1;
                let id = format!("{:016x}", wall << 20 | self.minted);
                let id = MessageId::from_slice(id.as_bytes()).unwrap();
                let delivery = if self.wraps && rng.bool() { 65_530 } else { 0 };
                self.tokens.push(Stored { token: LeaseToken { id, delivery }, published: wall, place: Place::Queued });
            }
        }
        said.extend(self.deliver(wall, rng));
        said
    }

    /// Delivers a heartbeat to all subscribers.
    pub(super) fn publish(&self, beat: &Heartbeat, wall: u64) -> Vec<(ConnectionId, FromNsqd)> {
        self.monitor.iter().map(|ear| (*ear, FromNsqd::Heard { beat: beat.clone(), published: wall })).collect()
    }

    fn touch(&mut self, from: ConnectionId, token: LeaseToken, wall: u64) -> bool {
        let held = self.tokens.iter_mut().find(|stored| stored.is_held(token, from));
        let Some(Stored { place: Place::InFlight { deadline, delivered, .. }, .. }) = held else { return false };
        *deadline = (wall + Self::LEASE).min(*delivered + Self::MAX_MSG_TIMEOUT);
        true
    }

    /// Requeues messages whose time in flight is over.
    pub(super) fn expire(&mut self, wall: u64, rng: &mut fastrand::Rng) -> Vec<(ConnectionId, FromNsqd)> {
        for Stored { place, .. } in &mut self.tokens {
            if matches!(place, Place::InFlight { deadline, .. } if *deadline <= wall) {
                *place = Place::Queued;
            }
        }
        self.deliver(wall, rng)
    }

    fn deliver(&mut self, wall: u64, rng: &mut fastrand::Rng) -> Vec<(ConnectionId, FromNsqd)> {
        let mut said = Vec::new();
        for at in 0..self.tokens.len() {
            let in_flight = |to: &ConnectionId| {
                let is_there = |stored: &&Stored| matches!(&stored.place, Place::InFlight { to: t, .. } if t == to);
                self.tokens.iter().filter(is_there).count()
            };
            let waiting: Vec<_> =
                self.ready.iter().filter(|(to, ready)| **ready && in_flight(to) < 2).map(|(to, _)| *to).collect();
            let Stored { token, published, place } = &mut self.tokens[at];
            if matches!(place, Place::Queued) && !waiting.is_empty() {
                let to = waiting[rng.usize(..waiting.len())];
                *place = Place::InFlight { to, delivered: wall, deadline: wall + Self::LEASE };
                token.delivery = token.delivery.wrapping_add(1);
                said.push((to, FromNsqd::Delivered { token: *token, published: *published }));
            }
        }
        said
    }
}

impl Stored {
    /// nsqd goes by the id and the connection only.
    fn is_held(&self, token: LeaseToken, from: ConnectionId) -> bool {
        self.token.id == token.id && matches!(self.place, Place::InFlight { to, .. } if to == from)
    }
}

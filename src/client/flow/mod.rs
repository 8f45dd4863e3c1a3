//! How many messages each connection may have in flight: RDY, shared out. Pure: time comes in as an argument.
//!
//! **RDY follows the traffic.** nsqd holds a message back, for up to 250 ms, while its client is ready for more. So a quiet
//! connection gets room for one message beyond those in flight: nsqd then sends each at once. When messages come back to
//! back the room grows with them, up to all there is; when they cease, it falls back to one, and that RDY makes nsqd send
//! what it holds. Messages that come at a pace between the two are told apart by trying room for two: they may be published at that pace, or
//! be waiting in an nsqd, behind a line, or on a machine that has more to do than when the client connected.
//!
//! ```text
//!  room:   1 ──back to back──▶ 2 ─▶ 4 ─▶ … ─▶ all that is free
//!          ▲                                   │
//!          └────── nothing for a moment ───────┘
//! ```
//!
//! **The room is shared.** In flight and room together never exceed `max_in_flight` (but for what was on its way when RDY was
//! lowered). Every connection gets one first, and the busy ones share the rest. Where there is less room than connections, they take
//! turns.
//!
//! **Backoff.** When handlers fail one after the other, all stop for a while, then one message is tried: if it succeeds all go
//! on, if it fails they stop for longer.

mod connection_flow;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::connection_flow::ConnectionFlow;
use crate::backoff::Backoff;

/// Failures without a success between them from which on the consumer backs off. A single message that fails stops nobody.
const BACKOFF_AFTER: u32 = 2;
/// How long a connection keeps its turn where there is less room than connections, and none of them has had a message lately.
const TURN: Duration = Duration::from_millis(200);

/// Names a connection within a [`Flow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A flow's settings.
#[derive(Debug, Clone)]
pub struct FlowConfig {
    /// Messages in flight on all connections together.
    pub max_in_flight: u32,
    /// The first pause after failures.
    pub first_backoff: Duration,
    /// The longest pause; zero for none at all.
    pub max_backoff: Duration,
}

/// Whether handlers do well.
#[derive(Debug)]
enum BackoffState {
    /// They do.
    Open,
    /// They fail: nothing is taken until then.
    Paused(Instant),
    /// One message is tried.
    Probing,
    /// The consumer stops: nothing is taken any more.
    Stopped,
}

/// The state of all connections' flow.
///
/// Invariants: the sum of (`rdy` − in flight, where positive) is at most what `max_in_flight` leaves free; paused or
/// stopped, every RDY is 0; no RDY is above its connection's maximum.
#[derive(Debug)]
pub struct Flow {
    max_in_flight: u32,
    connections: BTreeMap<ConnectionId, ConnectionFlow>,
    backoff_state: BackoffState,
    failures: u32,
    backoff: Option<Backoff>,
    /// The connection that is served first where there is not enough for all.
    turn: ConnectionId,
    /// When the turn passes on; `None` while there is enough for all.
    turn_ends: Option<Instant>,
    /// Turns that ended without a message, since the last message.
    empty_turns: usize,
    changed: Vec<ConnectionId>,
}

impl Flow {
    /// A flow without connections; `rng` decides the backoff's jitter.
    pub fn new(config: &FlowConfig, rng: fastrand::Rng) -> Self {
        let first = config.first_backoff.min(config.max_backoff);
        Self {
            max_in_flight: config.max_in_flight,
            connections: BTreeMap::new(),
            backoff_state: BackoffState::Open,
            failures: 0,
            backoff: (!first.is_zero()).then(|| Backoff::new(first, config.max_backoff, rng)),
            turn: ConnectionId(0),
            turn_ends: None,
            empty_turns: 0,
            changed: Vec::new(),
        }
    }

    /// A connection is subscribed: it takes RDY up to `max_rdy`, and answers within `round_trip`.
    pub fn joined(&mut self, id: ConnectionId, max_rdy: u32, round_trip: Duration, now: Instant) {
        self.connections.insert(id, ConnectionFlow::new(max_rdy, round_trip));
        self.share(now);
    }

    /// A connection ended, and what was in flight on it with it.
    pub fn left(&mut self, id: ConnectionId, now: Instant) {
        self.connections.remove(&id);
        self.share(now);
    }

    /// Messages arrived.
    pub fn received(&mut self, id: ConnectionId, count: u32, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.received(count, now);
            self.empty_turns = 0;
            if self.turn_ends.is_some() {
                self.pass_turn(now);
            }
        }
        self.share(now);
    }

    /// Messages were answered: `done` well, `failed` to be tried again, `released` without having been tried.
    pub fn answered(&mut self, id: ConnectionId, done: u32, failed: u32, released: u32, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.in_flight = connection.in_flight.saturating_sub(done + failed + released);
        }
        self.update_backoff(done, failed, now);
        self.share(now);
    }

    /// Changes how many messages may be in flight on all connections together.
    pub fn set_max_in_flight(&mut self, max_in_flight: u32, now: Instant) {
        self.max_in_flight = max_in_flight;
        self.share(now);
    }

    /// Takes no more messages, for good.
    pub fn stop(&mut self, now: Instant) {
        self.backoff_state = BackoffState::Stopped;
        self.share(now);
    }

    /// Lets pass what is due; to be called at [`due`](Self::due), harmless at any other time.
    pub fn tick(&mut self, now: Instant) {
        if matches!(self.backoff_state, BackoffState::Paused(until) if until <= now) {
            self.backoff_state = BackoffState::Probing;
        }
        for connection in self.connections.values_mut() {
            connection.tick(now);
        }
        if self.turn_ends.is_some_and(|end| end <= now) {
            self.empty_turns = self.empty_turns.saturating_add(1);
            self.pass_turn(now);
        }
        self.share(now);
    }

    /// When [`tick`](Self::tick) is wanted next.
    pub fn due(&self) -> Option<Instant> {
        let pause = match self.backoff_state {
            BackoffState::Paused(until) => Some(until),
            BackoffState::Open | BackoffState::Probing | BackoffState::Stopped => None,
        };
        self.connections.values().filter_map(ConnectionFlow::due).chain(pause).chain(self.turn_ends).min()
    }

    /// The RDY that this connection should have.
    pub fn rdy(&self, id: ConnectionId) -> u32 {
        self.connections.get(&id).map_or(0, |connection| connection.rdy)
    }

    /// The connections whose RDY has changed since this was asked last.
    pub fn take_changed(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.changed)
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Messages in flight on all connections.
    pub fn in_flight(&self) -> u32 {
        self.connections.values().map(|connection| connection.in_flight).sum()
    }

    /// True while nothing or just one message is taken because handlers failed.
    pub fn is_backing_off(&self) -> bool {
        matches!(self.backoff_state, BackoffState::Paused(_) | BackoffState::Probing)
    }

    /// For how long nothing more is taken because handlers failed; `None` if that is not so.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        match self.backoff_state {
            BackoffState::Paused(until) => Some(until.saturating_duration_since(now)),
            BackoffState::Open | BackoffState::Probing | BackoffState::Stopped => None,
        }
    }

    /// True while nothing is taken because handlers failed.
    pub fn is_paused(&self) -> bool {
        matches!(self.backoff_state, BackoffState::Paused(_))
    }

    /// Opens, pauses or probes, by what became of the last messages.
    fn update_backoff(&mut self, done: u32, failed: u32, now: Instant) {
        let Some(backoff) = &mut self.backoff else { return };
        if done > 0 {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(failed);
        let fails = match self.backoff_state {
            BackoffState::Open => self.failures >= BACKOFF_AFTER,
            BackoffState::Probing => failed > 0,
            BackoffState::Paused(_) | BackoffState::Stopped => return,
        };
        if fails {
            self.backoff_state = BackoffState::Paused(now + backoff.next().unwrap_or_default());
        } else if done > 0 {
            self.backoff_state = BackoffState::Open;
            backoff.reset();
        }
    }

    /// Shares the free room out: one to each connection, in turn, then the rest among those that want more.
    fn share(&mut self, now: Instant) {
        let most = match self.backoff_state {
            BackoffState::Open => self.max_in_flight,
            BackoffState::Probing => self.max_in_flight.min(1),
            BackoffState::Paused(_) | BackoffState::Stopped => 0,
        };
        let mut free = most.saturating_sub(self.in_flight());
        let mut grants: Vec<(ConnectionId, u32, u32)> = Vec::with_capacity(self.connections.len());
        let turn = self.turn;
        for (id, connection) in self.connections.range(turn..).chain(self.connections.range(..turn)) {
            let (want, one) = (connection.want(), connection.want().min(1).min(free));
            free -= one;
            grants.push((*id, one, want - one));
        }
        let starved = grants.iter().any(|(_, granted, more)| *granted == 0 && *more > 0);
        if free > 0 {
            grants.sort_by_key(|(_, _, more)| *more);
            let mut left = grants.len() as u32;
            for (_, granted, more) in &mut grants {
                let extra = (*more).min(free.div_ceil(left));
                *granted += extra;
                free -= extra;
                left -= 1;
            }
        }
        for (id, granted, _) in grants {
            let connection = self.connections.get_mut(&id).expect("the grants were made from the connections");
            if connection.grant(granted, most == 0, now) {
                self.changed.push(id);
            }
        }
        self.turn_ends = (starved && most > 0).then(|| self.turn_ends.unwrap_or(now + self.turn_length()));
    }

    fn pass_turn(&mut self, now: Instant) {
        let after = ConnectionId(self.turn.0 + 1);
        let next = self.connections.range(after..).next().or_else(|| self.connections.iter().next());
        self.turn = next.map_or(after, |(id, _)| *id);
        self.turn_ends = Some(now + self.turn_length());
    }

    /// While one of them has messages, those that have none are only asked: an answer's time is enough for that.
    fn turn_length(&self) -> Duration {
        match self.connections.get(&self.turn) {
            Some(connection) if self.empty_turns < self.connections.len() => connection.patience().min(TURN),
            Some(_) | None => TURN,
        }
    }
}

//! RDY for each connection: how many messages it may have in flight. Pure: time comes in as an
//! argument.
//!
//! **RDY follows the traffic.** nsqd holds a message back, for up to 250 ms, while its client is
//! ready for more. So a quiet connection gets room for one message beyond those in flight: nsqd
//! then sends each message at once. While messages arrive back to back, the room grows with them,
//! up to all there is; when they cease, it falls back to one, and that RDY makes nsqd send the
//! messages it holds back. Messages at a pace between the two are tested with room for two: they
//! may be published at that pace, or queued in nsqd, on the network, or on a machine that is busier
//! than when the client connected.
//!
//! ```text
//!  room:   1 ──back to back──▶ 2 ─▶ 4 ─▶ … ─▶ all that is free
//!          ▲                                   │
//!          └────── nothing for a moment ───────┘
//! ```
//!
//! **The room is shared.** Messages in flight and room together never exceed `max_in_flight`
//! (except for messages already sent when RDY was lowered). Every connection gets room for one
//! first, and busy connections share the rest. With less room than connections, they take turns.
//! Messages beyond an nsqd's RDY take no room from the others, and that nsqd gets none until
//! it has no more messages in flight than it was allowed.
//!
//! **Backoff.** When handlers fail one after the other, all connections pause, then one message is
//! tried: if it succeeds, all resume; if it fails, the next pause is longer.

mod connection_flow;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use self::connection_flow::ConnectionFlow;
use crate::backoff::Backoff;

/// The number of failures without a success after which the consumer backs off. A single failing
/// message stops nothing.
const BACKOFF_AFTER: u32 = 2;
/// The length of a connection's turn if there is less room than connections, and none of them has
/// had a message lately.
const TURN: Duration = Duration::from_millis(200);

/// The id of a connection within a [`Flow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The configuration of a [`Flow`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FlowConfig {
    /// The maximum of messages in flight on all connections together.
    pub max_in_flight: u32,
    /// The first pause after failures. Each further pause is twice as long.
    pub first_backoff: Duration,
    /// The longest pause; zero disables backoff.
    pub max_backoff: Duration,
}

impl FlowConfig {
    /// At most `max_in_flight` messages in flight, and no backoff.
    pub fn new(max_in_flight: u32) -> Self {
        Self { max_in_flight, first_backoff: Duration::ZERO, max_backoff: Duration::ZERO }
    }

    /// Sets the first and the longest pause after failures; a longest pause of zero disables
    /// backoff.
    #[must_use]
    pub fn with_backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_backoff, self.max_backoff) = (first, longest);
        self
    }
}

/// The state of the backoff.
#[derive(Debug)]
enum BackoffState {
    /// Handlers succeed.
    Open,
    /// Handlers fail: no messages are taken until this time.
    Paused(Instant),
    /// One message is taken to test the handlers.
    Probing,
    /// The consumer stops: no more messages are taken.
    Stopped,
}

/// The state of all connections' flow.
///
/// Invariants: the sum of (`rdy` − in flight, where positive) is at most what `max_in_flight`
/// leaves free; paused or stopped, every RDY is 0; no RDY is above its connection's maximum.
#[derive(Debug)]
pub struct Flow {
    max_in_flight: u32,
    connections: BTreeMap<ConnectionId, ConnectionFlow>,
    backoff_state: BackoffState,
    failures: u32,
    backoff: Option<Backoff>,
    /// The connection that is served first if there is not enough room for all.
    turn: ConnectionId,
    /// The end of the current turn; `None` while there is enough room for all.
    turn_ends: Option<Instant>,
    /// The number of turns that ended without a message since the last message.
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

    /// Adds a subscribed connection, which accepts RDY up to `max_rdy` and answers within
    /// `round_trip`.
    pub fn joined(&mut self, id: ConnectionId, max_rdy: u32, round_trip: Duration, now: Instant) {
        self.connections.insert(id, ConnectionFlow::new(max_rdy, round_trip));
        self.share(now);
    }

    /// Removes an ended connection together with its messages in flight.
    pub fn left(&mut self, id: ConnectionId, now: Instant) {
        self.connections.remove(&id);
        self.share(now);
    }

    /// Registers received messages.
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

    /// Registers answered messages: `done` successfully, `failed` to be retried, `released` without
    /// having been tried.
    pub fn answered(&mut self, id: ConnectionId, done: u32, failed: u32, released: u32, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.answered(done + failed + released);
        }
        self.update_backoff(done, failed, now);
        self.share(now);
    }

    /// Sets the maximum of messages in flight on all connections together.
    pub fn set_max_in_flight(&mut self, max_in_flight: u32, now: Instant) {
        self.max_in_flight = max_in_flight;
        self.share(now);
    }

    /// Stops the flow: no more messages are taken.
    pub fn stop(&mut self, now: Instant) {
        self.backoff_state = BackoffState::Stopped;
        self.share(now);
    }

    /// Handles what is due. Call it at [`due`](Self::due); any other time is harmless.
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

    /// The time of the next [`tick`](Self::tick).
    pub fn due(&self) -> Option<Instant> {
        let pause = match self.backoff_state {
            BackoffState::Paused(until) => Some(until),
            BackoffState::Open | BackoffState::Probing | BackoffState::Stopped => None,
        };
        self.connections.values().filter_map(ConnectionFlow::due).chain(pause).chain(self.turn_ends).min()
    }

    /// The RDY for this connection.
    pub fn rdy(&self, id: ConnectionId) -> u32 {
        self.connections.get(&id).map_or(0, |connection| connection.rdy)
    }

    /// The connections whose RDY has changed since the last call.
    pub fn take_changed(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.changed)
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The number of messages in flight on all connections.
    pub fn in_flight(&self) -> u32 {
        self.connections.values().map(|connection| connection.in_flight).sum()
    }

    /// True while at most one message is taken because handlers failed.
    pub fn is_backing_off(&self) -> bool {
        matches!(self.backoff_state, BackoffState::Paused(_) | BackoffState::Probing)
    }

    /// The rest of the backoff pause; `None` outside a pause.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        match self.backoff_state {
            BackoffState::Paused(until) => Some(until.saturating_duration_since(now)),
            BackoffState::Open | BackoffState::Probing | BackoffState::Stopped => None,
        }
    }

    /// True during a backoff pause.
    pub fn is_paused(&self) -> bool {
        matches!(self.backoff_state, BackoffState::Paused(_))
    }

    /// Opens, pauses or probes according to the last results.
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

    /// Shares the free room: one message for each connection, in turn, then the rest among those
    /// that want more.
    fn share(&mut self, now: Instant) {
        let most = match self.backoff_state {
            BackoffState::Open => self.max_in_flight,
            BackoffState::Probing => self.max_in_flight.min(1),
            BackoffState::Paused(_) | BackoffState::Stopped => 0,
        };
        let taken: u32 = self.connections.values().map(ConnectionFlow::takes).sum();
        let mut free = most.saturating_sub(taken);
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

    /// The length of a turn. While some connection has messages, an empty connection's turn lasts
    /// only as long as nsqd needs to answer.
    fn turn_length(&self) -> Duration {
        match self.connections.get(&self.turn) {
            Some(connection) if self.empty_turns < self.connections.len() => connection.patience().min(TURN),
            Some(_) | None => TURN,
        }
    }
}

//! One delivery of the token to this node: the heartbeats sent for it, and the claim's phase.

use std::collections::VecDeque;
use std::time::Duration;

use super::{LeaseToken, Role, Time};

/// The phase of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimPhase {
    /// Waits for one lease from `waits_since`, which is when its first heartbeat came back.
    Claiming { waits_since: Option<Time> },
    /// The last leader released the token: the first heartbeat from this number on that comes back
    /// ends the wait.
    Inheriting { from: u64 },
    /// Generates.
    Leading { epoch: u64 },
}

/// Whether a claim has heard of another token. Heartbeats can be forged, so nsqd is asked for the
/// number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rival {
    /// No heartbeat of another token was received.
    NotHeard,
    /// A heartbeat of another token was received. The wait does not end before the tokens are
    /// counted.
    Heard,
    /// nsqd has only this token: heartbeats of other tokens are ignored.
    Refuted,
}

/// A heartbeat that this node sent.
#[derive(Debug)]
struct SentHeartbeat {
    number: u64,
    at: Time,
    confirmed: bool,
    /// When nsqd accepted it, by nsqd's clock; `None` before it came back.
    published: Option<u64>,
}

/// One delivery of the token, in flight to this node.
#[derive(Debug)]
pub(super) struct TokenClaim {
    pub(super) token: LeaseToken,
    pub(super) phase: ClaimPhase,
    /// When the token was delivered.
    pub(super) delivered_at: Time,
    /// When the last confirmed heartbeat was sent; before the first, when the token was delivered.
    pub(super) confirmed_at: Time,
    /// When the next heartbeat is due.
    pub(super) due: Time,
    /// The number of this claim's first heartbeat.
    pub(super) first_beat: u64,
    /// Whether another token was heard of.
    pub(super) rival: Rival,
    /// When to count the tokens, if a rival was heard.
    pub(super) count_due: Time,
    /// Set if the token is new: when it was published, by nsqd's clock, and since when no other
    /// node's heartbeat was received.
    fresh: Option<(u64, Time)>,
    /// The delivery's epoch, if the store counts them.
    pub(super) epoch: Option<u64>,
    /// The heartbeats sent within the last lease.
    sent: VecDeque<SentHeartbeat>,
}

impl TokenClaim {
    pub(super) fn new(token: LeaseToken, phase: ClaimPhase, first_beat: u64, now: Time) -> Self {
        Self {
            token,
            phase,
            delivered_at: now,
            confirmed_at: now,
            due: now,
            first_beat,
            rival: Rival::NotHeard,
            count_due: now,
            fresh: None,
            epoch: None,
            sent: VecDeque::new(),
        }
    }

    /// Marks the token as new: no node leads by it, and a leader by another token would have been
    /// heard in the lease before.
    pub(super) fn with_new_token(self, published: u64, alone_since: Time) -> Self {
        Self { fresh: Some((published, alone_since)), ..self }
    }

    pub(super) fn leads(&self) -> bool {
        matches!(self.phase, ClaimPhase::Leading { .. })
    }

    /// Returns the role to send in the next heartbeat. A claim whose wait is over leads as soon as
    /// this heartbeat comes back, so it says so already.
    pub(super) fn role(&self, lease: Duration, now: Time) -> Role {
        match self.phase {
            ClaimPhase::Claiming { waits_since: Some(waits_since) } if now >= waits_since + lease => Role::Leading,
            ClaimPhase::Claiming { .. } => Role::Claiming,
            ClaimPhase::Inheriting { .. } | ClaimPhase::Leading { .. } => Role::Leading,
        }
    }

    /// Records a heartbeat and schedules the next one. The one that may end the wait is sent as
    /// early as possible.
    pub(super) fn heartbeat_sent(&mut self, number: u64, now: Time, interval: Duration, lease: Duration) {
        // heartbeats older than a lease prove nothing any more
        self.sent.retain(|sent| sent.at + lease > now);
        self.sent.push_back(SentHeartbeat { number, at: now, confirmed: false, published: None });
        let ends = match self.phase {
            ClaimPhase::Claiming { waits_since } => {
                waits_since.map(|waits_since| waits_since + lease).filter(|ends| *ends > now)
            }
            ClaimPhase::Inheriting { .. } | ClaimPhase::Leading { .. } => None,
        };
        self.due = ends.map_or(now + interval, |ends| ends.min(now + interval));
    }

    /// Records nsqd's OK for a heartbeat, which proves the TOUCH before it.
    pub(super) fn confirm(&mut self, number: u64) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.number == number) {
            sent.confirmed = true;
            self.confirmed_at = self.confirmed_at.max(sent.at);
        }
    }

    /// Records that a heartbeat of this claim came back.
    pub(super) fn own_heartbeat_received(&mut self, number: u64, published: u64, lease: Duration, now: Time) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.number == number) {
            sent.published.get_or_insert(published);
            if let ClaimPhase::Claiming { waits_since: waits_since @ None } = &mut self.phase {
                // nsqd counts deliveries with 16 bits, so a "first" delivery of an old token is not
                // the first
                let is_new =
                    |token_published: u64| u128::from(published.abs_diff(token_published)) < 2 * lease.as_millis();
                let from = self
                    .fresh
                    .take()
                    .filter(|(token_published, _)| is_new(*token_published))
                    .map_or(now, |(_, since)| since);
                *waits_since = Some(from);
                self.due = self.due.min((from + lease).max(now));
            }
        }
    }

    /// Records that nsqd has no other token, and restarts the wait: a token that is gone may have
    /// had a leader until now.
    pub(super) fn refute_rival(&mut self, now: Time) {
        if let ClaimPhase::Claiming { waits_since } = &mut self.phase {
            (*waits_since, self.fresh, self.rival) = (Some(now), None, Rival::Refuted);
        }
    }

    /// Restarts the wait at the next heartbeat, because heartbeats may have been missed. A leader
    /// does not wait.
    pub(super) fn restart_wait(&mut self) {
        match self.phase {
            ClaimPhase::Claiming { .. } | ClaimPhase::Inheriting { .. } => {
                (self.phase, self.fresh, self.rival) =
                    (ClaimPhase::Claiming { waits_since: None }, None, Rival::NotHeard);
                self.sent.iter_mut().for_each(|sent| sent.published = None);
            }
            ClaimPhase::Leading { .. } => {}
        }
    }

    /// Returns when nsqd accepted the heartbeat that ends the wait, if there is one.
    pub(super) fn wait_ended_at(&self, lease: Duration) -> Option<u64> {
        if self.rival == Rival::Heard {
            return None;
        }
        let ends = |sent: &&SentHeartbeat| match self.phase {
            ClaimPhase::Claiming { waits_since } => {
                waits_since.is_some_and(|waits_since| sent.at >= waits_since + lease)
            }
            ClaimPhase::Inheriting { from } => sent.number >= from,
            ClaimPhase::Leading { .. } => false,
        };
        self.sent.iter().filter(|sent| sent.confirmed).filter(ends).find_map(|sent| sent.published)
    }
}

//! The heartbeats received from all nodes: when the last one came, and whether a release can be
//! trusted. Anybody may publish heartbeats.

use std::time::Duration;

use super::seal::seal_of;
use super::{HEARTBEATS_PER_LEASE, Heartbeat, LeaseToken, MAX_CLAIM_LEASES, Role, Time};
use mqueue::proto::MessageId;

/// The state derived from received heartbeats.
#[derive(Debug)]
pub(super) struct HeartbeatMonitor {
    /// When the last heartbeat came, tokens were counted, or the subscription began.
    pub(super) quiet_since: Time,
    /// How long no heartbeat must come before this node counts the tokens: random, so that the
    /// nodes do not count at the same time.
    pub(super) quiet_time: Duration,
    /// When tokens were counted last, or the subscription began. Tokens are counted at times even
    /// while heartbeats never stop.
    pub(super) counted_at: Time,
    /// When another node's heartbeat came last, or the subscription began.
    pub(super) alone_since: Time,
    /// The token of the last heartbeats, and how many in a row were of it.
    run: Option<(MessageId, u32)>,
    /// The holder that sent the last heartbeats.
    holder: Option<TokenHolder>,
    /// The token of the last heartbeat, if that was a release that lets the next holder lead at
    /// once.
    pub(super) released: Option<LeaseToken>,
}

/// The holder that sent the last heartbeats in a row, identified by its seal.
#[derive(Debug)]
struct TokenHolder {
    token: LeaseToken,
    seal: String,
    /// Since when all heartbeats were of this holder.
    since: Time,
}

impl HeartbeatMonitor {
    pub(super) fn new(now: Time, quiet_time: Duration) -> Self {
        Self {
            quiet_since: now,
            quiet_time,
            counted_at: now,
            alone_since: now,
            run: None,
            holder: None,
            released: None,
        }
    }

    /// Records a heartbeat of this token. A release is accepted under two conditions. All
    /// heartbeats before it were of its token: a delayed release may arrive after others have led.
    /// And for a whole lease they were of the one holder that has the seal's key: another leader
    /// would have been heard.
    pub(super) fn observe(&mut self, beat: &Heartbeat, token: LeaseToken, is_own: bool, lease: Duration, now: Time) {
        let before = self.run.filter(|(last, _)| *last == token.id).map_or(0, |(_, count)| count);
        self.run = Some((token.id, before.saturating_add(1)));
        self.quiet_since = now;
        if !is_own {
            self.alone_since = now;
        }
        let holder = self.holder.take().filter(|holder| holder.token == token);
        let released = beat.role == Role::Released && before >= 2 * HEARTBEATS_PER_LEASE;
        let has_key = |holder: &TokenHolder| now >= holder.since + lease && holder.seal == seal_of(&beat.seal);
        self.released = (released && holder.as_ref().is_some_and(has_key)).then_some(token);
        self.holder = match beat.role {
            Role::Released => holder,
            Role::Claiming | Role::Leading => holder
                .filter(|holder| holder.seal == beat.seal)
                .or_else(|| Some(TokenHolder { token, seal: beat.seal.clone(), since: now })),
        };
    }

    /// Returns true if no heartbeat came for long enough to count the tokens.
    pub(super) fn is_quiet(&self, now: Time) -> bool {
        now >= self.quiet_since + self.quiet_time
    }

    /// Returns when to count the tokens, if this node has none. Heartbeats defer the count, but not
    /// for ever.
    pub(super) fn count_due(&self, lease: Duration) -> Time {
        (self.quiet_since + self.quiet_time).min(self.counted_at + MAX_CLAIM_LEASES * lease)
    }
}

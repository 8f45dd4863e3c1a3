//! The lease: decides from events which node may generate. Pure: no clock, no I/O.
//!
//! ```text
//!                  token delivered             a lease waited out, alone
//!  Without a token ───────────▶ Claiming ─────────────────────────────────▶ Leading
//!     ▲  ▲                         │  └─ its last leader released it ─▶ Inheriting ─┘ │
//!     │  └─ nsqd has two tokens ───┘                                                 │
//!     └── released (half of max-msg-timeout, or shutdown) │ not confirmed in time ────┘
//! ```
//!
//! One message, the token, is in a channel. The node that has it in flight may lead. Each
//! *heartbeat* is a TOUCH of the token and a message to all nodes on the same connection: nsqd's OK
//! for the message proves the TOUCH before it. Why two nodes never lead at the same time:
//!
//! - **One token.** A leader counts its lease from when it *sent* its last confirmed heartbeat,
//!   less a margin. A later holder got the token after that heartbeat, and waits a whole lease from
//!   its own first heartbeat on.
//! - **Two tokens** (NSQ offers no way to create exactly one: two nodes may publish one each). nsqd
//!   delivers the heartbeats to all nodes in one order. A claimant leads only if it received all
//!   heartbeats for a lease, up to one of its own that says that it leads, and none of them was of
//!   another leader or of an older token. A leader sends more than one heartbeat per lease. So of
//!   two claimants, the one whose last heartbeat comes later has received the other's. It asks nsqd
//!   for the number of tokens. One: the other token is gone, and after a lease the lead of its
//!   holder, too; a token published later has a claimant that receives this node's heartbeats. Two:
//!   the node requeues its own token, until one node has both and finishes one.
//! - **A new token** has had no holder before. So the lease in which all heartbeats were received
//!   may begin before the token was delivered.
//! - **A release** replaces the wait under three conditions. The token's very next delivery sees
//!   the release. No heartbeat of another token comes between the release and the delivery's first
//!   heartbeat. All heartbeats of the last lease had the seal that the release has the key to:
//!   another leader would have been heard.
//!
//! Anybody can forge heartbeats. So no heartbeat ends a lead or finishes a token. A heartbeat can
//! only make a node wait, and nsqd's count of tokens ends that wait.
//!
//! A gap in the heartbeats (a lost connection) restarts the wait.

mod claim;
mod decide;
mod heartbeat;
#[cfg(test)]
mod model;
mod monitor;
mod seal;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(super) use self::decide::Lease;
pub(super) use self::heartbeat::{FleetConfig, Heartbeat, LeaseToken, Role};
pub(super) use self::seal::NodeSecret;

/// A point in time: the time since a fixed start, by a clock that is never set.
pub(super) type Time = Duration;

/// The part of the lease left unused, for clocks of different speeds: one in this many.
const MARGIN_DIVISOR: u32 = 8;
/// Heartbeats per lease.
const HEARTBEATS_PER_LEASE: u32 = 4;
/// Epochs from here on are ignored as forged: neither a clock in milliseconds nor a count reaches
/// them.
const EPOCH_LIMIT: u64 = 1 << 53;
/// How far an epoch may be ahead of nsqd's clock, in milliseconds: an hour, for clocks that were
/// set back.
const MAX_EPOCH_AHEAD_MS: u64 = 3_600_000;
/// The longest time for a claim, in leases. Then another node gets the token.
const MAX_CLAIM_LEASES: u32 = 5;

/// An event that the lease reacts to.
#[derive(Debug, Clone)]
pub(super) enum LeaseEvent {
    /// The connection for the token is up, with the longest time that a message may be in flight on
    /// it.
    Connected { max_msg_timeout: Duration },
    /// The connection for the token is lost, and so is the token, if this node held it.
    Disconnected,
    /// The subscription to heartbeats is up: every heartbeat published from now on is received.
    MonitorReady,
    /// The subscription to heartbeats is lost.
    MonitorLost,
    /// The token was delivered; it was published at this time of nsqd's clock (milliseconds since
    /// 1970). A store that counts the deliveries of its token gives each an epoch.
    TokenDelivered { token: LeaseToken, published: u64, fleet: FleetConfig, epoch: Option<u64> },
    /// A heartbeat was received; it was published at this time of nsqd's clock (milliseconds since
    /// 1970).
    HeartbeatReceived { beat: Heartbeat, published: u64 },
    /// nsqd accepted this node's heartbeat of this number, and no TOUCH failed before.
    HeartbeatConfirmed { number: u64 },
    /// A TOUCH failed.
    TouchFailed,
    /// nsqd refused an event, because this later epoch has begun.
    Fenced { epoch: u64 },
    /// The number of tokens in the channel, in flight or not; `None` if it is unknown.
    TokensCounted(Option<u64>),
    /// Only time has passed.
    Tick,
    /// This node shuts down.
    Stop,
}

/// An action to take. Actions are taken in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LeaseAction {
    /// Accept a delivery of the token, or none.
    Ready(bool),
    /// TOUCH this token, if given, and publish the heartbeat, on one connection.
    Heartbeat { beat: Heartbeat, touch: Option<LeaseToken> },
    /// FIN: this node has another token, or no fleet uses this one.
    Finish(LeaseToken),
    /// REQ 0.
    Requeue(LeaseToken),
    /// REQ with a delay of a part of a lease: the token belongs to another fleet.
    Defer(LeaseToken),
    /// Count the tokens in the channel.
    CountTokens,
    /// Publish a token, because there is none.
    PublishToken,
    /// Replace the connection for the token.
    Reconnect,
    /// Replace the subscription to heartbeats.
    ReconnectMonitor,
    /// Warn about nodes with other settings on the same token stream.
    WarnSettingsDiffer(FleetConfig),
}

/// The settings of one node's lease.
#[derive(Debug, Clone)]
pub(super) struct LeaseConfig {
    /// A name that no other run of any node has.
    pub(super) node: String,
    pub(super) fleet: FleetConfig,
    pub(super) secret: NodeSecret,
}

impl LeaseConfig {
    fn lease(&self) -> Duration {
        Duration::from_millis(self.fleet.lease_ms)
    }

    /// How long a confirmed heartbeat lets this node lead, from when it was sent.
    fn lead(&self) -> Duration {
        self.lease() - self.lease() / MARGIN_DIVISOR
    }
}

/// Returns true if an epoch is plausible in a message published at this time of nsqd's clock
/// (milliseconds since 1970). Anybody can publish one, and no epoch is ever taken back.
pub(super) fn is_plausible(epoch: u64, published: u64) -> bool {
    epoch < EPOCH_LIMIT && epoch <= published.saturating_add(MAX_EPOCH_AHEAD_MS)
}

//! Who may generate: what is to be done about the token, decided from what happened. Pure: no clock, no I/O.
//!
//! ```text
//!                  token taken                 a lease waited out, alone
//!  Without a token ───────────▶ Claiming ─────────────────────────────────▶ Leading
//!     ▲  ▲                         │  └─ its last leader released it ─▶ Inheriting ─┘ │
//!     │  └─ nsqd has two tokens ───┘                                                 │
//!     └── released (half of max-msg-timeout, or the end) │ not proven in time ───────┘
//! ```
//!
//! One message, the token, is in a channel, and who has it in flight may lead. Each *beat* is a TOUCH of the token and a message to all
//! nodes on the same connection: nsqd's OK for the message proves the TOUCH before it. Why never two lead:
//!
//! - **One token.** A leader counts its lease from when it *sent* the last beat that was proven, less a margin. A later holder had the token
//!   after that beat, and waits a whole lease from its own first beat on.
//! - **Two tokens** (nobody can make exactly one with NSQ: two nodes may publish one each). nsqd hands the beats to all nodes in one order. A
//!   claimant leads only if it has heard all beats for a lease up to one of its own that says that it leads, and among them no leader's and none of
//!   an older token. A leader beats more often than once a lease, so of two claimants the one whose last beat comes later has heard the other.
//!   It asks nsqd for the number of tokens. One: the other is gone, and after a lease its lead, too; a token that is made later has a
//!   claimant that hears this one. Two: it gives its own away, until one node has both and finishes one.
//! - **A new token** has had no holder before, so the lease in which all beats were heard may begin before it was taken.
//! - **A release** takes the place of the wait if the token's very next delivery sees it, and nothing of another token between it and the first
//!   beat after it, and if all beats of the last lease had the seal that it has the key to: another who leads would have been heard.
//!
//! Beats can be made up by anybody. So none of them ends a lead or finishes a token; they make a node wait, and what ends that wait is nsqd's count.
//!
//! What breaks the chain of beats (a connection lost) begins the wait anew.

mod beat;
mod decide;
mod ears;
mod hold;
#[cfg(test)]
mod model;
mod seal;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(super) use self::beat::{Beat, Charter, Role, Token};
pub(super) use self::decide::Lease;
pub(super) use self::seal::Secret;

/// A point in time: how long after some start, by a clock that is never set.
pub(super) type Time = Duration;

/// What part of the lease is left unused, for clocks that do not run at the same pace.
const MARGIN: u32 = 8;
/// Beats in a lease.
const BEATS: u32 = 4;
/// Epochs beyond this one are nonsense: neither a clock in milliseconds nor a count comes there.
const EPOCHS: u64 = 1 << 53;
/// How far an epoch may be ahead of nsqd's clock, in milliseconds: an hour, for clocks that were set back.
const EPOCHS_AHEAD: u64 = 3_600_000;
/// For how many leases a claim may last before somebody else is to try.
const PATIENCE: u32 = 5;

/// What happened.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// The connection for the token stands; a message may be in flight on it for so long.
    Connected { max_hold: Duration },
    /// It was lost, and with it the token, if it was held.
    Disconnected,
    /// Every beat that is published from now on is heard.
    Listening,
    /// No longer.
    Deaf,
    /// The token was delivered; nsqd took it when it was published, at this time (milliseconds since 1970).
    Taken { token: Token, published: u64, charter: Charter },
    /// A beat was heard, which nsqd took at this time (milliseconds since 1970).
    Heard { beat: Beat, published: u64 },
    /// nsqd took this node's beat with this number, and no TOUCH failed before.
    Proven { number: u64 },
    /// A TOUCH failed.
    Lost,
    /// An event was refused, as this later epoch has begun.
    Fenced { epoch: u64 },
    /// So many tokens are in the channel, in flight or not; `None` if nobody can say.
    Counted(Option<u64>),
    /// Nothing: time passes.
    Tick,
    /// This node is to end.
    Stop,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Take the token if it is delivered, or do not.
    Ready(bool),
    /// TOUCH this token, if there is one, and publish the beat, on one connection.
    Beat { beat: Beat, touch: Option<Token> },
    /// FIN: this node has another token, or nobody wants this one.
    Finish(Token),
    /// REQ 0.
    GiveBack(Token),
    /// REQ, for a part of a lease: it is for others.
    PutOff(Token),
    /// Count the tokens in the channel.
    Count,
    /// Publish a token: there is none.
    Mint,
    /// Connect anew for the token.
    Reconnect,
    /// Listen anew.
    Relisten,
    /// Warn: others here have agreed on something else.
    Differs(Charter),
}

/// Who this node is, and what its fleet has agreed on.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// A name that no other run of any node has.
    pub(super) node: String,
    pub(super) charter: Charter,
    pub(super) secret: Secret,
}

impl Config {
    fn lease(&self) -> Duration {
        Duration::from_millis(self.charter.lease_ms)
    }

    /// How long a beat that is proven lets this node lead, from when it was sent.
    fn lead(&self) -> Duration {
        self.lease() - self.lease() / MARGIN
    }
}

/// Whether an epoch can be, in what nsqd took at this time (milliseconds since 1970). Anybody can publish one, and no epoch is taken back.
pub(super) fn is_plausible(epoch: u64, published: u64) -> bool {
    epoch < EPOCHS && epoch <= published.saturating_add(EPOCHS_AHEAD)
}

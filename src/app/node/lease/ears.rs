//! What this node hears: when a holder was heard last, and whether a release can be relied on.

use std::time::Duration;

use super::{BEATS, Role, Time, Token};

/// What is known from listening.
#[derive(Debug)]
pub(super) struct Ears {
    /// When a holder was heard, a token was counted, or listening began.
    pub(super) quiet_since: Time,
    /// For how long it has to be quiet before tokens are counted: not the same on all nodes.
    pub(super) patience: Duration,
    pub(super) counting: bool,
    /// The token of the last beats, and how many in a row were of it.
    pub(super) run: Option<(Token, u32)>,
    /// The last beat, if it was a release that lets the next holder lead at once.
    pub(super) released: Option<Token>,
}

impl Ears {
    pub(super) fn new(now: Time, patience: Duration) -> Self {
        Self { quiet_since: now, patience, counting: false, run: None, released: None }
    }

    /// A beat of this token was heard. A release counts if all beats around it were of its token: a beat that was long on its way may
    /// come after others have led.
    pub(super) fn heard(&mut self, token: Token, role: Role, now: Time) {
        let before = self.run.filter(|(last, _)| last.id == token.id).map_or(0, |(_, count)| count);
        self.run = Some((token, before.saturating_add(1)));
        self.quiet_since = now;
        self.released = (role == Role::Released && before >= 2 * BEATS).then_some(token);
    }
}

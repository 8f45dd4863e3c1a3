//! What this node hears: when a holder was heard last, and whether a release can be relied on. Anybody may publish what is heard here.

use std::time::Duration;

use super::seal::seal_of;
use super::{BEATS, Beat, PATIENCE, Role, Time, Token};
use mqueue::proto::MessageId;

/// What is known from listening.
#[derive(Debug)]
pub(super) struct Ears {
    /// When a holder was heard, a token was counted, or listening began.
    pub(super) quiet_since: Time,
    /// For how long it has to be quiet before tokens are counted: not the same on all nodes.
    pub(super) patience: Duration,
    /// When tokens were counted last, or listening began: they are counted at times also where it is never quiet.
    pub(super) counted: Time,
    /// When another node's beat was heard, or listening began.
    pub(super) alone_since: Time,
    /// The token of the last beats, and how many in a row were of it.
    run: Option<(MessageId, u32)>,
    /// The holder of the last beats.
    holder: Option<Holder>,
    /// The last beat, if it was a release that lets the next holder lead at once.
    pub(super) released: Option<Token>,
}

/// Who the last beats in a row are of, by what it alone can release.
#[derive(Debug)]
struct Holder {
    token: Token,
    seal: String,
    /// Since when no other beat was heard.
    since: Time,
}

impl Ears {
    pub(super) fn new(now: Time, patience: Duration) -> Self {
        Self { quiet_since: now, patience, counted: now, alone_since: now, run: None, holder: None, released: None }
    }

    /// A beat of this token was heard. A release counts if all beats around it were of its token, as a beat that was long on its way may come
    /// after others have led, and if for a whole lease they were of the one holder who has its key: another who leads would have been heard.
    pub(super) fn heard(&mut self, beat: &Beat, token: Token, is_own: bool, lease: Duration, now: Time) {
        let before = self.run.filter(|(last, _)| *last == token.id).map_or(0, |(_, count)| count);
        self.run = Some((token.id, before.saturating_add(1)));
        self.quiet_since = now;
        if !is_own {
            self.alone_since = now;
        }
        let holder = self.holder.take().filter(|holder| holder.token == token);
        let released = beat.role == Role::Released && before >= 2 * BEATS;
        let has_key = |holder: &Holder| now >= holder.since + lease && holder.seal == seal_of(&beat.seal);
        self.released = (released && holder.as_ref().is_some_and(has_key)).then_some(token);
        self.holder = match beat.role {
            Role::Released => holder,
            Role::Claiming | Role::Leading => holder
                .filter(|holder| holder.seal == beat.seal)
                .or_else(|| Some(Holder { token, seal: beat.seal.clone(), since: now })),
        };
    }

    /// For how long it was quiet enough to count, now.
    pub(super) fn is_quiet(&self, now: Time) -> bool {
        now >= self.quiet_since + self.patience
    }

    /// When tokens are to be counted, if this node has none. What is heard puts it off, but not for ever.
    pub(super) fn count_due(&self, lease: Duration) -> Time {
        (self.quiet_since + self.patience).min(self.counted + PATIENCE * lease)
    }
}

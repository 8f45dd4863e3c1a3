//! The token in this node's hands: which beats are on their way, and how far the claim has come.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Role, Time, Token};

/// How far a holder has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits a lease out, from when its first beat came back.
    Claiming { opened: Option<Time> },
    /// Its last leader has released it: the first beat from this number on that comes back ends the wait.
    Inheriting { from: u64 },
    /// Generates.
    Leading { epoch: u64 },
}

/// What a claim knows of other tokens. Beats can be made up, so nsqd is asked how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rival {
    /// None was heard.
    No,
    /// A beat of another token was heard: before it is known how many there are, the wait does not end.
    Heard,
    /// nsqd has this token alone: what is heard counts for nothing.
    Refuted,
}

/// A beat that was sent.
#[derive(Debug)]
struct Sent {
    number: u64,
    at: Time,
    proven: bool,
    /// When nsqd took it, if it was heard.
    published: Option<u64>,
}

/// One delivery of the token, in flight to this node.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) token: Token,
    pub(super) phase: Phase,
    /// When it was taken.
    pub(super) taken: Time,
    /// When the last beat that is proven was sent; before, when the token was taken.
    pub(super) proven: Time,
    /// When the next beat is.
    pub(super) due: Time,
    /// The first beat of this hold.
    pub(super) first_beat: u64,
    /// Whether another token is about.
    pub(super) rival: Rival,
    /// When the tokens are to be counted, if a rival was heard.
    pub(super) count_due: Time,
    /// If nobody had the token before: when it was published, by nsqd's clock, and since when nobody else was heard.
    fresh: Option<(u64, Time)>,
    /// Not yet both proven and heard.
    sent: VecDeque<Sent>,
}

impl Hold {
    pub(super) fn new(token: Token, phase: Phase, first_beat: u64, now: Time) -> Self {
        Self {
            token,
            phase,
            taken: now,
            proven: now,
            due: now,
            first_beat,
            rival: Rival::No,
            count_due: now,
            fresh: None,
            sent: VecDeque::new(),
        }
    }

    /// A token that nobody had before: nobody leads by it, and who leads by another one would have been heard in the lease before.
    pub(super) fn fresh(self, published: u64, alone_since: Time) -> Self {
        Self { fresh: Some((published, alone_since)), ..self }
    }

    pub(super) fn leads(&self) -> bool {
        matches!(self.phase, Phase::Leading { .. })
    }

    /// A claim whose wait is over leads as soon as it hears this beat, so it says so already.
    pub(super) fn role(&self, lease: Duration, now: Time) -> Role {
        match self.phase {
            Phase::Claiming { opened: Some(opened) } if now >= opened + lease => Role::Leading,
            Phase::Claiming { .. } => Role::Claiming,
            Phase::Inheriting { .. } | Phase::Leading { .. } => Role::Leading,
        }
    }

    /// A beat goes out. The one that may end the wait is sent as soon as it can.
    pub(super) fn beaten(&mut self, number: u64, now: Time, interval: Duration, lease: Duration) {
        // what is older than a lease says nothing any more
        self.sent.retain(|sent| sent.at + lease > now);
        self.sent.push_back(Sent { number, at: now, proven: false, published: None });
        let ends = match self.phase {
            Phase::Claiming { opened } => opened.map(|opened| opened + lease).filter(|ends| *ends > now),
            Phase::Inheriting { .. } | Phase::Leading { .. } => None,
        };
        self.due = ends.map_or(now + interval, |ends| ends.min(now + interval));
    }

    /// nsqd took a beat, and touched the token before.
    pub(super) fn proves(&mut self, number: u64) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.number == number) {
            sent.proven = true;
            self.proven = self.proven.max(sent.at);
        }
    }

    /// A beat came back.
    pub(super) fn returned(&mut self, number: u64, published: u64, lease: Duration, now: Time) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.number == number) {
            sent.published.get_or_insert(published);
            if let Phase::Claiming { opened: opened @ None } = &mut self.phase {
                // deliveries are counted with 16 bits: a first one of long ago is none
                let is_new = |minted: u64| u128::from(published.abs_diff(minted)) < 2 * lease.as_millis();
                let from = self.fresh.take().filter(|(minted, _)| is_new(*minted)).map_or(now, |(_, since)| since);
                *opened = Some(from);
                self.due = self.due.min((from + lease).max(now));
            }
        }
    }

    /// nsqd has no other token. One that is gone may have had a leader until now.
    pub(super) fn is_alone(&mut self, now: Time) {
        if let Phase::Claiming { opened } = &mut self.phase {
            (*opened, self.fresh, self.rival) = (Some(now), None, Rival::Refuted);
        }
    }

    /// The chain of beats is broken: from its next beat on, the wait begins anew. A leader needs none.
    pub(super) fn start_over(&mut self) {
        match self.phase {
            Phase::Claiming { .. } | Phase::Inheriting { .. } => {
                (self.phase, self.fresh, self.rival) = (Phase::Claiming { opened: None }, None, Rival::No);
                self.sent.iter_mut().for_each(|sent| sent.published = None);
            }
            Phase::Leading { .. } => {}
        }
    }

    /// When the beat that ends the wait was taken, if there is one.
    pub(super) fn may_enter(&self, lease: Duration) -> Option<u64> {
        if self.rival == Rival::Heard {
            return None;
        }
        let ends = |sent: &&Sent| match self.phase {
            Phase::Claiming { opened } => opened.is_some_and(|opened| sent.at >= opened + lease),
            Phase::Inheriting { from } => sent.number >= from,
            Phase::Leading { .. } => false,
        };
        self.sent.iter().filter(|sent| sent.proven).filter(ends).find_map(|sent| sent.published)
    }
}

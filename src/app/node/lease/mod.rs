//! Who may generate: what is to be done about the token, decided from what happened. Pure: no clock, no I/O.
//!
//! ```text
//!                  token taken                 a lease waited out, alone
//!  Without a token ───────────▶ Claiming ─────────────────────────────────▶ Leading
//!     ▲  ▲                         │  └─ its last leader released it ─▶ Inheriting ─┘ │
//!     │  └── another token lives ──┴───────────────────────────────────────┘         │
//!     └── released (half of max-msg-timeout, or the end) │ not proven in time ───────┘
//! ```
//!
//! One message, the token, is in a channel, and who has it in flight may lead. Each *beat* is a TOUCH of the token and a message to all
//! nodes on the same connection: nsqd's OK for the message proves the TOUCH before it. Why never two lead:
//!
//! - **One token.** A leader counts its lease from when it *sent* the last beat that was proven, less a margin. A later holder had the token
//!   after that beat, and waits a whole lease from its own first beat on.
//! - **Two tokens** (nobody can make exactly one with NSQ: two nodes may publish one each). nsqd hands the beats to all nodes in one order. A
//!   claimant leads only if its first and its last beat, a lease apart, came back to it, and between them no leader's beat and no beat of an older
//!   token. A leader beats more often than once a lease, so of two claimants one has heard the other, and finishes its own token.
//! - **A release** takes the place of the wait if the token's very next delivery sees it, and nothing of another token between it and the first
//!   beat after it.
//!
//! What breaks the chain of beats (a connection lost) begins the wait anew.

mod beat;
mod hold;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(super) use self::beat::{Beat, Charter, Role, Token};
use self::hold::{Hold, Phase};

/// A point in time: how long after some start, by a clock that is never set.
pub(super) type Time = Duration;

/// What part of the lease is left unused, for clocks that do not run at the same pace.
const MARGIN: u32 = 8;
/// Beats in a lease.
const BEATS: u32 = 4;
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
    /// The token was delivered.
    Taken { token: Token, charter: Charter },
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
    /// FIN: there is another token.
    Finish(Token),
    /// REQ 0.
    GiveBack(Token),
    /// Count the tokens in the channel.
    Count,
    /// Publish a token: there is none.
    Mint,
    /// Connect anew for the token.
    Reconnect,
    /// Listen anew.
    Relisten,
    /// End: this token belongs to a fleet that has agreed on something else.
    Quit(Charter),
}

/// Who this node is, and what its fleet has agreed on.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// A name that no other run of any node has.
    pub(super) node: String,
    pub(super) charter: Charter,
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

/// What is known from listening.
#[derive(Debug)]
struct Ears {
    /// When a holder was heard, a token was counted, or listening began.
    quiet_since: Time,
    /// For how long it has to be quiet before tokens are counted: not the same on all nodes.
    patience: Duration,
    counting: bool,
    /// The token of the last beats, and how many in a row were of it.
    run: Option<(Token, u32)>,
    /// The last beat, if it was a release that lets the next holder lead at once.
    released: Option<Token>,
}

impl Ears {
    fn new(now: Time, patience: Duration) -> Self {
        Self { quiet_since: now, patience, counting: false, run: None, released: None }
    }

    /// A beat of this token was heard. A release counts if all beats around it were of its token: a beat that was long on its way may
    /// come after others have led.
    fn heard(&mut self, token: Token, role: Role, now: Time) {
        let before = self.run.filter(|(last, _)| last.id == token.id).map_or(0, |(_, count)| count);
        self.run = Some((token, before.saturating_add(1)));
        self.quiet_since = now;
        self.released = (role == Role::Released && before >= 2 * BEATS).then_some(token);
    }
}

/// What one node knows, and does, about the token.
///
/// Times go up. After each call [`due`](Self::due) says when the next one is to be made, if nothing happens until then.
#[derive(Debug)]
pub(super) struct Lease {
    config: Config,
    rng: fastrand::Rng,
    /// For how long a token may be held, if the connection for it stands.
    max_hold: Option<Duration>,
    ears: Option<Ears>,
    hold: Option<Hold>,
    beats: u64,
    /// The highest epoch that was heard of.
    known: u64,
    stopping: bool,
}

impl Lease {
    pub(super) fn new(config: Config, rng: fastrand::Rng) -> Self {
        Self { config, rng, max_hold: None, ears: None, hold: None, beats: 0, known: 0, stopping: false }
    }

    /// The epoch that this node may generate in, now; to be asked before each event.
    pub(super) fn leads(&self, now: Time) -> Option<u64> {
        let hold = self.hold.as_ref().filter(|hold| now < hold.proven + self.config.lead())?;
        match hold.phase {
            Phase::Leading { epoch } => Some(epoch),
            Phase::Claiming { .. } | Phase::Inheriting { .. } => None,
        }
    }

    /// An epoch was heard of elsewhere.
    pub(super) fn know(&mut self, epoch: u64) {
        self.known = self.known.max(epoch);
    }

    /// Says what is to be done.
    pub(super) fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        self.lapse(now, &mut actions);
        match event {
            Event::Connected { max_hold } => {
                self.max_hold = Some(max_hold);
                actions.push(Action::Ready(self.wants_token()));
            }
            Event::Disconnected => (self.max_hold, self.hold) = (None, None),
            Event::Listening => {
                self.ears = Some(Ears::new(now, self.patience()));
                actions.push(Action::Ready(self.wants_token()));
            }
            Event::Deaf => {
                self.ears = None;
                self.hold.iter_mut().for_each(Hold::start_over);
                actions.push(Action::Ready(false));
            }
            Event::Taken { token, charter } => self.taken(token, charter, now, &mut actions),
            Event::Heard { beat, published } => self.heard(&beat, published, now, &mut actions),
            Event::Proven { number } => {
                self.hold.iter_mut().for_each(|hold| hold.proves(number));
                self.enter();
            }
            Event::Lost => self.hold = None,
            Event::Fenced { epoch } => {
                self.know(epoch);
                // who comes next is to wait: something here is not as it seems
                actions.extend(self.hold.take().map(|hold| Action::GiveBack(hold.token)));
            }
            Event::Counted(count) => self.counted(count, now, &mut actions),
            Event::Tick => {}
            Event::Stop => {
                self.stopping = true;
                actions.push(Action::Ready(false));
                self.release(&mut actions);
            }
        }
        self.tick(now, &mut actions);
        actions
    }

    /// When something is to be done, if nothing happens.
    pub(super) fn due(&self) -> Option<Time> {
        let lapse = self.hold.as_ref().map(|hold| hold.proven + self.config.lead());
        let beat = self.hold.as_ref().map(|hold| hold.due);
        let quiet = self.ears.as_ref().filter(|ears| !ears.counting && self.is_without());
        let count = quiet.map(|ears| ears.quiet_since + ears.patience);
        [lapse, beat, self.ends(), count].into_iter().flatten().min()
    }

    /// Nothing was proven for so long that the token may be elsewhere.
    fn lapse(&mut self, now: Time, actions: &mut Vec<Action>) {
        let lead = self.config.lead();
        if self.hold.take_if(|hold| now >= hold.proven + lead).is_some() {
            actions.push(Action::Reconnect);
        }
    }

    fn taken(&mut self, token: Token, charter: Charter, now: Time, actions: &mut Vec<Action>) {
        if charter != self.config.charter {
            let stays = self.ours().is_some_and(|ours| ours.outranks(&token));
            match stays {
                true => actions.push(Action::Finish(token)),
                false => actions.extend([Action::GiveBack(token), Action::Quit(charter)]),
            }
            return;
        }
        if self.stopping {
            actions.push(Action::GiveBack(token));
            return;
        }
        if let Some(hold) = self.hold.as_ref().filter(|hold| hold.token.id != token.id) {
            // one too many, and both are here
            let keep = !matches!(hold.phase, Phase::Claiming { .. }) || hold.token.outranks(&token);
            if keep {
                actions.push(Action::Finish(token));
                return;
            }
            actions.push(Action::Finish(hold.token));
        }
        let released = self.ears.as_ref().and_then(|ears| ears.released);
        let phase = match released.is_some_and(|released| token.is_next_of(&released)) {
            true => Phase::Inheriting { from: self.beats },
            false => Phase::Claiming { opened: None },
        };
        self.hold = Some(Hold::new(token, phase, self.beats, now));
    }

    fn heard(&mut self, beat: &Beat, published: u64, now: Time, actions: &mut Vec<Action>) {
        let Some(token) = beat.token() else { return };
        if beat.charter != self.config.charter {
            return self.foreign(beat, token, actions);
        }
        self.know(beat.epoch);
        let own = beat.node == self.config.node;
        let current = own && self.hold.as_ref().is_some_and(|hold| beat.number >= hold.first_beat);
        self.ears.iter_mut().for_each(|ears| ears.heard(token, beat.role, now));
        if current {
            self.hold.iter_mut().for_each(|hold| hold.returned(beat.number, published, now));
            self.enter();
        } else if !own || beat.role == Role::Released {
            self.heard_other(beat.role, token, now, actions);
        }
    }

    /// What somebody else's beat, or this node's own release, means for the token that is held.
    fn heard_other(&mut self, role: Role, token: Token, now: Time, actions: &mut Vec<Action>) {
        let next_beat = self.beats;
        let released = self.ears.as_ref().and_then(|ears| ears.released);
        let Some(hold) = &mut self.hold else { return };
        if token.id == hold.token.id {
            if token.follows(&hold.token) {
                self.hold = None;
            } else if released == Some(token) && hold.token.is_next_of(&token) && !hold.leads() {
                hold.phase = Phase::Inheriting { from: next_beat };
                hold.due = now;
            }
            return;
        }
        if hold.leads() {
            return;
        }
        if role != Role::Claiming || token.outranks(&hold.token) {
            actions.push(Action::Finish(hold.token));
            self.hold = None;
        } else if matches!(hold.phase, Phase::Inheriting { .. }) {
            hold.start_over();
        }
    }

    /// Another fleet uses this token. One of the two has to go: the one with the younger token.
    fn foreign(&mut self, beat: &Beat, token: Token, actions: &mut Vec<Action>) {
        if self.ours().is_none_or(|ours| !ours.outranks(&token)) {
            actions.extend(self.hold.take().map(|hold| Action::Finish(hold.token)));
            actions.push(Action::Quit(beat.charter.clone()));
        }
    }

    /// The token of this fleet, if there is one that is known.
    fn ours(&self) -> Option<Token> {
        let heard = || self.ears.as_ref()?.run.map(|(token, _)| token);
        self.hold.as_ref().map(|hold| hold.token).or_else(heard)
    }

    /// Leads, if the wait is over.
    fn enter(&mut self) {
        let lease = self.config.lease();
        if let Some(hold) = &mut self.hold
            && let Some(published) = hold.may_enter(lease)
        {
            // by nsqd's clock, so that also who has never heard of the last epoch goes beyond it
            self.known = published.max(self.known + 1);
            hold.phase = Phase::Leading { epoch: self.known };
        }
    }

    fn counted(&mut self, count: Option<u64>, now: Time, actions: &mut Vec<Action>) {
        let (without, patience) = (self.is_without(), self.patience());
        let Some(ears) = self.ears.as_mut().filter(|ears| ears.counting) else { return };
        let quiet = now >= ears.quiet_since + ears.patience;
        (ears.counting, ears.quiet_since, ears.patience) = (false, now, patience);
        if without && quiet && count == Some(0) {
            actions.push(Action::Mint);
        }
    }

    /// Gives the token back, and says so if that lets the next one lead at once.
    fn release(&mut self, actions: &mut Vec<Action>) {
        let Some(hold) = self.hold.take() else { return };
        if hold.leads() {
            let beat = self.beat(hold.token, Role::Released);
            actions.push(Action::Beat { beat, touch: None });
        }
        actions.push(Action::GiveBack(hold.token));
    }

    fn tick(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.ends().is_some_and(|ends| now >= ends) {
            let stuck = self.hold.as_ref().is_some_and(|hold| !hold.leads()) && self.ears.is_some();
            self.release(actions);
            if stuck {
                // beats that do not come back: the subscription is not what it seems
                actions.push(Action::Relisten);
            }
        }
        if let Some(hold) = self.hold.as_ref().filter(|hold| now >= hold.due) {
            let (token, role) = (hold.token, hold.role());
            let beat = self.beat(token, role);
            let number = beat.number;
            actions.push(Action::Beat { beat, touch: Some(token) });
            let lease = self.config.lease();
            self.hold.iter_mut().for_each(|hold| hold.beaten(number, now, lease / BEATS, lease));
        }
        let without = self.is_without();
        if let Some(ears) = &mut self.ears
            && without
            && !ears.counting
            && now >= ears.quiet_since + ears.patience
        {
            ears.counting = true;
            actions.push(Action::Count);
        }
    }

    /// When the token is to be given back: half-way to where TOUCH does not help, or when a claim leads nowhere.
    fn ends(&self) -> Option<Time> {
        let (hold, max_hold) = (self.hold.as_ref()?, self.max_hold?);
        let longest = if hold.leads() { max_hold / 2 } else { PATIENCE * self.config.lease() };
        Some(hold.taken + longest.min(max_hold / 2))
    }

    fn beat(&mut self, token: Token, role: Role) -> Beat {
        let number = self.beats;
        self.beats += 1;
        Beat::new(&self.config.node, number, token, role, self.known, &self.config.charter)
    }

    fn wants_token(&self) -> bool {
        self.ears.is_some() && !self.stopping
    }

    fn is_without(&self) -> bool {
        self.hold.is_none() && self.max_hold.is_some() && !self.stopping
    }

    fn patience(&mut self) -> Duration {
        let lease = self.config.lease();
        lease / 4 + (lease / 2).mul_f64(self.rng.f64())
    }
}

//! The decisions: from what happened to what is to be done.

use std::time::Duration;

use super::ears::Ears;
use super::hold::{Hold, Phase};
use super::{Action, BEATS, Beat, Charter, Config, EPOCHS, Event, PATIENCE, Role, Time, Token};

/// What one node knows, and does, about the token.
///
/// Times go up. After each call [`due`](Self::due) says when the next one is to be made, if nothing happens until then.
#[derive(Debug)]
pub(in crate::app::node) struct Lease {
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
    pub(in crate::app::node) fn new(config: Config, rng: fastrand::Rng) -> Self {
        Self { config, rng, max_hold: None, ears: None, hold: None, beats: 0, known: 0, stopping: false }
    }

    /// The epoch that this node may generate in, now; to be asked before each event.
    pub(in crate::app::node) fn leads(&self, now: Time) -> Option<u64> {
        let hold = self.hold.as_ref().filter(|hold| now < hold.proven + self.config.lead())?;
        match hold.phase {
            Phase::Leading { epoch } => Some(epoch),
            Phase::Claiming { .. } | Phase::Inheriting { .. } => None,
        }
    }

    /// An epoch was heard of elsewhere.
    pub(in crate::app::node) fn know(&mut self, epoch: u64) {
        if epoch < EPOCHS {
            self.known = self.known.max(epoch);
        }
    }

    /// Says what is to be done.
    pub(in crate::app::node) fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
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
    pub(in crate::app::node) fn due(&self) -> Option<Time> {
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

//! The decisions: from what happened to what is to be done.

use std::time::Duration;

use super::ears::Ears;
use super::hold::{Hold, Phase, Rival};
use super::seal::seal_of;
use super::{Action, BEATS, Beat, Charter, Config, EPOCHS, Event, PATIENCE, Role, Time, Token, is_plausible};

/// What one node knows, and does, about the token.
///
/// Times go up. After each call [`due`](Self::due) says when the next one is to be made, if nothing happens until then.
#[derive(Debug)]
pub(in crate::commands::node) struct Lease {
    config: Config,
    rng: fastrand::Rng,
    /// For how long a token may be held, if the connection for it stands.
    max_hold: Option<Duration>,
    ears: Option<Ears>,
    hold: Option<Hold>,
    /// Tokens are being counted since then.
    counting: Option<(Counting, Time)>,
    /// Until then this node takes no token: there are two, and another node may have the other one.
    rests: Option<Time>,
    beats: u64,
    /// The highest epoch that was heard of.
    known: u64,
    stopping: bool,
}

/// What tokens are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// Whether one is to be made.
    Making,
    /// Whether the hold that begins with this beat has a rival.
    Holding(u64),
}

impl Lease {
    pub(in crate::commands::node) fn new(config: Config, rng: fastrand::Rng) -> Self {
        Self {
            config,
            rng,
            max_hold: None,
            ears: None,
            hold: None,
            counting: None,
            rests: None,
            beats: 0,
            known: 0,
            stopping: false,
        }
    }

    /// The epoch that this node may generate in, now; to be asked before each event.
    pub(in crate::commands::node) fn leads(&self, now: Time) -> Option<u64> {
        let hold = self.hold.as_ref().filter(|hold| now < hold.proven + self.config.lead())?;
        match hold.phase {
            Phase::Leading { epoch } => Some(epoch),
            Phase::Claiming { .. } | Phase::Inheriting { .. } => None,
        }
    }

    /// An epoch was heard of elsewhere, from who can be believed.
    pub(in crate::commands::node) fn know(&mut self, epoch: u64) {
        if epoch < EPOCHS {
            self.known = self.known.max(epoch);
        }
    }

    /// Says what is to be done.
    pub(in crate::commands::node) fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
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
            Event::Taken { token, published, charter } => self.taken(token, published, charter, now, &mut actions),
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
    pub(in crate::commands::node) fn due(&self) -> Option<Time> {
        let lapse = self.hold.as_ref().map(|hold| hold.proven + self.config.lead());
        let beat = self.hold.as_ref().map(|hold| hold.due);
        [lapse, beat, self.ends(), self.count_due(), self.rests].into_iter().flatten().min()
    }

    /// Nothing was proven for so long that the token may be elsewhere.
    fn lapse(&mut self, now: Time, actions: &mut Vec<Action>) {
        let lead = self.config.lead();
        if self.hold.take_if(|hold| now >= hold.proven + lead).is_some() {
            actions.push(Action::Reconnect);
        }
    }

    fn taken(&mut self, token: Token, published: u64, charter: Charter, now: Time, actions: &mut Vec<Action>) {
        if self.stopping {
            actions.push(Action::GiveBack(token));
            return;
        }
        if charter != self.config.charter {
            return self.taken_of_others(token, charter, now, actions);
        }
        if self.hold.as_ref().is_some_and(|hold| hold.token.id != token.id) {
            // one too many, and both are here
            actions.push(Action::Finish(token));
            return;
        }
        if self.rests.is_some() {
            // it was on its way
            actions.extend([Action::Ready(false), Action::GiveBack(token)]);
            return;
        }
        let released = self.ears.as_ref().and_then(|ears| ears.released);
        let phase = match released.is_some_and(|released| token.is_next_of(&released)) {
            true => Phase::Inheriting { from: self.beats },
            false => Phase::Claiming { opened: None },
        };
        let hold = Hold::new(token, phase, self.beats, now);
        self.hold = Some(match &self.ears {
            Some(ears) if token.delivery == 1 => hold.fresh(published, ears.alone_since),
            _ => hold,
        });
    }

    /// A token of a fleet that has agreed on something else: that fleet is to have it, if it lives.
    fn taken_of_others(&mut self, token: Token, charter: Charter, now: Time, actions: &mut Vec<Action>) {
        let longest = self.config.lease().max(Duration::from_millis(charter.lease_ms));
        let is_left = || self.ears.as_ref().is_some_and(|ears| now >= ears.alone_since + PATIENCE * longest);
        let goes = match &self.hold {
            Some(hold) => hold.token.outranks(&token),
            None => is_left(),
        };
        actions.push(if goes { Action::Finish(token) } else { Action::PutOff(token) });
        actions.push(Action::Differs(charter));
    }

    /// Anybody can publish a beat. So what is heard may make this node wait, but lets it neither end nor finish a token.
    fn heard(&mut self, beat: &Beat, published: u64, now: Time, actions: &mut Vec<Action>) {
        let Some(token) = beat.token() else { return };
        let lease = self.config.lease();
        let Config { node, secret, .. } = &self.config;
        let is_own = beat.node == *node && beat.mark == secret.mark(beat.number);
        self.ears.iter_mut().for_each(|ears| ears.heard(beat, token, is_own, lease, now));
        if beat.charter != self.config.charter {
            actions.push(Action::Differs(beat.charter.clone()));
        } else if is_plausible(beat.epoch, published) {
            self.know(beat.epoch);
        }
        let is_of_hold = is_own && self.hold.as_ref().is_some_and(|hold| beat.number >= hold.first_beat);
        if is_of_hold {
            self.hold.iter_mut().for_each(|hold| hold.returned(beat.number, published, lease, now));
            self.enter();
        } else if !is_own || beat.role == Role::Released {
            self.heard_other(beat.role, token, now);
        }
    }

    /// What somebody else's beat, or this node's own release, means for the token that is held.
    fn heard_other(&mut self, role: Role, token: Token, now: Time) {
        let next_beat = self.beats;
        let released = self.ears.as_ref().and_then(|ears| ears.released);
        let Some(hold) = self.hold.as_mut().filter(|hold| !hold.leads()) else { return };
        if hold.rival == Rival::No && released == Some(token) && hold.token.is_next_of(&token) {
            hold.phase = Phase::Inheriting { from: next_beat };
            hold.due = now;
            return;
        }
        if matches!(hold.phase, Phase::Inheriting { .. }) {
            hold.start_over();
        }
        // a later delivery of this token is none: then a TOUCH fails
        let is_rival = token.id != hold.token.id && (role != Role::Claiming || token.outranks(&hold.token));
        if is_rival && hold.rival == Rival::No {
            (hold.rival, hold.count_due) = (Rival::Heard, now);
        }
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
        match self.counting.take() {
            Some((Counting::Making, asked)) => self.counted_for_making(count, asked, now, actions),
            Some((Counting::Holding(first_beat), _)) => self.counted_for_holding(count, first_beat, now, actions),
            None => {}
        }
    }

    fn counted_for_making(&mut self, count: Option<u64>, asked: Time, now: Time, actions: &mut Vec<Action>) {
        let (without, patience, lease) = (self.is_without(), self.patience(), self.config.lease());
        let Some(ears) = &mut self.ears else { return };
        // where it is never quiet the answer has to be a new one
        let may_make = ears.is_quiet(now) || now >= ears.count_due(lease) && now < asked + lease;
        (ears.counted, ears.quiet_since, ears.patience) = (now, now, patience);
        if without && may_make && count == Some(0) {
            actions.push(Action::Mint);
        }
    }

    /// Of two tokens one is to go. Beats cannot decide which: it is given away until one node has both.
    fn counted_for_holding(&mut self, count: Option<u64>, first_beat: u64, now: Time, actions: &mut Vec<Action>) {
        let lease = self.config.lease();
        let claims = |hold: &&mut Hold| hold.first_beat == first_beat && hold.rival == Rival::Heard && !hold.leads();
        let Some(hold) = self.hold.as_mut().filter(claims) else { return };
        match count {
            Some(1) => hold.is_alone(now),
            None | Some(0) => hold.count_due = now + lease / BEATS,
            Some(_) => {
                actions.extend([Action::Ready(false), Action::GiveBack(hold.token)]);
                (self.hold, self.rests) = (None, Some(now + lease));
            }
        }
    }

    /// When tokens are to be counted.
    fn count_due(&self) -> Option<Time> {
        if self.counting.is_some() {
            return None;
        }
        match &self.hold {
            Some(hold) => (hold.rival == Rival::Heard).then_some(hold.count_due),
            None => self.ears.as_ref().filter(|_| self.is_without()).map(|ears| ears.count_due(self.config.lease())),
        }
    }

    /// Gives the token back, and says so if that lets the next one lead at once.
    fn release(&mut self, actions: &mut Vec<Action>) {
        let Some(hold) = self.hold.take() else { return };
        if hold.leads() {
            let key = self.config.secret.key(hold.first_beat);
            let beat = self.beat(hold.token, Role::Released, key);
            actions.push(Action::Beat { beat, touch: None });
        }
        actions.push(Action::GiveBack(hold.token));
    }

    fn tick(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.ends().is_some_and(|ends| now >= ends) {
            let stuck = |hold: &Hold| !hold.leads() && hold.rival != Rival::Heard;
            let stuck = self.hold.as_ref().is_some_and(stuck) && self.ears.is_some();
            self.release(actions);
            if stuck {
                // beats that do not come back: the subscription is not what it seems
                actions.push(Action::Relisten);
            }
        }
        if let Some(hold) = self.hold.as_ref().filter(|hold| now >= hold.due) {
            let (token, role) = (hold.token, hold.role(self.config.lease(), now));
            let seal = seal_of(&self.config.secret.key(hold.first_beat));
            let beat = self.beat(token, role, seal);
            let number = beat.number;
            actions.push(Action::Beat { beat, touch: Some(token) });
            let lease = self.config.lease();
            self.hold.iter_mut().for_each(|hold| hold.beaten(number, now, lease / BEATS, lease));
        }
        if self.count_due().is_some_and(|due| now >= due) {
            let what = self.hold.as_ref().map_or(Counting::Making, |hold| Counting::Holding(hold.first_beat));
            self.counting = Some((what, now));
            actions.push(Action::Count);
        }
        if self.rests.take_if(|until| now >= *until).is_some() {
            actions.push(Action::Ready(self.wants_token()));
        }
    }

    /// When the token is to be given back: half-way to where TOUCH does not help, or when a claim leads nowhere.
    fn ends(&self) -> Option<Time> {
        let (hold, max_hold) = (self.hold.as_ref()?, self.max_hold?);
        let longest = if hold.leads() { max_hold / 2 } else { PATIENCE * self.config.lease() };
        Some(hold.taken + longest.min(max_hold / 2))
    }

    fn beat(&mut self, token: Token, role: Role, seal: String) -> Beat {
        let Config { node, charter, secret } = &self.config;
        let beat = Beat::new(node, self.beats, token, role, self.known, charter).sealed(secret.mark(self.beats), seal);
        self.beats += 1;
        beat
    }

    fn wants_token(&self) -> bool {
        self.ears.is_some() && !self.stopping && self.rests.is_none()
    }

    fn is_without(&self) -> bool {
        self.hold.is_none() && self.max_hold.is_some() && !self.stopping
    }

    fn patience(&mut self) -> Duration {
        let lease = self.config.lease();
        lease / 4 + (lease / 2).mul_f64(self.rng.f64())
    }
}

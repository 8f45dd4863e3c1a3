//! The decisions: from an event to the actions that follow.

use std::time::Duration;

use super::claim::{ClaimPhase, Rival, TokenClaim};
use super::monitor::HeartbeatMonitor;
use super::seal::seal_of;
use super::{
    EPOCH_LIMIT, FleetConfig, HEARTBEATS_PER_LEASE, Heartbeat, LeaseAction, LeaseConfig, LeaseEvent, LeaseToken,
    MAX_CLAIM_LEASES, Role, Time, is_plausible,
};

/// One node's state about the token, and its decisions.
///
/// Times never decrease. After each call [`due`](Self::due) returns when to call
/// [`handle`](Self::handle) next, if no event comes before.
#[derive(Debug)]
pub(in crate::commands::node) struct Lease {
    config: LeaseConfig,
    rng: fastrand::Rng,
    /// The longest time that the token may be in flight; `None` without a connection for it.
    max_msg_timeout: Option<Duration>,
    monitor: Option<HeartbeatMonitor>,
    claim: Option<TokenClaim>,
    /// The count of tokens in progress, and since when.
    counting: Option<(CountPurpose, Time)>,
    /// Until then this node accepts no token: there are two, and another node may have the other
    /// one.
    declines_until: Option<Time>,
    /// The number of the next heartbeat.
    next_number: u64,
    /// The highest epoch known.
    highest_epoch: u64,
    stopping: bool,
}

/// The purpose of a count of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountPurpose {
    /// To publish a token if there is none.
    NewToken,
    /// To see whether the claim that begins with this heartbeat has a rival.
    Rival(u64),
}

impl Lease {
    pub(in crate::commands::node) fn new(config: LeaseConfig, rng: fastrand::Rng) -> Self {
        Self {
            config,
            rng,
            max_msg_timeout: None,
            monitor: None,
            claim: None,
            counting: None,
            declines_until: None,
            next_number: 0,
            highest_epoch: 0,
            stopping: false,
        }
    }

    /// Returns the epoch that this node may generate in now. Call it before each event.
    pub(in crate::commands::node) fn leads(&self, now: Time) -> Option<u64> {
        let claim = self.claim.as_ref().filter(|claim| now < claim.confirmed_at + self.config.lead())?;
        match claim.phase {
            ClaimPhase::Leading { epoch } => Some(epoch),
            ClaimPhase::Claiming { .. } | ClaimPhase::Inheriting { .. } => None,
        }
    }

    /// Records an epoch from a trustworthy source other than heartbeats.
    pub(in crate::commands::node) fn observe_epoch(&mut self, epoch: u64) {
        if epoch < EPOCH_LIMIT {
            self.highest_epoch = self.highest_epoch.max(epoch);
        }
    }

    /// Handles an event; returns the actions to take.
    pub(in crate::commands::node) fn handle(&mut self, event: LeaseEvent, now: Time) -> Vec<LeaseAction> {
        let mut actions = Vec::new();
        self.drop_expired_claim(now, &mut actions);
        match event {
            LeaseEvent::Connected { max_msg_timeout } => {
                self.max_msg_timeout = Some(max_msg_timeout);
                actions.push(LeaseAction::Ready(self.wants_token()));
            }
            LeaseEvent::Disconnected => (self.max_msg_timeout, self.claim) = (None, None),
            LeaseEvent::MonitorReady => {
                self.monitor = Some(HeartbeatMonitor::new(now, self.random_quiet_time()));
                actions.push(LeaseAction::Ready(self.wants_token()));
            }
            LeaseEvent::MonitorLost => {
                self.monitor = None;
                self.claim.iter_mut().for_each(TokenClaim::restart_wait);
                actions.push(LeaseAction::Ready(false));
            }
            LeaseEvent::TokenDelivered { token, published, fleet, epoch } => {
                self.token_delivered(token, published, fleet, now, &mut actions);
                self.claim.iter_mut().filter(|claim| claim.token == token).for_each(|claim| claim.epoch = epoch);
            }
            LeaseEvent::HeartbeatReceived { beat, published } => {
                self.heartbeat_received(&beat, published, now, &mut actions)
            }
            LeaseEvent::HeartbeatConfirmed { number } => {
                self.claim.iter_mut().for_each(|claim| claim.confirm(number));
                self.lead_if_due();
            }
            LeaseEvent::TouchFailed => self.claim = None,
            LeaseEvent::Fenced { epoch } => {
                self.observe_epoch(epoch);
                // without a release, so that the next holder waits: this node's view is wrong
                actions.extend(self.claim.take().map(|claim| LeaseAction::Requeue(claim.token)));
            }
            LeaseEvent::TokensCounted(count) => self.tokens_counted(count, now, &mut actions),
            LeaseEvent::Tick => {}
            LeaseEvent::Stop => {
                self.stopping = true;
                actions.push(LeaseAction::Ready(false));
                self.release(&mut actions);
            }
        }
        self.tick(now, &mut actions);
        actions
    }

    /// Returns when the next action is due, if no event comes before.
    pub(in crate::commands::node) fn due(&self) -> Option<Time> {
        let expiry = self.claim.as_ref().map(|claim| claim.confirmed_at + self.config.lead());
        let beat = self.claim.as_ref().map(|claim| claim.due);
        [expiry, beat, self.release_due(), self.count_due(), self.declines_until].into_iter().flatten().min()
    }

    /// Drops the claim if no heartbeat was confirmed for so long that another node may have the
    /// token.
    fn drop_expired_claim(&mut self, now: Time, actions: &mut Vec<LeaseAction>) {
        let lead = self.config.lead();
        if self.claim.take_if(|claim| now >= claim.confirmed_at + lead).is_some() {
            actions.push(LeaseAction::Reconnect);
        }
    }

    fn token_delivered(
        &mut self,
        token: LeaseToken,
        published: u64,
        fleet: FleetConfig,
        now: Time,
        actions: &mut Vec<LeaseAction>,
    ) {
        if self.stopping {
            actions.push(LeaseAction::Requeue(token));
            return;
        }
        if fleet != self.config.fleet {
            return self.foreign_token_delivered(token, fleet, now, actions);
        }
        if self.claim.as_ref().is_some_and(|claim| claim.token.id != token.id) {
            // there are two tokens, and this node has both
            actions.push(LeaseAction::Finish(token));
            return;
        }
        if self.declines_until.is_some() {
            // it was sent before nsqd got RDY 0
            actions.extend([LeaseAction::Ready(false), LeaseAction::Requeue(token)]);
            return;
        }
        let released = self.monitor.as_ref().and_then(|monitor| monitor.released);
        let phase = match released.is_some_and(|released| token.is_next_delivery_of(&released)) {
            true => ClaimPhase::Inheriting { from: self.next_number },
            false => ClaimPhase::Claiming { waits_since: None },
        };
        let claim = TokenClaim::new(token, phase, self.next_number, now);
        self.claim = Some(match &self.monitor {
            Some(monitor) if token.delivery == 1 => claim.with_new_token(published, monitor.alone_since),
            _ => claim,
        });
    }

    /// Handles a token of a fleet with other settings: leaves it to that fleet, if that is alive.
    fn foreign_token_delivered(
        &mut self,
        token: LeaseToken,
        fleet: FleetConfig,
        now: Time,
        actions: &mut Vec<LeaseAction>,
    ) {
        let longest = self.config.lease().max(Duration::from_millis(fleet.lease_ms));
        let is_abandoned =
            || self.monitor.as_ref().is_some_and(|monitor| now >= monitor.alone_since + MAX_CLAIM_LEASES * longest);
        let finishes = match &self.claim {
            Some(claim) => claim.token.is_older_than(&token),
            None => is_abandoned(),
        };
        actions.push(if finishes { LeaseAction::Finish(token) } else { LeaseAction::Defer(token) });
        actions.push(LeaseAction::WarnSettingsDiffer(fleet));
    }

    /// Handles a heartbeat. Anybody can publish one, so it may make this node wait, but never makes
    /// it stop leading or finish a token.
    fn heartbeat_received(&mut self, beat: &Heartbeat, published: u64, now: Time, actions: &mut Vec<LeaseAction>) {
        let Some(token) = beat.token() else { return };
        let lease = self.config.lease();
        let LeaseConfig { node, secret, .. } = &self.config;
        let is_own = beat.node == *node && beat.mark == secret.mark(beat.number);
        self.monitor.iter_mut().for_each(|monitor| monitor.observe(beat, token, is_own, lease, now));
        if beat.fleet != self.config.fleet {
            actions.push(LeaseAction::WarnSettingsDiffer(beat.fleet.clone()));
        } else if is_plausible(beat.epoch, published) {
            self.observe_epoch(beat.epoch);
        }
        let is_of_claim = is_own && self.claim.as_ref().is_some_and(|claim| beat.number >= claim.first_beat);
        if is_of_claim {
            self.claim.iter_mut().for_each(|claim| claim.own_heartbeat_received(beat.number, published, lease, now));
            self.lead_if_due();
        } else if !is_own || beat.role == Role::Released {
            self.foreign_heartbeat_received(beat.role, token, now);
        }
    }

    /// Applies another node's heartbeat, or this node's own release, to the current claim.
    fn foreign_heartbeat_received(&mut self, role: Role, token: LeaseToken, now: Time) {
        let next_beat = self.next_number;
        let released = self.monitor.as_ref().and_then(|monitor| monitor.released);
        let Some(claim) = self.claim.as_mut().filter(|claim| !claim.leads()) else { return };
        if claim.rival == Rival::NotHeard && released == Some(token) && claim.token.is_next_delivery_of(&token) {
            claim.phase = ClaimPhase::Inheriting { from: next_beat };
            claim.due = now;
            return;
        }
        if matches!(claim.phase, ClaimPhase::Inheriting { .. }) {
            claim.restart_wait();
        }
        // a later delivery of the same token is no rival: if there were one, TOUCH would fail
        let is_rival = token.id != claim.token.id && (role != Role::Claiming || token.is_older_than(&claim.token));
        if is_rival && claim.rival == Rival::NotHeard {
            (claim.rival, claim.count_due) = (Rival::Heard, now);
        }
    }

    /// Starts to lead if the wait is over.
    fn lead_if_due(&mut self) {
        let lease = self.config.lease();
        if let Some(claim) = &mut self.claim
            && let Some(published) = claim.wait_ended_at(lease)
        {
            // by the store's count or its clock, so that a node that never heard of the last epoch
            // finishes beyond it, too
            self.highest_epoch = claim.epoch.unwrap_or(published).max(self.highest_epoch + 1);
            claim.phase = ClaimPhase::Leading { epoch: self.highest_epoch };
        }
    }

    fn tokens_counted(&mut self, count: Option<u64>, now: Time, actions: &mut Vec<LeaseAction>) {
        match self.counting.take() {
            Some((CountPurpose::NewToken, asked)) => self.counted_for_new_token(count, asked, now, actions),
            Some((CountPurpose::Rival(first_beat), _)) => self.counted_for_rival(count, first_beat, now, actions),
            None => {}
        }
    }

    fn counted_for_new_token(&mut self, count: Option<u64>, asked: Time, now: Time, actions: &mut Vec<LeaseAction>) {
        let (without, quiet_time, lease) = (self.lacks_token(), self.random_quiet_time(), self.config.lease());
        let Some(monitor) = &mut self.monitor else { return };
        // while heartbeats never stop, the count must be recent
        let may_make = monitor.is_quiet(now) || now >= monitor.count_due(lease) && now < asked + lease;
        (monitor.counted_at, monitor.quiet_since, monitor.quiet_time) = (now, now, quiet_time);
        if without && may_make && count == Some(0) {
            actions.push(LeaseAction::PublishToken);
        }
    }

    /// Handles a count made because of a rival. Of two tokens one must go. Heartbeats cannot decide
    /// which, so the token is requeued until one node has both.
    fn counted_for_rival(&mut self, count: Option<u64>, first_beat: u64, now: Time, actions: &mut Vec<LeaseAction>) {
        let lease = self.config.lease();
        let claims =
            |claim: &&mut TokenClaim| claim.first_beat == first_beat && claim.rival == Rival::Heard && !claim.leads();
        let Some(claim) = self.claim.as_mut().filter(claims) else { return };
        match count {
            Some(1) => claim.refute_rival(now),
            None | Some(0) => claim.count_due = now + lease / HEARTBEATS_PER_LEASE,
            Some(_) => {
                actions.extend([LeaseAction::Ready(false), LeaseAction::Requeue(claim.token)]);
                (self.claim, self.declines_until) = (None, Some(now + lease));
            }
        }
    }

    /// Returns when to count the tokens.
    fn count_due(&self) -> Option<Time> {
        if self.counting.is_some() {
            return None;
        }
        match &self.claim {
            Some(claim) => (claim.rival == Rival::Heard).then_some(claim.count_due),
            None => self
                .monitor
                .as_ref()
                .filter(|_| self.lacks_token())
                .map(|monitor| monitor.count_due(self.config.lease())),
        }
    }

    /// Requeues the token. A leader publishes a release before, so that the next holder leads at
    /// once.
    fn release(&mut self, actions: &mut Vec<LeaseAction>) {
        let Some(claim) = self.claim.take() else { return };
        if claim.leads() {
            let key = self.config.secret.key(claim.first_beat);
            let beat = self.next_heartbeat(claim.token, Role::Released, key);
            actions.push(LeaseAction::Heartbeat { beat, touch: None });
        }
        actions.push(LeaseAction::Requeue(claim.token));
    }

    fn tick(&mut self, now: Time, actions: &mut Vec<LeaseAction>) {
        if self.release_due().is_some_and(|ends| now >= ends) {
            let stuck = |claim: &TokenClaim| !claim.leads() && claim.rival != Rival::Heard;
            let stuck = self.claim.as_ref().is_some_and(stuck) && self.monitor.is_some();
            self.release(actions);
            if stuck {
                // this node's heartbeats do not come back: the subscription is broken
                actions.push(LeaseAction::ReconnectMonitor);
            }
        }
        if let Some(claim) = self.claim.as_ref().filter(|claim| now >= claim.due) {
            let (token, role) = (claim.token, claim.role(self.config.lease(), now));
            let seal = seal_of(&self.config.secret.key(claim.first_beat));
            let beat = self.next_heartbeat(token, role, seal);
            let number = beat.number;
            actions.push(LeaseAction::Heartbeat { beat, touch: Some(token) });
            let lease = self.config.lease();
            self.claim
                .iter_mut()
                .for_each(|claim| claim.heartbeat_sent(number, now, lease / HEARTBEATS_PER_LEASE, lease));
        }
        if self.count_due().is_some_and(|due| now >= due) {
            let what =
                self.claim.as_ref().map_or(CountPurpose::NewToken, |claim| CountPurpose::Rival(claim.first_beat));
            self.counting = Some((what, now));
            actions.push(LeaseAction::CountTokens);
        }
        if self.declines_until.take_if(|until| now >= *until).is_some() {
            actions.push(LeaseAction::Ready(self.wants_token()));
        }
    }

    /// Returns when to requeue the token: at half of the time after which TOUCH does not help, or
    /// when a claim does not succeed.
    fn release_due(&self) -> Option<Time> {
        let (claim, max_msg_timeout) = (self.claim.as_ref()?, self.max_msg_timeout?);
        let longest = if claim.leads() { max_msg_timeout / 2 } else { MAX_CLAIM_LEASES * self.config.lease() };
        Some(claim.delivered_at + longest.min(max_msg_timeout / 2))
    }

    fn next_heartbeat(&mut self, token: LeaseToken, role: Role, seal: String) -> Heartbeat {
        let LeaseConfig { node, fleet, secret } = &self.config;
        let beat = Heartbeat::new(node, self.next_number, token, role, self.highest_epoch, fleet)
            .sealed(secret.mark(self.next_number), seal);
        self.next_number += 1;
        beat
    }

    fn wants_token(&self) -> bool {
        self.monitor.is_some() && !self.stopping && self.declines_until.is_none()
    }

    fn lacks_token(&self) -> bool {
        self.claim.is_none() && self.max_msg_timeout.is_some() && !self.stopping
    }

    fn random_quiet_time(&mut self) -> Duration {
        let lease = self.config.lease();
        lease / 4 + (lease / 2).mul_f64(self.rng.f64())
    }
}

//! Single steps of a lease, on a fake clock.

use super::seal::seal_of;
use super::*;
use mqueue::proto::{MessageId, TopicName};

const LEASE: Duration = Duration::from_secs(10);
const MAX_MSG_TIMEOUT: Duration = Duration::from_secs(900);

fn fleet_config(lease: Duration) -> FleetConfig {
    FleetConfig { stream: TopicName::new("foo").unwrap(), lease_ms: lease.as_millis() as u64 }
}

fn token(name: u8, delivery: u16) -> LeaseToken {
    LeaseToken { id: MessageId([b'0' + name; 16]), delivery }
}

/// A lease whose heartbeats are confirmed and come back as soon as they are sent.
struct Harness {
    lease: Lease,
    now: Time,
    answers: bool,
    done: Vec<LeaseAction>,
}

impl Harness {
    fn new() -> Self {
        let config =
            LeaseConfig { node: "own".to_owned(), fleet: fleet_config(LEASE), secret: NodeSecret::new([1; 32]) };
        let lease = Lease::new(config, fastrand::Rng::with_seed(1));
        let mut node = Self { lease, now: Duration::from_secs(1000), answers: true, done: Vec::new() };
        node.happens(LeaseEvent::Connected { max_msg_timeout: MAX_MSG_TIMEOUT });
        node.happens(LeaseEvent::MonitorReady);
        node
    }

    /// Handles an event, and the replies to its heartbeats.
    fn happens(&mut self, event: LeaseEvent) -> Vec<LeaseAction> {
        let actions = self.lease.handle(event, self.now);
        for action in &actions {
            if let LeaseAction::Heartbeat { beat, touch } = action
                && self.answers
            {
                let number = beat.number;
                if touch.is_some() {
                    self.happens(LeaseEvent::HeartbeatConfirmed { number });
                }
                self.happens(LeaseEvent::HeartbeatReceived {
                    beat: beat.clone(),
                    published: self.now.as_millis() as u64,
                });
            }
        }
        self.done.extend(actions.clone());
        actions
    }

    fn takes(&mut self, token: LeaseToken) -> Vec<LeaseAction> {
        let published = self.now.as_millis() as u64;
        self.happens(LeaseEvent::TokenDelivered { token, published, fleet: fleet_config(LEASE), epoch: None })
    }

    /// Delivers another node's heartbeats, with the seal that its release has the key to.
    fn hears(&mut self, token: LeaseToken, role: Role, times: u64) -> Vec<LeaseAction> {
        let key = NodeSecret::new([2; 32]).key(u64::from(token.delivery));
        let seal = if role == Role::Released { key } else { seal_of(&key) };
        let beat = |number| {
            Heartbeat::new("other", number, token, role, 7, &fleet_config(LEASE)).sealed(String::new(), seal.clone())
        };
        (0..times).flat_map(|n| self.hears_beat(beat(n))).collect()
    }

    fn hears_beat(&mut self, beat: Heartbeat) -> Vec<LeaseAction> {
        self.happens(LeaseEvent::HeartbeatReceived { beat, published: self.now.as_millis() as u64 })
    }

    /// Delivers `beats` heartbeats of a leader at their interval, and its release.
    fn hears_a_lead_and_its_release(&mut self, token: LeaseToken, beats: u64) {
        for _ in 0..beats {
            self.hears(token, Role::Leading, 1);
            self.wait(LEASE / HEARTBEATS_PER_LEASE);
        }
        self.hears(token, Role::Released, 1);
    }

    /// Advances the clock, step by step.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.lease.due().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.happens(LeaseEvent::Tick);
        }
        self.now = end;
    }

    fn leads(&self) -> Option<u64> {
        self.lease.leads(self.now)
    }

    fn did(&self, wanted: &LeaseAction) -> bool {
        self.done.contains(wanted)
    }
}

#[test]
fn a_claim_leads_after_one_lease_and_not_before() {
    let mut node = Harness::new();
    node.takes(token(1, 1));
    node.wait(LEASE - Duration::from_millis(1));
    assert_eq!(node.leads(), None);
    node.wait(Duration::from_millis(1));
    let epoch = node.leads().expect("the wait is over");
    assert_eq!(epoch, node.now.as_millis() as u64, "by nsqd's clock");
    node.wait(30 * LEASE);
    assert_eq!(node.leads(), Some(epoch), "as long as heartbeats are confirmed");
}

#[test]
fn an_unconfirmed_lead_ends_before_the_lease_does() {
    let mut node = Harness::new();
    node.takes(token(1, 1));
    node.wait(2 * LEASE);
    assert!(node.leads().is_some());
    node.answers = false;
    node.wait(LEASE - LEASE / MARGIN_DIVISOR);
    assert_eq!(node.leads(), None);
    assert!(node.did(&LeaseAction::Reconnect), "commands on the old connection must not take effect later");
}

#[test]
fn a_pause_ends_the_lead_even_if_a_confirmation_comes_first() {
    let mut node = Harness::new();
    node.takes(token(1, 1));
    node.wait(2 * LEASE);
    node.now += LEASE;
    assert_eq!(node.leads(), None);
    node.happens(LeaseEvent::HeartbeatConfirmed { number: 5 });
    assert_eq!(node.leads(), None);
}

#[test]
fn losing_the_heartbeat_subscription_restarts_the_wait() {
    let mut node = Harness::new();
    node.takes(token(1, 1));
    node.wait(LEASE / 2);
    node.happens(LeaseEvent::MonitorLost);
    node.happens(LeaseEvent::MonitorReady);
    node.wait(LEASE);
    assert_eq!(node.leads(), None);
    node.wait(LEASE / 2);
    assert!(node.leads().is_some());
}

#[test]
fn a_release_ends_the_wait_of_the_next_delivery_only() {
    for (delivery, beats, waits) in [(2, 8, false), (3, 8, true), (2, 7, true)] {
        let mut node = Harness::new();
        node.hears_a_lead_and_its_release(token(1, 1), beats);
        node.takes(token(1, delivery));
        assert_eq!(node.leads().is_none(), waits, "delivery {delivery} after {beats} beats");
        assert!(node.leads().is_none_or(|epoch| epoch > 7), "higher than known epochs");
    }
    // the token may be delivered before the release
    let mut node = Harness::new();
    node.hears(token(1, 1), Role::Leading, 8);
    node.takes(token(1, 2));
    assert_eq!(node.leads(), None);
    let mut node = Harness::new();
    node.hears(token(1, 1), Role::Leading, 8);
    node.wait(LEASE);
    node.answers = false;
    node.takes(token(1, 2));
    node.answers = true;
    node.hears(token(1, 1), Role::Released, 1);
    assert!(node.leads().is_some());
}

#[test]
fn a_release_is_ignored_if_another_token_is_heard() {
    let mut node = Harness::new();
    node.hears_a_lead_and_its_release(token(1, 1), 8);
    node.hears(token(2, 1), Role::Claiming, 1);
    node.takes(token(1, 2));
    assert_eq!(node.leads(), None);
}

#[test]
fn a_forged_release_is_ignored() {
    let forged = |role, seal: &str| {
        Heartbeat::new("other", 9, token(1, 1), role, 7, &fleet_config(LEASE)).sealed(String::new(), seal.to_owned())
    };
    // without the key
    let mut node = Harness::new();
    (0..8).for_each(|_| drop((node.hears(token(1, 1), Role::Leading, 1), node.wait(LEASE / HEARTBEATS_PER_LEASE))));
    node.hears_beat(forged(Role::Released, "x"));
    node.takes(token(1, 2));
    assert_eq!(node.leads(), None, "not its key");
    // with another seal, beside the holder's
    let mut node = Harness::new();
    for _ in 0..8 {
        node.hears(token(1, 1), Role::Leading, 1);
        (0..9).for_each(|_| drop(node.hears_beat(forged(Role::Leading, &seal_of("x")))));
        node.wait(LEASE / HEARTBEATS_PER_LEASE);
    }
    node.hears_beat(forged(Role::Released, "x"));
    node.takes(token(1, 2));
    assert_eq!(node.leads(), None, "the holder was heard less than a lease ago");
    // takes over, but then the holder is heard again
    let mut node = Harness::new();
    node.hears_a_lead_and_its_release(token(1, 1), 8);
    node.answers = false;
    node.takes(token(1, 2));
    node.answers = true;
    node.hears(token(1, 1), Role::Leading, 1);
    node.wait(LEASE / HEARTBEATS_PER_LEASE);
    assert_eq!(node.leads(), None);
}

#[test]
fn a_heartbeat_of_another_token_makes_a_claim_wait_until_the_tokens_are_counted() {
    let mut node = Harness::new();
    node.takes(token(2, 3));
    assert!(node.hears(token(3, 1), Role::Claiming, 1).is_empty(), "a younger claimant yields");
    for (name, role) in [(1, Role::Claiming), (3, Role::Leading)] {
        let mut node = Harness::new();
        node.takes(token(2, 3));
        assert_eq!(node.hears(token(name, 1), role, 1), [LeaseAction::CountTokens]);
        node.wait(2 * LEASE);
        assert_eq!(node.leads(), None, "the count is unknown");
        node.happens(LeaseEvent::TokensCounted(None));
        node.wait(LEASE / HEARTBEATS_PER_LEASE);
        node.happens(LeaseEvent::TokensCounted(Some(1)));
        node.wait(LEASE - LEASE / HEARTBEATS_PER_LEASE);
        node.hears(token(name, 1), role, 1);
        assert_eq!(node.leads(), None);
        node.wait(LEASE / HEARTBEATS_PER_LEASE);
        assert!(node.leads().is_some(), "nsqd has no other token");
        assert!(!node.done.iter().any(|action| matches!(action, LeaseAction::Finish(_))));
    }
}

#[test]
fn of_two_tokens_one_is_requeued_until_one_node_has_both() {
    let mut node = Harness::new();
    node.takes(token(2, 3));
    node.hears(token(1, 1), Role::Leading, 1);
    assert_eq!(
        node.happens(LeaseEvent::TokensCounted(Some(2))),
        [LeaseAction::Ready(false), LeaseAction::Requeue(token(2, 3))]
    );
    assert_eq!(
        node.takes(token(2, 4)),
        [LeaseAction::Ready(false), LeaseAction::Requeue(token(2, 4))],
        "it declines_until"
    );
    node.done.clear();
    node.wait(LEASE);
    assert!(node.did(&LeaseAction::Ready(true)));

    let mut node = Harness::new();
    node.takes(token(2, 1));
    assert_eq!(node.takes(token(1, 1))[0], LeaseAction::Finish(token(1, 1)), "both are here");
    node.wait(2 * LEASE);
    assert!(node.leads().is_some());
}

#[test]
fn a_count_from_before_the_claim_is_ignored() {
    let mut node = Harness::new();
    node.wait(LEASE);
    assert!(node.did(&LeaseAction::CountTokens));
    node.takes(token(2, 3));
    node.hears(token(1, 1), Role::Leading, 1);
    assert!(
        node.happens(LeaseEvent::TokensCounted(Some(1))).contains(&LeaseAction::CountTokens),
        "a second token may have been published since"
    );
    node.wait(2 * LEASE);
    assert_eq!(node.leads(), None);
}

#[test]
fn heartbeats_of_others_do_not_stop_a_leader() {
    let mut node = Harness::new();
    node.takes(token(2, 3));
    node.wait(2 * LEASE);
    let epoch = node.leads();
    assert!(epoch.is_some());
    for role in [Role::Claiming, Role::Leading, Role::Released] {
        for other in [token(1, 1), token(2, 4), token(2, 2), token(3, 1)] {
            assert!(node.hears(other, role, 20).is_empty(), "{role:?} {other:?}");
            node.wait(LEASE / HEARTBEATS_PER_LEASE);
            assert_eq!(node.leads(), epoch, "{role:?} {other:?}");
        }
    }
}

#[test]
fn a_missing_token_is_published_even_if_heartbeats_never_stop() {
    let mut node = Harness::new();
    for _ in 0..MAX_CLAIM_LEASES * 8 {
        assert!(!node.did(&LeaseAction::CountTokens));
        node.hears(token(1, 1), Role::Leading, 1);
        node.wait(LEASE / 8);
    }
    assert!(node.did(&LeaseAction::CountTokens));
    node.hears(token(1, 1), Role::Leading, 1);
    assert!(node.happens(LeaseEvent::TokensCounted(Some(0))).contains(&LeaseAction::PublishToken));
}

#[test]
fn a_leader_hands_over_at_half_of_max_msg_timeout() {
    let mut node = Harness::new();
    node.takes(token(1, 1));
    node.wait(MAX_MSG_TIMEOUT / 2 - Duration::from_millis(1));
    assert!(node.leads().is_some());
    node.wait(Duration::from_millis(1));
    assert_eq!(node.leads(), None);
    assert!(node.did(&LeaseAction::Requeue(token(1, 1))));
    node.takes(token(1, 2));
    assert!(node.leads().is_some(), "it may be its own successor");
}

#[test]
fn a_stopping_node_requeues_the_token_and_accepts_no_other() {
    let mut node = Harness::new();
    node.takes(token(1, 1));
    node.wait(2 * LEASE);
    let actions = node.happens(LeaseEvent::Stop);
    assert!(
        matches!(&actions[1], LeaseAction::Heartbeat { beat, touch: None } if beat.role == Role::Released),
        "{actions:?}"
    );
    assert_eq!(actions[2], LeaseAction::Requeue(token(1, 1)));
    assert_eq!(node.takes(token(1, 2)), [LeaseAction::Requeue(token(1, 2))]);
}

#[test]
fn a_fenced_leader_requeues_the_token_and_goes_beyond_the_epoch() {
    let mut node = Harness::new();
    node.takes(token(1, 1));
    node.wait(2 * LEASE);
    let epoch = node.leads().unwrap() + 1_000_000_000;
    assert_eq!(node.happens(LeaseEvent::Fenced { epoch }), [LeaseAction::Requeue(token(1, 1))]);
    assert_eq!(node.leads(), None);
    node.takes(token(1, 2));
    node.wait(2 * LEASE);
    assert_eq!(node.leads(), Some(epoch + 1));
}

#[test]
fn implausible_epochs_are_ignored() {
    let mut node = Harness::new();
    let now = node.now.as_millis() as u64;
    for epoch in [u64::MAX, EPOCH_LIMIT - 1, now + MAX_EPOCH_AHEAD_MS + 1] {
        node.hears_beat(Heartbeat::new("other", 0, token(1, 1), Role::Claiming, epoch, &fleet_config(LEASE)));
        node.happens(LeaseEvent::Fenced { epoch: u64::MAX });
    }
    node.takes(token(1, 2));
    node.wait(2 * LEASE);
    assert!(node.leads().is_some_and(|epoch| epoch <= node.now.as_millis() as u64), "{:?}", node.leads());
}

#[test]
fn a_token_is_published_if_there_is_none_and_no_heartbeat_comes() {
    let mut node = Harness::new();
    node.wait(LEASE / 4 - Duration::from_millis(1));
    node.hears(token(1, 1), Role::Leading, 1);
    node.wait(LEASE / 4 - Duration::from_millis(1));
    assert!(!node.did(&LeaseAction::CountTokens), "a heartbeat came");
    for (count, mints) in [(Some(1), false), (None, false), (Some(0), true)] {
        node.wait(2 * LEASE);
        assert!(node.did(&LeaseAction::CountTokens));
        node.happens(LeaseEvent::TokensCounted(count));
        assert_eq!(node.did(&LeaseAction::PublishToken), mints, "{count:?}");
    }
}

#[test]
fn nodes_with_other_settings_cause_a_warning_and_the_fleet_continues() {
    let foreign = fleet_config(2 * LEASE);
    let warns = LeaseAction::WarnSettingsDiffer(foreign.clone());
    let beat = || Heartbeat::new("other", 0, token(1, 1), Role::Leading, u64::MAX, &fleet_config(2 * LEASE));
    let takes = |name| LeaseEvent::TokenDelivered {
        token: token(name, 1),
        published: 7,
        fleet: fleet_config(2 * LEASE),
        epoch: None,
    };
    let mut node = Harness::new();
    assert_eq!(node.hears_beat(beat()), std::slice::from_ref(&warns));
    assert_eq!(node.happens(takes(1)), [LeaseAction::Defer(token(1, 1)), warns.clone()], "it is theirs");
    node.takes(token(2, 3));
    node.wait(2 * LEASE);
    let epoch = node.leads();
    assert!(epoch.is_some());
    assert_eq!(node.hears_beat(beat()), std::slice::from_ref(&warns));
    assert_eq!(node.happens(takes(3)), [LeaseAction::Finish(token(3, 1)), warns.clone()], "they are the newcomers");
    assert_eq!(node.happens(takes(1)), [LeaseAction::Defer(token(1, 1)), warns.clone()]);
    assert_eq!(node.leads(), epoch);
}

#[test]
fn a_token_left_by_a_fleet_with_other_settings_is_finished() {
    let takes =
        || LeaseEvent::TokenDelivered { token: token(1, 1), published: 7, fleet: fleet_config(2 * LEASE), epoch: None };
    let mut node = Harness::new();
    for _ in 0..MAX_CLAIM_LEASES * 2 * HEARTBEATS_PER_LEASE {
        assert_eq!(node.happens(takes())[0], LeaseAction::Defer(token(1, 1)));
        node.wait(LEASE / HEARTBEATS_PER_LEASE);
    }
    assert_eq!(node.happens(takes())[0], LeaseAction::Finish(token(1, 1)), "no other node was heard");
}

/// Returns the time from when the node listens until it leads.
fn first_event(seed: u64, takes_after: Duration) -> Duration {
    let config = LeaseConfig { node: "own".to_owned(), fleet: fleet_config(LEASE), secret: NodeSecret::new([1; 32]) };
    let mut node = Harness { lease: Lease::new(config, fastrand::Rng::with_seed(seed)), ..Harness::new() };
    let start = node.now;
    node.happens(LeaseEvent::Connected { max_msg_timeout: MAX_MSG_TIMEOUT });
    node.happens(LeaseEvent::MonitorReady);
    while !node.did(&LeaseAction::PublishToken) {
        node.now = node.lease.due().unwrap();
        if node.happens(LeaseEvent::Tick).contains(&LeaseAction::CountTokens) {
            node.happens(LeaseEvent::TokensCounted(Some(0)));
        }
    }
    node.now += takes_after;
    node.takes(token(1, 1));
    while node.leads().is_none() {
        node.now = node.lease.due().unwrap().max(node.now);
        node.happens(LeaseEvent::Tick);
    }
    node.now - start
}

#[test]
fn a_new_token_leads_within_one_lease_after_the_node_began_to_listen() {
    for seed in 0..1000 {
        let time = first_event(seed, Duration::from_millis(seed % 100));
        assert_eq!(time, LEASE, "seed {seed}");
    }
    // a node that has listened for longer
    assert!(first_event(1, LEASE) <= 2 * LEASE);
}

#[test]
fn a_new_token_waits_a_whole_lease_if_another_node_was_heard_or_its_delivery_count_wrapped() {
    let mut node = Harness::new();
    node.wait(LEASE / 8);
    node.hears(token(2, 1), Role::Claiming, 1);
    node.wait(LEASE / 8);
    node.takes(token(1, 1));
    node.wait(LEASE - LEASE / 8 - Duration::from_millis(1));
    assert_eq!(node.leads(), None);
    // deliveries wrap
    let mut node = Harness::new();
    node.wait(LEASE / 2);
    let published = (node.now - 2 * LEASE).as_millis() as u64;
    node.happens(LeaseEvent::TokenDelivered { token: token(1, 1), published, fleet: fleet_config(LEASE), epoch: None });
    node.wait(LEASE - Duration::from_millis(1));
    assert_eq!(node.leads(), None);
    node.wait(Duration::from_millis(1));
    assert!(node.leads().is_some());
}

#[test]
fn a_forged_heartbeat_in_this_nodes_name_does_not_start_the_wait() {
    let mut node = Harness::new();
    node.answers = false;
    let actions = node.takes(token(1, 2));
    let Some(LeaseAction::Heartbeat { beat, .. }) = actions.first() else { panic!("{actions:?}") };
    let sent = beat.clone();
    node.happens(LeaseEvent::HeartbeatConfirmed { number: sent.number });
    node.hears_beat(sent.clone().sealed(String::new(), sent.seal.clone()));
    node.wait(LEASE / 2);
    node.answers = true;
    node.hears_beat(sent);
    node.wait(LEASE - Duration::from_millis(1));
    assert_eq!(node.leads(), None, "the wait starts when its own heartbeat came back");
}

#[test]
fn the_epoch_is_the_stores_count_or_above_what_is_known() {
    for (counted, known, epoch) in [(Some(7), 3, 7), (Some(7), 9, 10), (None, 9, 1_010_000)] {
        let mut node = Harness::new();
        node.lease.observe_epoch(known);
        let (token, published) = (token(1, 7), node.now.as_millis() as u64);
        node.happens(LeaseEvent::TokenDelivered { token, published, fleet: fleet_config(LEASE), epoch: counted });
        while node.lease.leads(node.now).is_none() {
            node.now = node.lease.due().expect("a heartbeat");
            node.happens(LeaseEvent::Tick);
        }
        assert_eq!(node.lease.leads(node.now), Some(epoch), "{counted:?}, {known}");
    }
}

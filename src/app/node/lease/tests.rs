//! Single steps of a lease, on a clock that the test turns.

use super::*;
use crate::proto::{MessageId, TopicName};

const LEASE: Duration = Duration::from_secs(10);
const MAX_HOLD: Duration = Duration::from_secs(900);

fn charter(lease: Duration) -> Charter {
    Charter { stream: TopicName::new("foo").unwrap(), lease_ms: lease.as_millis() as u64 }
}

fn token(name: u8, delivery: u16) -> Token {
    Token { id: MessageId([b'0' + name; 16]), delivery }
}

/// A lease whose beats come back, and are proven, as soon as they are sent.
struct Desk {
    lease: Lease,
    now: Time,
    answers: bool,
    done: Vec<Action>,
}

impl Desk {
    fn new() -> Self {
        let config = Config { node: "own".to_owned(), charter: charter(LEASE) };
        let lease = Lease::new(config, fastrand::Rng::with_seed(1));
        let mut desk = Self { lease, now: Duration::from_secs(1000), answers: true, done: Vec::new() };
        desk.happens(Event::Connected { max_hold: MAX_HOLD });
        desk.happens(Event::Listening);
        desk
    }

    /// What it is told, and all that follows at once.
    fn happens(&mut self, event: Event) -> Vec<Action> {
        let actions = self.lease.handle(event, self.now);
        for action in &actions {
            if let Action::Beat { beat, touch } = action
                && self.answers
            {
                let number = beat.number;
                if touch.is_some() {
                    self.happens(Event::Proven { number });
                }
                self.happens(Event::Heard { beat: beat.clone(), published: self.now.as_millis() as u64 });
            }
        }
        self.done.extend(actions.clone());
        actions
    }

    fn takes(&mut self, token: Token) -> Vec<Action> {
        self.happens(Event::Taken { token, charter: charter(LEASE) })
    }

    /// Another node's beats.
    fn hears(&mut self, token: Token, role: Role, times: u64) -> Vec<Action> {
        let beat = |number| Beat::new("other", number, token, role, 7, &charter(LEASE));
        (0..times).flat_map(|n| self.happens(Event::Heard { beat: beat(n), published: 7 })).collect()
    }

    /// Time passes, step by step.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.lease.due().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.happens(Event::Tick);
        }
        self.now = end;
    }

    fn leads(&self) -> Option<u64> {
        self.lease.leads(self.now)
    }

    fn did(&self, wanted: &Action) -> bool {
        self.done.contains(wanted)
    }
}

#[test]
fn a_claim_leads_after_a_lease_and_not_before() {
    let mut desk = Desk::new();
    desk.takes(token(1, 1));
    desk.wait(LEASE - Duration::from_millis(1));
    assert_eq!(desk.leads(), None);
    desk.wait(Duration::from_millis(1));
    let epoch = desk.leads().expect("the wait is over");
    assert_eq!(epoch, desk.now.as_millis() as u64, "by nsqd's clock");
    desk.wait(30 * LEASE);
    assert_eq!(desk.leads(), Some(epoch), "as long as it is proven");
}

#[test]
fn a_lead_that_is_not_proven_ends_before_the_lease_does() {
    let mut desk = Desk::new();
    desk.takes(token(1, 1));
    desk.wait(2 * LEASE);
    assert!(desk.leads().is_some());
    desk.answers = false;
    desk.wait(LEASE - LEASE / MARGIN);
    assert_eq!(desk.leads(), None);
    assert!(desk.did(&Action::Reconnect), "what was told to nsqd on this connection must not count later");
}

#[test]
fn a_pause_ends_the_lead_whatever_comes_first_after_it() {
    let mut desk = Desk::new();
    desk.takes(token(1, 1));
    desk.wait(2 * LEASE);
    desk.now += LEASE;
    assert_eq!(desk.leads(), None);
    desk.happens(Event::Proven { number: 5 });
    assert_eq!(desk.leads(), None);
}

#[test]
fn who_was_deaf_begins_its_wait_anew() {
    let mut desk = Desk::new();
    desk.takes(token(1, 1));
    desk.wait(LEASE / 2);
    desk.happens(Event::Deaf);
    desk.happens(Event::Listening);
    desk.wait(LEASE);
    assert_eq!(desk.leads(), None);
    desk.wait(LEASE / 2);
    assert!(desk.leads().is_some());
}

#[test]
fn a_release_ends_the_wait_of_the_next_delivery_only() {
    for (delivery, beats, waits) in [(2, 8, false), (3, 8, true), (2, 7, true)] {
        let mut desk = Desk::new();
        desk.hears(token(1, 1), Role::Leading, beats);
        desk.hears(token(1, 1), Role::Released, 1);
        desk.takes(token(1, delivery));
        assert_eq!(desk.leads().is_none(), waits, "delivery {delivery} after {beats} beats");
        assert!(desk.leads().is_none_or(|epoch| epoch > 7), "beyond what was heard of");
    }
    // the token may come before the news
    let mut desk = Desk::new();
    desk.hears(token(1, 1), Role::Leading, 8);
    desk.takes(token(1, 2));
    assert_eq!(desk.leads(), None);
    let mut desk = Desk::new();
    desk.hears(token(1, 1), Role::Leading, 8);
    desk.answers = false;
    desk.takes(token(1, 2));
    desk.answers = true;
    desk.hears(token(1, 1), Role::Released, 1);
    assert!(desk.leads().is_some());
}

#[test]
fn a_release_counts_nothing_where_another_token_is_heard() {
    let mut desk = Desk::new();
    desk.hears(token(1, 1), Role::Leading, 8);
    desk.hears(token(1, 1), Role::Released, 1);
    desk.hears(token(2, 1), Role::Claiming, 1);
    desk.takes(token(1, 2));
    assert_eq!(desk.leads(), None);
}

#[test]
fn of_two_tokens_the_older_lives_unless_the_younger_leads() {
    let mut desk = Desk::new();
    desk.takes(token(2, 1));
    assert!(desk.hears(token(3, 1), Role::Claiming, 1).is_empty());
    assert_eq!(desk.hears(token(1, 1), Role::Claiming, 1), [Action::Finish(token(2, 1))]);

    let mut desk = Desk::new();
    desk.takes(token(1, 1));
    assert_eq!(desk.hears(token(2, 1), Role::Leading, 1), [Action::Finish(token(1, 1))]);

    let mut desk = Desk::new();
    desk.takes(token(2, 1));
    desk.wait(2 * LEASE);
    assert!(desk.hears(token(1, 1), Role::Leading, 1).is_empty(), "a leader stays");
    assert!(desk.leads().is_some());
    assert_eq!(desk.takes(token(1, 1))[0], Action::Finish(token(1, 1)), "both are here");
}

#[test]
fn a_leader_hands_over_at_half_of_the_longest_time() {
    let mut desk = Desk::new();
    desk.takes(token(1, 1));
    desk.wait(MAX_HOLD / 2 - Duration::from_millis(1));
    assert!(desk.leads().is_some());
    desk.wait(Duration::from_millis(1));
    assert_eq!(desk.leads(), None);
    assert!(desk.did(&Action::GiveBack(token(1, 1))));
    desk.takes(token(1, 2));
    assert!(desk.leads().is_some(), "it may be its own successor");
}

#[test]
fn who_is_to_end_gives_the_token_back_and_takes_no_other() {
    let mut desk = Desk::new();
    desk.takes(token(1, 1));
    desk.wait(2 * LEASE);
    let actions = desk.happens(Event::Stop);
    assert!(matches!(&actions[1], Action::Beat { beat, touch: None } if beat.role == Role::Released), "{actions:?}");
    assert_eq!(actions[2], Action::GiveBack(token(1, 1)));
    assert_eq!(desk.takes(token(1, 2)), [Action::GiveBack(token(1, 2))]);
}

#[test]
fn who_is_fenced_gives_the_token_back_and_goes_beyond_the_epoch() {
    let mut desk = Desk::new();
    desk.takes(token(1, 1));
    desk.wait(2 * LEASE);
    let epoch = desk.leads().unwrap() + 1_000_000_000;
    assert_eq!(desk.happens(Event::Fenced { epoch }), [Action::GiveBack(token(1, 1))]);
    assert_eq!(desk.leads(), None);
    desk.takes(token(1, 2));
    desk.wait(2 * LEASE);
    assert_eq!(desk.leads(), Some(epoch + 1));
}

#[test]
fn an_epoch_that_cannot_be_is_not_believed() {
    let mut desk = Desk::new();
    let beat = Beat::new("other", 0, token(1, 1), Role::Claiming, u64::MAX, &charter(LEASE));
    desk.happens(Event::Heard { beat, published: 7 });
    desk.happens(Event::Fenced { epoch: u64::MAX });
    desk.takes(token(1, 2));
    desk.wait(2 * LEASE);
    assert!(desk.leads().is_some_and(|epoch| epoch <= desk.now.as_millis() as u64), "{:?}", desk.leads());
}

#[test]
fn a_token_is_made_where_there_is_none_and_nobody_is_heard() {
    let mut desk = Desk::new();
    desk.wait(LEASE / 4 - Duration::from_millis(1));
    desk.hears(token(1, 1), Role::Leading, 1);
    desk.wait(LEASE / 4 - Duration::from_millis(1));
    assert!(!desk.did(&Action::Count), "somebody was heard");
    for (count, mints) in [(Some(1), false), (None, false), (Some(0), true)] {
        desk.wait(2 * LEASE);
        assert!(desk.did(&Action::Count));
        desk.happens(Event::Counted(count));
        assert_eq!(desk.did(&Action::Mint), mints, "{count:?}");
    }
}

#[test]
fn a_fleet_with_other_settings_goes_or_makes_this_one_go() {
    let foreign = charter(2 * LEASE);
    let beat = |name| Beat::new("other", 0, token(name, 1), Role::Leading, 7, &charter(2 * LEASE));
    let mut desk = Desk::new();
    let actions = desk.happens(Event::Heard { beat: beat(1), published: 7 });
    assert_eq!(actions, [Action::Quit(foreign.clone())]);

    let mut desk = Desk::new();
    let actions = desk.happens(Event::Taken { token: token(1, 1), charter: foreign.clone() });
    assert_eq!(actions, [Action::GiveBack(token(1, 1)), Action::Quit(foreign.clone())], "it is theirs");

    let mut desk = Desk::new();
    desk.takes(token(2, 1));
    desk.wait(2 * LEASE);
    assert!(desk.happens(Event::Heard { beat: beat(3), published: 7 }).is_empty(), "they are the newcomers");
    assert!(desk.leads().is_some());
}

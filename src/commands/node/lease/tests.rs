//! Single steps of a lease, on a clock that the test turns.

use super::seal::seal_of;
use super::*;
use mqueue::proto::{MessageId, TopicName};

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
        let config = Config { node: "own".to_owned(), charter: charter(LEASE), secret: Secret::new([1; 32]) };
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
        let published = self.now.as_millis() as u64;
        self.happens(Event::Taken { token, published, charter: charter(LEASE) })
    }

    /// Another node's beats, with the seal that its release has the key to.
    fn hears(&mut self, token: Token, role: Role, times: u64) -> Vec<Action> {
        let key = Secret::new([2; 32]).key(u64::from(token.delivery));
        let seal = if role == Role::Released { key } else { seal_of(&key) };
        let beat =
            |number| Beat::new("other", number, token, role, 7, &charter(LEASE)).sealed(String::new(), seal.clone());
        (0..times).flat_map(|n| self.hears_beat(beat(n))).collect()
    }

    fn hears_beat(&mut self, beat: Beat) -> Vec<Action> {
        self.happens(Event::Heard { beat, published: self.now.as_millis() as u64 })
    }

    /// As many beats of a leader, in their time, and its release.
    fn hears_a_lead_and_its_release(&mut self, token: Token, beats: u64) {
        for _ in 0..beats {
            self.hears(token, Role::Leading, 1);
            self.wait(LEASE / BEATS);
        }
        self.hears(token, Role::Released, 1);
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
        desk.hears_a_lead_and_its_release(token(1, 1), beats);
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
    desk.wait(LEASE);
    desk.answers = false;
    desk.takes(token(1, 2));
    desk.answers = true;
    desk.hears(token(1, 1), Role::Released, 1);
    assert!(desk.leads().is_some());
}

#[test]
fn a_release_counts_nothing_where_another_token_is_heard() {
    let mut desk = Desk::new();
    desk.hears_a_lead_and_its_release(token(1, 1), 8);
    desk.hears(token(2, 1), Role::Claiming, 1);
    desk.takes(token(1, 2));
    assert_eq!(desk.leads(), None);
}

#[test]
fn a_release_that_is_made_up_counts_nothing() {
    let forged = |role, seal: &str| {
        Beat::new("other", 9, token(1, 1), role, 7, &charter(LEASE)).sealed(String::new(), seal.to_owned())
    };
    // without the key
    let mut desk = Desk::new();
    (0..8).for_each(|_| drop((desk.hears(token(1, 1), Role::Leading, 1), desk.wait(LEASE / BEATS))));
    desk.hears_beat(forged(Role::Released, "x"));
    desk.takes(token(1, 2));
    assert_eq!(desk.leads(), None, "not its key");
    // with another seal, beside the holder's
    let mut desk = Desk::new();
    for _ in 0..8 {
        desk.hears(token(1, 1), Role::Leading, 1);
        (0..9).for_each(|_| drop(desk.hears_beat(forged(Role::Leading, &seal_of("x")))));
        desk.wait(LEASE / BEATS);
    }
    desk.hears_beat(forged(Role::Released, "x"));
    desk.takes(token(1, 2));
    assert_eq!(desk.leads(), None, "the holder was heard less than a lease ago");
    // who takes over, and hears the holder after all
    let mut desk = Desk::new();
    desk.hears_a_lead_and_its_release(token(1, 1), 8);
    desk.answers = false;
    desk.takes(token(1, 2));
    desk.answers = true;
    desk.hears(token(1, 1), Role::Leading, 1);
    desk.wait(LEASE / BEATS);
    assert_eq!(desk.leads(), None);
}

#[test]
fn a_beat_of_another_token_makes_a_claim_wait_until_there_is_none() {
    let mut desk = Desk::new();
    desk.takes(token(2, 3));
    assert!(desk.hears(token(3, 1), Role::Claiming, 1).is_empty(), "a younger one makes way");
    for (name, role) in [(1, Role::Claiming), (3, Role::Leading)] {
        let mut desk = Desk::new();
        desk.takes(token(2, 3));
        assert_eq!(desk.hears(token(name, 1), role, 1), [Action::Count]);
        desk.wait(2 * LEASE);
        assert_eq!(desk.leads(), None, "nobody can say yet");
        desk.happens(Event::Counted(None));
        desk.wait(LEASE / BEATS);
        desk.happens(Event::Counted(Some(1)));
        desk.wait(LEASE - LEASE / BEATS);
        desk.hears(token(name, 1), role, 1);
        assert_eq!(desk.leads(), None);
        desk.wait(LEASE / BEATS);
        assert!(desk.leads().is_some(), "there is no other, whoever says so");
        assert!(!desk.done.iter().any(|action| matches!(action, Action::Finish(_))));
    }
}

#[test]
fn of_two_tokens_one_is_given_away_until_one_node_has_both() {
    let mut desk = Desk::new();
    desk.takes(token(2, 3));
    desk.hears(token(1, 1), Role::Leading, 1);
    assert_eq!(desk.happens(Event::Counted(Some(2))), [Action::Ready(false), Action::GiveBack(token(2, 3))]);
    assert_eq!(desk.takes(token(2, 4)), [Action::Ready(false), Action::GiveBack(token(2, 4))], "it rests");
    desk.done.clear();
    desk.wait(LEASE);
    assert!(desk.did(&Action::Ready(true)));

    let mut desk = Desk::new();
    desk.takes(token(2, 1));
    assert_eq!(desk.takes(token(1, 1))[0], Action::Finish(token(1, 1)), "both are here");
    desk.wait(2 * LEASE);
    assert!(desk.leads().is_some());
}

#[test]
fn a_count_of_before_a_hold_says_nothing_of_it() {
    let mut desk = Desk::new();
    desk.wait(LEASE);
    assert!(desk.did(&Action::Count));
    desk.takes(token(2, 3));
    desk.hears(token(1, 1), Role::Leading, 1);
    assert!(desk.happens(Event::Counted(Some(1))).contains(&Action::Count), "of two tokens one may have come since");
    desk.wait(2 * LEASE);
    assert_eq!(desk.leads(), None);
}

#[test]
fn a_leader_goes_on_whatever_it_hears() {
    let mut desk = Desk::new();
    desk.takes(token(2, 3));
    desk.wait(2 * LEASE);
    let epoch = desk.leads();
    assert!(epoch.is_some());
    for role in [Role::Claiming, Role::Leading, Role::Released] {
        for other in [token(1, 1), token(2, 4), token(2, 2), token(3, 1)] {
            assert!(desk.hears(other, role, 20).is_empty(), "{role:?} {other:?}");
            desk.wait(LEASE / BEATS);
            assert_eq!(desk.leads(), epoch, "{role:?} {other:?}");
        }
    }
}

#[test]
fn a_token_is_made_also_where_beats_never_end() {
    let mut desk = Desk::new();
    for _ in 0..PATIENCE * 8 {
        assert!(!desk.did(&Action::Count));
        desk.hears(token(1, 1), Role::Leading, 1);
        desk.wait(LEASE / 8);
    }
    assert!(desk.did(&Action::Count));
    desk.hears(token(1, 1), Role::Leading, 1);
    assert!(desk.happens(Event::Counted(Some(0))).contains(&Action::Mint));
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
    let now = desk.now.as_millis() as u64;
    for epoch in [u64::MAX, EPOCHS - 1, now + EPOCHS_AHEAD + 1] {
        desk.hears_beat(Beat::new("other", 0, token(1, 1), Role::Claiming, epoch, &charter(LEASE)));
        desk.happens(Event::Fenced { epoch: u64::MAX });
    }
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
fn others_settings_are_a_warning_and_the_fleet_goes_on() {
    let foreign = charter(2 * LEASE);
    let warns = Action::Differs(foreign.clone());
    let beat = || Beat::new("other", 0, token(1, 1), Role::Leading, u64::MAX, &charter(2 * LEASE));
    let takes = |name| Event::Taken { token: token(name, 1), published: 7, charter: charter(2 * LEASE) };
    let mut desk = Desk::new();
    assert_eq!(desk.hears_beat(beat()), std::slice::from_ref(&warns));
    assert_eq!(desk.happens(takes(1)), [Action::PutOff(token(1, 1)), warns.clone()], "it is theirs");
    desk.takes(token(2, 3));
    desk.wait(2 * LEASE);
    let epoch = desk.leads();
    assert!(epoch.is_some());
    assert_eq!(desk.hears_beat(beat()), std::slice::from_ref(&warns));
    assert_eq!(desk.happens(takes(3)), [Action::Finish(token(3, 1)), warns.clone()], "they are the newcomers");
    assert_eq!(desk.happens(takes(1)), [Action::PutOff(token(1, 1)), warns.clone()]);
    assert_eq!(desk.leads(), epoch);
}

#[test]
fn a_token_that_a_fleet_with_other_settings_left_makes_way() {
    let takes = || Event::Taken { token: token(1, 1), published: 7, charter: charter(2 * LEASE) };
    let mut desk = Desk::new();
    for _ in 0..PATIENCE * 2 * BEATS {
        assert_eq!(desk.happens(takes())[0], Action::PutOff(token(1, 1)));
        desk.wait(LEASE / BEATS);
    }
    assert_eq!(desk.happens(takes())[0], Action::Finish(token(1, 1)), "nobody else was heard");
}

/// The time from when it listens until it leads.
fn first_event(seed: u64, takes_after: Duration) -> Duration {
    let config = Config { node: "own".to_owned(), charter: charter(LEASE), secret: Secret::new([1; 32]) };
    let mut desk = Desk { lease: Lease::new(config, fastrand::Rng::with_seed(seed)), ..Desk::new() };
    let start = desk.now;
    desk.happens(Event::Connected { max_hold: MAX_HOLD });
    desk.happens(Event::Listening);
    while !desk.did(&Action::Mint) {
        desk.now = desk.lease.due().unwrap();
        if desk.happens(Event::Tick).contains(&Action::Count) {
            desk.happens(Event::Counted(Some(0)));
        }
    }
    desk.now += takes_after;
    desk.takes(token(1, 1));
    while desk.leads().is_none() {
        desk.now = desk.lease.due().unwrap().max(desk.now);
        desk.happens(Event::Tick);
    }
    desk.now - start
}

#[test]
fn a_new_token_leads_within_a_lease_of_when_this_node_began_to_listen() {
    for seed in 0..1000 {
        let time = first_event(seed, Duration::from_millis(seed % 100));
        assert_eq!(time, LEASE, "seed {seed}");
    }
    // who has listened for longer
    assert!(first_event(1, LEASE) <= 2 * LEASE);
}

#[test]
fn a_new_token_waits_as_any_where_another_node_was_heard_or_its_first_delivery_is_not_its_first() {
    let mut desk = Desk::new();
    desk.wait(LEASE / 8);
    desk.hears(token(2, 1), Role::Claiming, 1);
    desk.wait(LEASE / 8);
    desk.takes(token(1, 1));
    desk.wait(LEASE - LEASE / 8 - Duration::from_millis(1));
    assert_eq!(desk.leads(), None);
    // deliveries wrap
    let mut desk = Desk::new();
    desk.wait(LEASE / 2);
    let published = (desk.now - 2 * LEASE).as_millis() as u64;
    desk.happens(Event::Taken { token: token(1, 1), published, charter: charter(LEASE) });
    desk.wait(LEASE - Duration::from_millis(1));
    assert_eq!(desk.leads(), None);
    desk.wait(Duration::from_millis(1));
    assert!(desk.leads().is_some());
}

#[test]
fn a_beat_in_this_nodes_name_that_it_has_not_sent_opens_no_window() {
    let mut desk = Desk::new();
    desk.answers = false;
    let actions = desk.takes(token(1, 2));
    let Some(Action::Beat { beat, .. }) = actions.first() else { panic!("{actions:?}") };
    let sent = beat.clone();
    desk.happens(Event::Proven { number: sent.number });
    desk.hears_beat(sent.clone().sealed(String::new(), sent.seal.clone()));
    desk.wait(LEASE / 2);
    desk.answers = true;
    desk.hears_beat(sent);
    desk.wait(LEASE - Duration::from_millis(1));
    assert_eq!(desk.leads(), None, "from when its own came back");
}

//! All that was published and handled in a world, and the promises about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::worker::DeadLetter;

/// The delay of a failed message after its first try.
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(300);

/// A message that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    pub(super) at: Instant,
    /// When it may be handled first.
    pub(super) not_before: Instant,
}

/// A group, and the number of a message.
pub(super) type GroupMessage = (usize, u64);

/// The handling of a message of the calm time by a group.
#[derive(Debug, Default)]
struct CalmMessage {
    /// Handlers that failed.
    failures: u16,
    /// When the message may be tried again, at the earliest.
    not_before: Option<Instant>,
    /// How often it has left the queue: handled, or given up.
    ends: u32,
}

/// All that was published and handled.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) next: u64,
    /// Messages that were sent, acknowledged or not.
    pub(super) sent: BTreeSet<u64>,
    pub(super) acknowledged: BTreeMap<u64, Acknowledged>,
    /// Messages that a group handled, or that are in its dead letters.
    ended: BTreeSet<GroupMessage>,
    /// Messages that a handler gave up.
    given_up: BTreeSet<GroupMessage>,
    /// Handlers that began, whatever came of them.
    pub(super) begun: u64,
    pub(super) handlings: u64,
    pub(super) letters: u64,
    /// The number of tries after which a message becomes a dead letter; 0 for never.
    pub(super) max_tries: u16,
    /// The time from which messages are promised: earlier ones may be lost, although their OK arrives
    /// later.
    pub(super) promised_from: Instant,
    /// True if the wall clock was stepped: due times after a restart follow it.
    pub(super) was_stepped: bool,
    /// The first message of the calm time, in which nothing goes wrong.
    calm_from: u64,
    calm: BTreeMap<GroupMessage, CalmMessage>,
    pub(super) violations: Vec<String>,
}

/// The record, shared by the world and its processes.
#[derive(Debug, Clone)]
pub(super) struct SharedRecord(Arc<Mutex<Record>>);

impl SharedRecord {
    pub(super) fn new(max_tries: u16) -> Self {
        Self(Arc::new(Mutex::new(Record {
            next: 0,
            sent: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            ended: BTreeSet::new(),
            given_up: BTreeSet::new(),
            begun: 0,
            handlings: 0,
            letters: 0,
            max_tries,
            promised_from: Instant::now(),
            was_stepped: false,
            calm_from: u64::MAX,
            calm: BTreeMap::new(),
            violations: Vec::new(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// Takes the numbers of new messages.
    pub(super) fn publish(&mut self, count: u64) -> Vec<u64> {
        let numbers = self.next..self.next + count;
        self.next = numbers.end;
        self.sent.extend(numbers.clone());
        numbers.collect()
    }

    /// Forgets the promises of messages that were acknowledged within this time, or are on their way.
    pub(super) fn forget_promises(&mut self, within: Duration) {
        self.acknowledged.retain(|_, message| message.at.elapsed() > within);
        // an OK may still be on its way
        self.promised_from = Instant::now();
    }

    /// Acknowledged messages that a group has neither handled nor given up.
    pub(super) fn missing(&self, groups: usize) -> Vec<GroupMessage> {
        let of_group = |group| self.acknowledged.keys().map(move |number| (group, *number));
        (0..groups).flat_map(of_group).filter(|key| !self.ended.contains(key)).collect()
    }

    /// True if the group has handled the message, or given it up.
    pub(super) fn has_ended(&self, key: &GroupMessage) -> bool {
        self.ended.contains(key)
    }

    /// Begins the time in which nothing goes wrong.
    pub(super) fn begin_calm(&mut self) {
        self.calm_from = self.next;
    }

    fn is_calm(&self, number: u64) -> bool {
        number >= self.calm_from
    }

    /// A handler begins with a message.
    pub(super) fn begins(&mut self, (group, number): GroupMessage, attempts: u16) {
        self.begun += 1;
        if !self.is_calm(number) {
            return;
        }
        let now = Instant::now();
        let message = self.calm.entry((group, number)).or_default();
        if attempts != message.failures + 1 {
            let failures = message.failures;
            let text = format!("{number} for group {group}: attempt {attempts} after {failures} failures, in calm");
            self.violations.push(text);
        }
        if let Some(early) = message.not_before.and_then(|due| due.checked_duration_since(now)).filter(|e| !e.is_zero())
        {
            self.violations.push(format!("{number} was tried again {early:?} early"));
        }
    }

    /// A handler has failed.
    pub(super) fn fails(&mut self, key: GroupMessage) {
        if self.is_calm(key.1) {
            let message = self.calm.entry(key).or_default();
            message.failures += 1;
            message.not_before = Some(Instant::now() + RETRY_DELAY);
        }
    }

    /// A handler gives the message up, which becomes a dead letter. False in the calm time, in which
    /// no message is given up.
    pub(super) fn gives_up(&mut self, key: GroupMessage) -> bool {
        let may = !self.is_calm(key.1);
        if may {
            self.given_up.insert(key);
        }
        may
    }

    /// A group has handled a message.
    pub(super) fn handled(&mut self, (group, number): GroupMessage) {
        self.handlings += 1;
        self.end((group, number));
        if let Some(known) = self.acknowledged.get(&number).copied()
            && (!self.was_stepped || self.is_calm(number))
            && Instant::now() < known.not_before
        {
            let early = known.not_before - Instant::now();
            self.violations.push(format!("{number} was {early:?} early (acknowledged at {:?})", known.at));
        }
    }

    fn end(&mut self, key: GroupMessage) {
        self.ended.insert(key);
        if self.is_calm(key.1) {
            self.calm.entry(key).or_default().ends += 1;
        }
    }

    /// A dead letter has arrived.
    pub(super) fn letter(&mut self, body: &Bytes, groups: &[&str]) {
        self.letters += 1;
        let letter = DeadLetter::decode(body);
        let group = |letter: &DeadLetter| groups.iter().position(|group| *group == letter.group.as_str());
        let key = letter.as_ref().and_then(|letter| Some((group(letter)?, number_of(&letter.body)?)));
        let (Some(letter), Some(key)) = (letter, key.filter(|(_, number)| self.sent.contains(number))) else {
            self.violations.push(format!("nobody published the dead letter {:?}", begin_of(body)));
            return;
        };
        let is_tried = self.max_tries > 0 && letter.attempts >= self.max_tries;
        if !is_tried && !self.given_up.contains(&key) {
            self.violations.push(format!("{} was given up after {} attempts", key.1, letter.attempts));
        }
        self.end(key);
    }

    /// A message that nobody published.
    pub(super) fn invented(&mut self, body: &[u8]) {
        self.violations.push(format!("nobody published {:?}", begin_of(body)));
    }

    /// Records a violation for each message of the calm time that a group did not handle exactly once.
    pub(super) fn judge_calm(&mut self, groups: usize) {
        for number in self.sent.range(self.calm_from..).copied() {
            for group in 0..groups {
                let ends = self.calm.get(&(group, number)).map_or(0, |message| message.ends);
                if ends > 1 || (ends == 0 && self.acknowledged.contains_key(&number)) {
                    self.violations.push(format!("{number} left group {group} {ends} times, in calm"));
                }
            }
        }
    }

    /// The number of messages of the calm time.
    pub(super) fn calm_messages(&self) -> u64 {
        self.next.saturating_sub(self.calm_from)
    }
}

fn begin_of(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(20)]).into_owned()
}

/// The body of a message: its number, and some more.
pub(super) fn body(number: u64, rng: &mut fastrand::Rng) -> Bytes {
    let length = match rng.u8(..) {
        0..4 => rng.usize(0..200_000),
        _ => rng.usize(0..400),
    };
    format!("{number} {}", "x".repeat(length)).into()
}

/// The number in a body; `None` if there is none.
pub(super) fn number_of(body: &[u8]) -> Option<u64> {
    let end = body.iter().position(|byte| *byte == b' ')?;
    str::from_utf8(&body[..end]).ok()?.parse().ok()
}

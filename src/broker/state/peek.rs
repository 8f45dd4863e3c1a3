//! Looking at messages without delivering them. The state is only read: no attempt is counted, and
//! no order changes.
//!
//! ```text
//!  position ─▶ peek(): a few runs, under the lock ─▶ their bodies, read without it ─▶ position after
//!                                                                                     the last one
//! ```
//!
//! Messages come and go between two steps. A position stays valid: it names an entry of the queue by
//! its number since the start, and the last message of it that was seen.

use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use super::super::log::ChannelId;
use super::channel::Channel;
use super::message_store::MessageRun;
use super::run_bodies::RunBodies;
use super::time::Micros;
use super::topic::Topic;
use super::wire_id::{node_bits, to_wire};
use super::{BrokerState, Missing, Now, SessionId};
use crate::proto::{ChannelName, MessageId, PeekState, PeekedClient, TopicName};

/// Most runs, and most bytes of their batches, that a step returns; the last run may exceed it.
const MAX_RUNS: usize = 500;
const MAX_BYTES: u64 = 4 << 20;
/// Most copies in flight, or deferred, that a step sorts, and most timers that it scans.
pub(super) const MAX_SCANNED: usize = 4_000;
/// Largest hash table that a step iterates over.
const MAX_CAPACITY: usize = 8 * MAX_SCANNED;

/// The messages to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeekSelection {
    /// The topic.
    pub topic: TopicName,
    /// The channel; `None` for the messages that the topic itself holds.
    pub channel: Option<ChannelName>,
    /// The state of the messages. Those of a topic are [`PeekState::Held`].
    pub state: PeekState,
}

/// The reason why there is nothing to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeekError {
    /// The topic or the channel does not exist.
    Missing(Missing),
    /// The position is of another topic or channel, such as one of the same name that was deleted,
    /// or of another state.
    Elsewhere,
}

/// Key of an entry: of the queue its number, of copies in flight or deferred their timer.
type EntryKey = (u64, u32, u64);

/// Position behind a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeekPosition {
    state: PeekState,
    /// Number of the topic or channel.
    owner: u32,
    entry: EntryKey,
    /// The last message of the entry that was seen.
    last: u64,
}

impl fmt::Display for PeekPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { state, owner, last, .. }, (a, b, c)) = (self, self.entry);
        write!(f, "{}-{owner:x}-{a:x}-{b:x}-{c:x}-{last:x}", state.as_str())
    }
}

impl FromStr for PeekPosition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let state = parts.next().unwrap_or_default().parse().map_err(drop)?;
        let mut number = || {
            let digits =
                parts.next().filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())).ok_or(())?;
            u64::from_str_radix(digits, 16).map_err(drop)
        };
        let small = |number: u64| u32::try_from(number).map_err(drop);
        let owner = small(number()?)?;
        let entry = (number()?, small(number()?)?, number()?);
        let last = number()?;
        parts.next().is_none().then_some(Self { state, owner, entry, last }).ok_or(())
    }
}

/// Consecutive messages, and what there is to tell of them.
#[derive(Debug, Clone)]
pub struct PeekedRun {
    /// The state of the messages.
    pub state: PeekState,
    /// When they were published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// The number of deliveries.
    pub attempts: u16,
    /// The number of messages.
    pub count: u32,
    /// Messages at the beginning of the run that were seen before.
    pub skip: u32,
    /// The time until deferred messages are due, or until messages in flight time out.
    pub due_in_ms: Option<u64>,
    /// The client, if the messages are in flight, and if it is still connected.
    pub client: Option<PeekedClient>,
    /// Their bodies.
    pub bodies: RunBodies,
    first: u64,
    node_bits: u64,
    owner: u32,
    entry: EntryKey,
}

impl PeekedRun {
    /// The id of the run's message with this index.
    pub fn id(&self, index: u32) -> MessageId {
        to_wire((self.first + u64::from(index)) ^ self.node_bits)
    }

    /// The position behind the message with this index.
    pub fn position_after(&self, index: u32) -> PeekPosition {
        let Self { state, owner, entry, .. } = *self;
        PeekPosition { state, owner, entry, last: self.first + u64::from(index) }
    }
}

/// The result of a step.
#[derive(Debug, Clone, Default)]
pub struct PeekStep {
    /// The next messages. A step may have none, though there are more.
    pub runs: Vec<PeekedRun>,
    /// The position behind these messages; `None` if there are no more.
    pub next: Option<PeekPosition>,
}

impl BrokerState {
    /// Returns about as many messages as wanted, from a position on. Takes at most some hundred
    /// microseconds, whatever the number and the size of the messages.
    ///
    /// # Errors
    ///
    /// Fails if the topic or channel does not exist, or if the position is not in it.
    pub fn peek(
        &self,
        selection: &PeekSelection,
        after: Option<PeekPosition>,
        wanted: usize,
        now: Now,
    ) -> Result<PeekStep, PeekError> {
        let topic = self.topics.get(&selection.topic).ok_or(PeekError::Missing(Missing::Topic))?;
        let channel = match &selection.channel {
            Some(name) => {
                let id = topic.channels.get(name).ok_or(PeekError::Missing(Missing::Channel))?;
                Some(&self.channels[id])
            }
            None => None,
        };
        let (selected, owner) = (selection.state, channel.map_or(topic.id.0, |channel| channel.id.0));
        if after.is_some_and(|after| (after.state, after.owner) != (selected, owner)) {
            return Err(PeekError::Elsewhere);
        }
        let collector = StepCollector { state: self, selected, owner, after, wanted, now, bytes: 0, runs: vec![] };
        Ok(match (selected, channel) {
            (PeekState::Waiting, Some(channel)) => collector.queued(channel),
            (PeekState::InFlight, Some(channel)) => collector.in_flight(channel),
            (PeekState::Deferred, Some(channel)) => collector.deferred(channel),
            (PeekState::Held, None) => collector.held(topic),
            (PeekState::Held, Some(_)) | (_, None) => PeekStep::default(),
        })
    }
}

type TimerKey = (Micros, ChannelId, u64);

/// An entry of a queue, or a timed one.
struct PeekedEntry {
    key: EntryKey,
    run: MessageRun,
    attempts: u16,
    due: Option<Micros>,
    session: Option<SessionId>,
}

struct StepCollector<'a> {
    state: &'a BrokerState,
    selected: PeekState,
    owner: u32,
    after: Option<PeekPosition>,
    /// The number of messages that are still wanted.
    wanted: usize,
    now: Now,
    /// Bytes of the batches added.
    bytes: u64,
    runs: Vec<PeekedRun>,
}

impl StepCollector<'_> {
    fn queued(self, channel: &Channel) -> PeekStep {
        let begin = self.begin(channel.popped, channel.queue.len());
        let entries = channel.queue.range(begin..).zip(channel.popped + begin as u64..);
        self.collect(entries.map(|(it, number)| PeekedEntry {
            key: (number, 0, 0),
            run: it.run,
            attempts: it.attempts,
            due: None,
            session: None,
        }))
    }

    fn held(self, topic: &Topic) -> PeekStep {
        let (begin, now) = (self.begin(topic.taken, topic.held.len()), self.now);
        let entries = topic.held.range(begin..).zip(topic.taken + begin as u64..);
        self.collect(entries.map(|(it, number)| PeekedEntry {
            key: (number, 0, 0),
            run: it.run,
            attempts: 0,
            due: it.due.map(|due| now.until(due)),
            session: None,
        }))
    }

    /// The index of the first entry to look at, in a queue of this length, which `popped` entries
    /// have left.
    fn begin(&self, popped: u64, length: usize) -> usize {
        let number = self.after.map_or(0, |after| after.entry.0);
        usize::try_from(number.saturating_sub(popped)).unwrap_or(length).min(length)
    }

    fn in_flight(self, channel: &Channel) -> PeekStep {
        let timers = channel.in_flight.iter().map(|(id, it)| (it.deadline, channel.id, *id));
        self.timed((channel.in_flight.len(), channel.in_flight.capacity()), timers, |timer| {
            let it = channel.in_flight.get(&timer.2)?;
            let (run, attempts, due, session) = (it.run, it.attempts, Some(it.deadline), Some(it.session));
            Some(PeekedEntry { key: entry_key(timer), run, attempts, due, session })
        })
    }

    fn deferred(self, channel: &Channel) -> PeekStep {
        let timers = channel.deferred.iter().map(|(id, it)| (it.until, channel.id, *id));
        self.timed((channel.deferred.len(), channel.deferred.capacity()), timers, |timer| {
            let it = channel.deferred.get(&timer.2)?;
            let (run, attempts, due) = (it.run, it.attempts, Some(it.until));
            Some(PeekedEntry { key: entry_key(timer), run, attempts, due, session: None })
        })
    }

    /// Collects the entries of a channel's timers, in their order. Few of them are sorted, unless
    /// their table is large because there were many. Many are found in a part of the set of all
    /// channels' timers.
    fn timed(
        self,
        (count, capacity): (usize, usize),
        of_channel: impl Iterator<Item = TimerKey>,
        entry: impl Fn(TimerKey) -> Option<PeekedEntry>,
    ) -> PeekStep {
        let begin = self.after.map(|after| (after.entry.0, ChannelId(after.entry.1), after.entry.2));
        let owner = ChannelId(self.owner);
        let (part, is_all) = if count <= MAX_SCANNED && capacity <= MAX_CAPACITY {
            let mut timers: Vec<_> = of_channel.filter(|timer| begin.is_none_or(|begin| *timer >= begin)).collect();
            timers.sort_unstable();
            (timers, true)
        } else {
            let begin = begin.map_or(Bound::Unbounded, Bound::Included);
            let all = self.state.store.timers.range((begin, Bound::Unbounded));
            let part: Vec<_> = all.take(MAX_SCANNED).copied().collect();
            let is_all = part.len() < MAX_SCANNED;
            (part, is_all)
        };
        let (state, last) = (self.selected, part.last().copied());
        let mut step = self.collect(part.into_iter().filter(|(_, id, _)| *id == owner).filter_map(entry));
        if step.next.is_none() && !is_all {
            let behind = |timer| PeekPosition { state, owner: owner.0, entry: entry_key(timer), last: u64::MAX };
            step.next = last.map(behind);
        }
        step
    }

    /// Adds entries up to the limits of a step.
    fn collect(mut self, entries: impl Iterator<Item = PeekedEntry>) -> PeekStep {
        for entry in entries {
            self.add(&entry);
            if self.wanted == 0 || self.bytes >= MAX_BYTES || self.runs.len() >= MAX_RUNS {
                let next = self.runs.last().map(|run| run.position_after(run.count - 1));
                return PeekStep { runs: self.runs, next };
            }
        }
        PeekStep { runs: self.runs, next: None }
    }

    /// Adds an entry, unless all of its messages were seen before.
    fn add(&mut self, PeekedEntry { key, run, attempts, due, session }: &PeekedEntry) {
        let (store, sessions) = (&self.state.store, &self.state.sessions);
        let first = store.batches.id(run);
        let seen = self.after.filter(|after| after.entry == *key);
        let skip = seen.map_or(0, |seen| seen.last.saturating_add(1).saturating_sub(first));
        let Some(skip) = u32::try_from(skip).ok().filter(|skip| *skip < run.count) else { return };
        self.wanted = self.wanted.saturating_sub((run.count - skip) as usize);
        self.bytes += u64::from(store.batches.length(run.key));
        self.runs.push(PeekedRun {
            state: self.selected,
            timestamp: store.batches.timestamp(run.key),
            attempts: *attempts,
            count: run.count,
            skip,
            due_in_ms: due.map(|due| due.saturating_sub(self.now.at) / 1_000),
            client: session.and_then(|id| sessions.get(id)).map(|session| PeekedClient {
                client_id: session.settings.client_id.clone(),
                hostname: session.settings.hostname.clone(),
                remote_address: session.remote_address.clone(),
            }),
            bodies: store.batches.run_bodies(run, &*store.log),
            first,
            node_bits: node_bits(store.limits.node_id),
            owner: self.owner,
            entry: *key,
        });
    }
}

fn entry_key((when, ChannelId(channel), id): TimerKey) -> EntryKey {
    (when, channel, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip_and_other_text_is_refused() {
        let last = u64::MAX;
        for state in PeekState::ALL {
            let position = PeekPosition { state, owner: 7, entry: (u64::MAX, 3, 1), last };
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        let good = "waiting-1-2-0-0-4";
        assert!(good.parse::<PeekPosition>().is_ok());
        for wrong in [
            "",
            "-",
            "waiting",
            "waiting-1-2-0-0",
            "waiting-1-2-0-0-4-5",
            "waiting-1-2-0-0-",
            "x-1-2-0-0-4",
            "waiting-1-2-0-0-+4",
            "waiting-100000000-2-0-0-4",
            "waiting-1-2-0-0-11111111111111111",
        ] {
            assert_eq!(wrong.parse::<PeekPosition>(), Err(()), "{wrong}");
        }
    }
}

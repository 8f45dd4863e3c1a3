//! Compaction: rewrites the live messages of a segment that is mostly dead, so that the segment can
//! be removed.
//!
//! ```text
//!  find:  topics ─▶ channels' queues ─▶ timers (in flight, deferred)      which batches are in the segment, and where they wait
//!  move:  a batch ─▶ all its holders ─▶ the log ─▶ a new batch            the holders get the new one in place of the old
//! ```
//!
//! Compaction works in steps, so that the lock is never held for long. Messages are delivered and
//! finished between steps, so the location where a batch was found is only a hint. A batch is moved
//! if as many copies were found as are held; otherwise the next pass finds it again.

use std::collections::{BTreeMap, btree_map};
use std::io;
use std::ops::Bound;
use std::time::Instant;

use super::super::log::{ChannelCopy, ChannelId, CopyRun, MessageHolder, Relocated, TopicId, UnixMillis};
use super::BrokerState;
use super::message_store::{BatchKey, MessageRun};
use super::time::Micros;
use crate::proto::TopicName;

/// Maximum entries scanned in a step; those of the last batch may exceed it.
pub(super) const MAX_ENTRIES: usize = 4_000;
/// Maximum batches moved in a step, and bytes read and written for them; the last batch may exceed
/// it.
pub(super) const MAX_BATCHES: usize = 50;
pub(super) const MAX_BYTES: u64 = 512 << 10;
/// Maximum passes over a segment before it is left alone for a while.
const MAX_PASSES: u32 = 3;

/// Location where a batch was found.
#[derive(Debug, Clone)]
enum FoundLocation {
    /// Held by the topic, at this index.
    Topic(TopicName, usize),
    /// In a channel's queue, the entry with this number.
    Queue(ChannelId, u64),
    /// In flight or deferred in a channel.
    Timer(ChannelId),
}

/// Position of the scan for batches.
#[derive(Debug)]
enum ScanPosition {
    Topic(TopicName, usize),
    Queue(ChannelId, u64),
    Timers(Option<(Micros, ChannelId, u64)>),
}

/// Compaction of a segment.
#[derive(Debug)]
pub(super) struct Compaction {
    segment: u32,
    /// Sources that are not scanned yet; the last one is the next.
    sources: Vec<ScanPosition>,
    /// An ordered map, because a hash table of a segment's batches would take many milliseconds to
    /// grow, in one step.
    found: BTreeMap<BatchKey, Vec<FoundLocation>>,
    /// Batches to move in this pass.
    moving: btree_map::IntoIter<BatchKey, Vec<FoundLocation>>,
    passes: u32,
    /// The number of unreadable batches.
    unreadable: u32,
    /// Entries scanned in the last step.
    entries: usize,
}

/// Copies of messages, and their holder.
#[derive(Debug)]
struct HeldCopies {
    run: MessageRun,
    at: HolderSlot,
    /// The copy as it is in the log; `None` for an ephemeral channel or a topic.
    copy: Option<ChannelCopy>,
    /// When the messages are due, if the topic holds them.
    due: Option<UnixMillis>,
}

#[derive(Debug, Clone)]
enum HolderSlot {
    Topic(TopicName, usize),
    Queue(ChannelId, usize),
    InFlight(ChannelId, u64),
    Deferred(ChannelId, u64),
}

/// Consecutive messages of a batch, each with a holder.
struct HeldPiece {
    /// Indexes of the first message, and after the last one (`end`).
    begin: u32,
    end: u32,
    /// Offset of the first body.
    offset: u32,
    holdings: Vec<HeldCopies>,
}

impl BrokerState {
    /// Performs one step of compaction, bounded in what it scans, reads and writes; takes a
    /// millisecond or two. True if there is more to do at once.
    ///
    /// # Errors
    ///
    /// Fails if a message could not be written; it stays where it is, and is tried again in a later
    /// step.
    pub fn compact(&mut self) -> io::Result<bool> {
        let begun = self.compaction.take();
        let Some(mut work) = begun.or_else(|| self.store.log.compaction_candidate().map(Compaction::of)) else {
            return Ok(false);
        };
        let goes_on = match work.moving.len() == 0 {
            true => work.scan(self),
            false => self.relocate_batches(&mut work)?,
        };
        if goes_on {
            self.compaction = Some(work);
        }
        Ok(true)
    }

    /// When to call [`compact`](Self::compact) again, even if nothing changes; `None` if there is
    /// nothing to compact until something changes.
    pub fn next_compaction(&self) -> Option<Instant> {
        self.store.log.next_compaction()
    }

    /// Moves some batches; false if this was the last pass.
    fn relocate_batches(&mut self, work: &mut Compaction) -> io::Result<bool> {
        let begun = self.store.log.io_bytes();
        work.entries = 0;
        for _ in 0..MAX_BATCHES {
            let Some((key, spots)) = work.moving.next() else { break };
            match self.relocate(work.segment, key, &spots, &mut work.entries) {
                Ok(()) => {}
                Err(RelocationError::Read(error)) => {
                    tracing::error!(%error, "cannot read messages to relocate; they stay in their segment");
                    work.unreadable += 1;
                }
                Err(RelocationError::Write(error)) => {
                    // tried again later, beginning with the scan
                    self.store.log.postpone_compaction(work.segment);
                    return Err(error);
                }
            }
            if work.entries >= MAX_ENTRIES || self.store.log.io_bytes() - begun >= MAX_BYTES {
                break;
            }
        }
        if work.moving.len() > 0 {
            return Ok(true);
        }
        let is_done = self.store.log.compaction_candidate() != Some(work.segment);
        work.passes += 1;
        if !is_done && (work.unreadable > 0 || work.passes >= MAX_PASSES) {
            self.store.log.postpone_compaction(work.segment);
            return Ok(false);
        }
        Ok(!is_done)
    }

    /// Moves a batch, if all its holders were found.
    fn relocate(
        &mut self,
        segment: u32,
        key: BatchKey,
        spots: &[FoundLocation],
        entries: &mut usize,
    ) -> Result<(), RelocationError> {
        let Some((copies, count)) = self.store.batches.in_segment(key, segment) else { return Ok(()) };
        let Some((topic, holdings)) = self.holdings(key, count, spots, entries) else { return Ok(()) };
        if holdings.iter().map(|holding| u64::from(holding.run.count)).sum::<u64>() != copies {
            return Ok(());
        }
        let bodies = self.store.batches.peek(key, &mut *self.store.log).map_err(RelocationError::Read)?;
        let (timestamp, is_backlog) = (self.store.batches.timestamp(key), self.store.batches.is_backlog(key));
        let mut written: Vec<(HeldPiece, MessageRun)> = Vec::new();
        for piece in pieces(holdings) {
            let part = bodies.part(piece.offset as usize, piece.end - piece.begin);
            let first = self.store.batches.id(&piece.holdings[0].run);
            let location = match piece.relocated() {
                None => Ok(None),
                Some((holder, due, copies)) => {
                    let (copies, bodies) = (&copies[..], &part);
                    let from = Some(segment);
                    let relocated = Relocated { from, topic, first, timestamp, due, holder, copies, bodies };
                    self.store.log.relocate(&relocated)
                }
            };
            let location = match location {
                Ok(location) => location,
                Err(error) => {
                    // all holders keep the old batch; the duplicates in the log do no harm
                    written
                        .into_iter()
                        .for_each(|(_, new)| self.store.batches.drop_batch(new.key, &mut *self.store.log));
                    return Err(RelocationError::Write(error));
                }
            };
            let copies = piece.holdings.iter().map(|holding| u64::from(holding.run.count)).sum();
            let new = self.store.batches.replace(first, timestamp, part.compact(), location, is_backlog, copies);
            self.store.batches.hold_in_log(new.key, &mut *self.store.log);
            written.push((piece, new));
        }
        for (piece, new) in written {
            for HeldCopies { run, at, .. } in piece.holdings {
                let offset = if piece.end - piece.begin == 1 { run.offset() } else { piece.offset };
                *self.run_mut(&at) = run.moved(new.key, piece.begin, offset);
            }
        }
        self.store.batches.drop_batch(key, &mut *self.store.log);
        Ok(())
    }

    /// The holders found for a batch, and its topic.
    fn holdings(
        &self,
        key: BatchKey,
        count: u32,
        spots: &[FoundLocation],
        entries: &mut usize,
    ) -> Option<(TopicId, Vec<HeldCopies>)> {
        *entries += spots.len();
        let mut all = Vec::new();
        let mut topic_name = None;
        for spot in spots {
            match spot {
                FoundLocation::Topic(name, index) => {
                    let held = self.topics.get(name).and_then(|topic| topic.held.get(*index));
                    if let Some(held) = held.filter(|held| held.run.key == key) {
                        let (at, due) = (HolderSlot::Topic(name.clone(), *index), held.due);
                        all.push(HeldCopies { run: held.run, at, copy: None, due });
                    }
                    topic_name = Some(name);
                }
                FoundLocation::Queue(id, number) => {
                    let Some(channel) = self.channels.get(id) else { continue };
                    topic_name = Some(&channel.topic);
                    let Some(index) = number.checked_sub(channel.popped).and_then(|at| usize::try_from(at).ok()) else {
                        continue;
                    };
                    if let Some(waiting) = channel.queue.get(index).filter(|waiting| waiting.run.key == key) {
                        let copy = ChannelCopy { channel: *id, attempts: waiting.attempts, due: None };
                        let copy = channel.is_logged().then_some(copy);
                        all.push(HeldCopies { run: waiting.run, at: HolderSlot::Queue(*id, index), copy, due: None });
                    }
                }
                FoundLocation::Timer(id) => {
                    topic_name = topic_name.or(self.channels.get(id).map(|channel| &channel.topic))
                }
            }
        }
        let topic = self.topics.get(topic_name?)?;
        let first = self.store.batches.first(key);
        for id in topic.channels.values() {
            *entries += self.add_timed_copies(*id, key, first..first + u64::from(count), &mut all);
        }
        Some((topic.id, all))
    }

    /// Adds a batch's copies in flight and deferred in a channel; returns the number of entries
    /// scanned.
    fn add_timed_copies(
        &self,
        id: ChannelId,
        key: BatchKey,
        ids: std::ops::Range<u64>,
        all: &mut Vec<HeldCopies>,
    ) -> usize {
        let channel = &self.channels[&id];
        let is_logged = channel.is_logged();
        let mut add = |run: MessageRun, at: HolderSlot, attempts: u16, due: Option<UnixMillis>| {
            if run.key == key {
                let copy = is_logged.then_some(ChannelCopy { channel: id, attempts, due });
                all.push(HeldCopies { run, at, copy, due: None });
            }
        };
        let count = ids.end - ids.start;
        if count <= channel.in_flight.len() as u64 {
            for message in ids.clone() {
                let sent = channel.in_flight.get(&message);
                sent.into_iter().for_each(|it| add(it.run, HolderSlot::InFlight(id, message), it.attempts, None));
            }
        } else {
            let sent = channel.in_flight.iter();
            sent.for_each(|(message, it)| add(it.run, HolderSlot::InFlight(id, *message), it.attempts, None));
        }
        if count <= channel.deferred.len() as u64 {
            for message in ids {
                let later = channel.deferred.get(&message);
                later
                    .into_iter()
                    .for_each(|it| add(it.run, HolderSlot::Deferred(id, message), it.attempts, Some(it.due)));
            }
        } else {
            let later = channel.deferred.iter();
            later.for_each(|(message, it)| add(it.run, HolderSlot::Deferred(id, *message), it.attempts, Some(it.due)));
        }
        let entries = |there: usize| there.min(usize::try_from(count).unwrap_or(usize::MAX));
        1 + entries(channel.in_flight.len()) + entries(channel.deferred.len())
    }

    fn run_mut(&mut self, at: &HolderSlot) -> &mut MessageRun {
        let run = match at {
            HolderSlot::Topic(name, index) => {
                self.topics.get_mut(name).and_then(|it| it.held.get_mut(*index)).map(|it| &mut it.run)
            }
            HolderSlot::Queue(id, index) => {
                self.channels.get_mut(id).and_then(|it| it.queue.get_mut(*index)).map(|it| &mut it.run)
            }
            HolderSlot::InFlight(id, message) => {
                self.channels.get_mut(id).and_then(|it| it.in_flight.get_mut(message)).map(|it| &mut it.run)
            }
            HolderSlot::Deferred(id, message) => {
                self.channels.get_mut(id).and_then(|it| it.deferred.get_mut(message)).map(|it| &mut it.run)
            }
        };
        run.expect("it was found in this step")
    }
}

/// Error of moving a batch.
enum RelocationError {
    Read(io::Error),
    Write(io::Error),
}

impl Compaction {
    fn of(segment: u32) -> Self {
        let moving = BTreeMap::new().into_iter();
        Self { segment, sources: Vec::new(), found: BTreeMap::new(), moving, passes: 0, unreadable: 0, entries: 0 }
    }

    /// Scans for batches of the segment; false if there are none.
    fn scan(&mut self, state: &BrokerState) -> bool {
        if self.sources.is_empty() {
            self.sources.push(ScanPosition::Timers(None));
            self.sources.extend(state.channels.keys().map(|id| ScanPosition::Queue(*id, 0)));
            self.sources.extend(state.topics.keys().map(|name| ScanPosition::Topic(name.clone(), 0)));
        }
        let mut left = MAX_ENTRIES;
        while left > 0
            && let Some(source) = self.sources.pop()
        {
            // each source counts as one entry, even if empty
            left -= 1;
            let rest = self.scan_source(state, source, &mut left);
            self.sources.extend(rest);
        }
        self.entries = MAX_ENTRIES - left;
        if !self.sources.is_empty() {
            return true;
        }
        self.moving = std::mem::take(&mut self.found).into_iter();
        if self.moving.len() == 0 {
            self.passes += 1;
        }
        self.moving.len() > 0
    }

    /// Scans a part of a source; returns the rest.
    fn scan_source(&mut self, state: &BrokerState, source: ScanPosition, left: &mut usize) -> Option<ScanPosition> {
        let is_in = |run: &MessageRun| state.store.batches.in_segment(run.key, self.segment).is_some();
        match source {
            ScanPosition::Topic(name, begin) => {
                let held = &state.topics.get(&name)?.held;
                let end = held.len().min(begin + *left);
                for (index, held) in held.iter().enumerate().take(end).skip(begin) {
                    if is_in(&held.run) {
                        self.found.entry(held.run.key).or_default().push(FoundLocation::Topic(name.clone(), index));
                    }
                }
                *left -= end.saturating_sub(begin);
                (end < held.len()).then_some(ScanPosition::Topic(name, end))
            }
            ScanPosition::Queue(id, number) => {
                let channel = state.channels.get(&id)?;
                let begin = usize::try_from(number.saturating_sub(channel.popped)).ok()?;
                let end = channel.queue.len().min(begin + *left);
                for (index, waiting) in channel.queue.iter().enumerate().take(end).skip(begin) {
                    let run = &waiting.run;
                    if is_in(run) {
                        self.found
                            .entry(run.key)
                            .or_default()
                            .push(FoundLocation::Queue(id, channel.popped + index as u64));
                    }
                }
                *left -= end.saturating_sub(begin);
                (end < channel.queue.len()).then_some(ScanPosition::Queue(id, channel.popped + end as u64))
            }
            ScanPosition::Timers(after) => {
                let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
                let mut last = None;
                for timer in state.store.timers.range((begin, Bound::Unbounded)).take(*left) {
                    let (_, id, message) = *timer;
                    let channel = state.channels.get(&id)?;
                    let run = channel.in_flight.get(&message).map(|it| it.run);
                    let run = run.or_else(|| channel.deferred.get(&message).map(|it| it.run));
                    if let Some(run) = run.filter(is_in) {
                        let spots = self.found.entry(run.key).or_default();
                        if spots.is_empty() {
                            spots.push(FoundLocation::Timer(id));
                        }
                    }
                    *left -= 1;
                    last = Some(*timer);
                }
                last.filter(|_| *left == 0).map(|last| ScanPosition::Timers(Some(last)))
            }
        }
    }
}

/// Splits the held messages of a batch into pieces without gaps.
fn pieces(mut holdings: Vec<HeldCopies>) -> Vec<HeldPiece> {
    holdings.sort_by_key(|holding| holding.run.range().start);
    let mut pieces: Vec<HeldPiece> = Vec::new();
    for holding in holdings {
        let range = holding.run.range();
        match pieces.last_mut().filter(|piece| range.start < piece.end) {
            Some(piece) => {
                piece.end = piece.end.max(range.end);
                piece.holdings.push(holding);
            }
            None => {
                let offset = holding.run.offset();
                pieces.push(HeldPiece { begin: range.start, end: range.end, offset, holdings: vec![holding] });
            }
        }
    }
    pieces
}

impl HeldPiece {
    /// The holder, due time and copies to write to the log; `None` if only ephemeral channels hold
    /// the messages.
    fn relocated(&self) -> Option<(MessageHolder, Option<UnixMillis>, Vec<CopyRun>)> {
        if let Some(held) = self.holdings.iter().find(|holding| matches!(holding.at, HolderSlot::Topic(..))) {
            return Some((MessageHolder::Topic, held.due, Vec::new()));
        }
        let run = |holding: &HeldCopies| {
            let copy = holding.copy?;
            Some(CopyRun { copy, index: holding.run.range().start - self.begin, count: holding.run.count })
        };
        let copies: Vec<_> = self.holdings.iter().filter_map(run).collect();
        (!copies.is_empty()).then_some((MessageHolder::Channels, None, copies))
    }
}

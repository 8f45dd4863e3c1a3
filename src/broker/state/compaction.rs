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
//! if as many copies were found as are held; otherwise the next pass finds it again. A batch in
//! many pieces, or with many holders, is moved in several steps.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;

use tokio::time::Instant;

use super::super::log::{ChannelCopy, ChannelId, CopyRun, MessageHolder, Relocated, TopicId, UnixMillis};
use super::BrokerState;
use super::channel::Channel;
use super::message_store::{BatchKey, MessageRun};
use super::time::Micros;
use crate::io_error::describe;
use crate::proto::{Bodies, TopicName};

/// Maximum entries scanned in a step; those of the last batch may exceed it, up to twice as many.
pub(super) const MAX_ENTRIES: usize = 4_000;
/// Maximum pieces of batches moved in a step, and bytes read and written for them; the last piece
/// may exceed it.
pub(super) const MAX_PIECES: usize = 50;
pub(super) const MAX_BYTES: u64 = 512 << 10;
/// Entries scanned between two looks at the time.
const ENTRIES_PER_CHECK: usize = 250;
/// Maximum passes over a segment before it is left alone for a while.
const MAX_PASSES: u32 = 3;

/// Location where a batch was found.
#[derive(Debug, Clone)]
enum FoundLocation {
    /// Held by the topic, at this index.
    Topic(TopicName, usize),
    /// In a channel's queue, the entry with this number.
    Queue(ChannelId, u64),
    /// In flight or deferred in a channel, with this id of the first message.
    Timer(ChannelId, u64),
}

/// Locations found, by batch, and by the index of the first message there.
type FoundBatches = BTreeMap<(BatchKey, u32), Vec<FoundLocation>>;

/// A batch to move, or a part of one that was found in too many locations for a step.
#[derive(Debug)]
struct FoundBatch {
    key: BatchKey,
    spots: Vec<FoundLocation>,
    /// True if other locations of the batch come later.
    is_part: bool,
    /// The bodies, if a part was moved in an earlier step; with the batch's first id and count.
    bodies: Option<(u64, u32, Bodies)>,
}

/// The work that a step has done, and may still do.
struct StepLimits {
    /// Entries scanned, and pieces that may still be moved.
    entries: usize,
    pieces: usize,
    /// Bytes read and written.
    read: u64,
    written: u64,
    until: Instant,
}

impl StepLimits {
    fn new(until: Instant) -> Self {
        Self { entries: 0, pieces: MAX_PIECES, read: 0, written: 0, until }
    }

    /// True if no further batch may be moved.
    fn are_reached(&self) -> bool {
        self.entries >= MAX_ENTRIES || self.read + self.written >= MAX_BYTES || self.has_no_piece_left()
    }

    /// True if no further piece of a batch that was read may be moved; one is always moved.
    fn has_no_piece_left(&self) -> bool {
        let is_late = || Instant::now() >= self.until;
        self.pieces == 0 || (self.pieces < MAX_PIECES && (self.written >= MAX_BYTES || is_late()))
    }
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
    found: FoundBatches,
    /// Batches to move in this pass, and one of which a part was moved.
    moving: FoundBatches,
    partly_moved: Option<FoundBatch>,
    /// The error of a write: the remaining batches are only forgotten, in steps as well.
    failed: Option<io::Error>,
    passes: u32,
    /// The number of unreadable batches.
    unreadable: u32,
    /// Entries scanned in the last step.
    pub(super) entries: usize,
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
    /// Performs one step of compaction, bounded in what it scans, reads and writes, so that it
    /// takes a millisecond or two. A step that has done something ends at `until` at the latest.
    /// True if there is more to do at once.
    ///
    /// # Errors
    ///
    /// Fails if a message could not be written; it stays where it is, and is tried again in a later
    /// step.
    pub fn compact(&mut self, until: Instant) -> io::Result<bool> {
        let begun = self.compaction.take();
        let Some(mut work) = begun.or_else(|| self.store.log.compaction_candidate().map(Compaction::of)) else {
            return Ok(false);
        };
        let goes_on = match (work.failed.is_some(), work.is_moving()) {
            (true, _) => work.forget_batches()?,
            (false, true) => self.relocate_batches(&mut work, until),
            (false, false) => work.scan(self, until),
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
    fn relocate_batches(&mut self, work: &mut Compaction, until: Instant) -> bool {
        let mut limits = StepLimits::new(until);
        while let Some(batch) = work.next_batch() {
            match self.relocate(work.segment, batch, &mut limits) {
                Ok(rest) => work.partly_moved = rest,
                Err(RelocationError::Read(error)) => {
                    tracing::error!(error = %describe(&error), "cannot read messages to relocate; they stay in their segment");
                    work.unreadable += 1;
                }
                Err(RelocationError::Write(error)) => {
                    // tried again later, beginning with the scan
                    self.store.log.postpone_compaction(work.segment);
                    work.failed = Some(error);
                    break;
                }
            }
            if limits.are_reached() {
                break;
            }
        }
        work.entries = limits.entries;
        if work.is_moving() || work.failed.is_some() {
            return true;
        }
        let is_done = self.store.log.compaction_candidate() != Some(work.segment);
        work.passes += 1;
        if !is_done && (work.unreadable > 0 || work.passes >= MAX_PASSES) {
            self.store.log.postpone_compaction(work.segment);
            return false;
        }
        !is_done
    }

    /// Moves a batch, if all its holders were found, or a part of it; returns the rest, if there is
    /// no time for it in this step.
    fn relocate(
        &mut self,
        segment: u32,
        mut batch: FoundBatch,
        limits: &mut StepLimits,
    ) -> Result<Option<FoundBatch>, RelocationError> {
        let key = batch.key;
        let Some((copies, count)) = self.store.batches.in_segment(key, segment) else { return Ok(None) };
        let Some((topic, holdings)) = self.holdings(&batch, copies, count, limits) else { return Ok(None) };
        // a key is used again, for another batch
        let first = self.store.batches.first(key);
        let bodies = match batch.bodies.take().filter(|read| (read.0, read.1) == (first, count)) {
            Some((.., bodies)) => bodies,
            None => {
                let begun = self.store.log.io_bytes();
                let bodies = self.store.batches.peek(key, &mut *self.store.log).map_err(RelocationError::Read)?;
                limits.read += self.store.log.io_bytes() - begun;
                bodies
            }
        };
        let (timestamp, is_backlog) = (self.store.batches.timestamp(key), self.store.batches.is_backlog(key));
        for piece in pieces(holdings) {
            if limits.has_no_piece_left() {
                batch.bodies = Some((first, count, bodies));
                return Ok(Some(batch));
            }
            let part = bodies.part(piece.offset as usize, piece.end - piece.begin);
            let first = self.store.batches.id(&piece.holdings[0].run);
            let begun = self.store.log.io_bytes();
            let location = match piece.relocated() {
                None => None,
                Some((holder, due, copies)) => {
                    let (copies, bodies) = (&copies[..], &part);
                    let from = Some(segment);
                    let relocated = Relocated { from, topic, first, timestamp, due, holder, copies, bodies };
                    self.store.log.relocate(&relocated).map_err(RelocationError::Write)?
                }
            };
            limits.pieces -= 1;
            limits.written += self.store.log.io_bytes() - begun;
            let copies = piece.holdings.iter().map(|holding| u64::from(holding.run.count)).sum();
            let new = self.store.batches.replace(first, timestamp, part.compact(), location, is_backlog, copies);
            self.store.batches.hold_in_log(new.key, &mut *self.store.log);
            for HeldCopies { run, at, .. } in piece.holdings {
                let offset = if piece.end - piece.begin == 1 { run.offset() } else { piece.offset };
                *self.run_mut(&at) = run.moved(new.key, piece.begin, offset);
                self.store.batches.release(run, &mut *self.store.log);
            }
        }
        Ok(None)
    }

    /// The holders found for a batch, and its topic. `None` if some of its `copies` copies were not
    /// found, unless only a part of them is looked for.
    fn holdings(
        &self,
        batch: &FoundBatch,
        copies: u64,
        count: u32,
        limits: &mut StepLimits,
    ) -> Option<(TopicId, Vec<HeldCopies>)> {
        let key = batch.key;
        limits.entries += batch.spots.len();
        let mut all = Vec::new();
        let mut topic_name = None;
        for spot in &batch.spots {
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
                FoundLocation::Timer(id, message) => {
                    let Some(channel) = self.channels.get(id) else { continue };
                    topic_name = Some(&channel.topic);
                    all.extend(timed_copies(channel, key, *message));
                }
            }
        }
        let topic = self.topics.get(topic_name?)?;
        let found = |all: &[HeldCopies]| all.iter().map(|holding| u64::from(holding.run.count)).sum::<u64>();
        if !batch.is_part && found(&all) < copies {
            // some were delivered, or requeued, since the scan
            all.retain(|held| matches!(held.at, HolderSlot::Topic(..) | HolderSlot::Queue(..)));
            let first = self.store.batches.first(key);
            for id in topic.channels.values() {
                limits.entries += self.add_timed_copies(*id, key, first..first + u64::from(count), &mut all);
                if limits.entries >= MAX_ENTRIES {
                    break;
                }
            }
        }
        let is_found = batch.is_part || found(&all) == copies;
        is_found.then_some((topic.id, all))
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
        let count = ids.end - ids.start;
        if count <= channel.in_flight.len().max(channel.deferred.len()) as u64 {
            all.extend(ids.flat_map(|message| timed_copies(channel, key, message)));
        } else {
            let messages = channel.in_flight.keys().chain(channel.deferred.keys());
            all.extend(messages.flat_map(|message| timed_copies(channel, key, *message)));
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
                self.channels.get_mut(id).and_then(|it| it.deferred.get_mut(*message)).map(|it| &mut it.run)
            }
        };
        run.expect("it was found in this step")
    }
}

/// A batch's copies in flight and deferred in a channel, from this message on.
fn timed_copies(channel: &Channel, key: BatchKey, message: u64) -> impl Iterator<Item = HeldCopies> {
    let (id, is_logged) = (channel.id, channel.is_logged());
    let held = move |run: MessageRun, at: HolderSlot, attempts: u16, due: Option<UnixMillis>| {
        let copy = is_logged.then_some(ChannelCopy { channel: id, attempts, due });
        (run.key == key).then_some(HeldCopies { run, at, copy, due: None })
    };
    let sent = channel.in_flight.get(&message);
    let sent = sent.and_then(|it| held(it.run, HolderSlot::InFlight(id, message), it.attempts, None));
    let later = channel.deferred.get(&message);
    let later = later.and_then(|it| held(it.run, HolderSlot::Deferred(id, message), it.attempts, Some(it.due)));
    sent.into_iter().chain(later)
}

/// Error of moving a batch.
enum RelocationError {
    Read(io::Error),
    Write(io::Error),
}

impl Compaction {
    fn of(segment: u32) -> Self {
        Self {
            segment,
            sources: Vec::new(),
            found: BTreeMap::new(),
            moving: BTreeMap::new(),
            partly_moved: None,
            failed: None,
            passes: 0,
            unreadable: 0,
            entries: 0,
        }
    }

    /// True if batches were found that are not moved yet.
    fn is_moving(&self) -> bool {
        self.partly_moved.is_some() || !self.moving.is_empty()
    }

    /// The next batch to move, with as many locations as a step may look at.
    fn next_batch(&mut self) -> Option<FoundBatch> {
        if let Some(rest) = self.partly_moved.take() {
            return Some(rest);
        }
        let ((key, _), mut spots) = self.moving.pop_first()?;
        let goes_on = |moving: &FoundBatches| moving.first_key_value().is_some_and(|((next, _), _)| *next == key);
        while spots.len() < MAX_ENTRIES && goes_on(&self.moving) {
            spots.extend(self.moving.pop_first().map(|(_, more)| more).unwrap_or_default());
        }
        Some(FoundBatch { key, spots, is_part: goes_on(&self.moving), bodies: None })
    }

    /// Forgets some batches after a failed write; fails with its error when none is left.
    fn forget_batches(&mut self) -> io::Result<bool> {
        for _ in 0..MAX_ENTRIES {
            if self.next_batch().is_none() {
                return self.failed.take().map_or(Ok(false), Err);
            }
        }
        Ok(true)
    }

    /// Scans for batches of the segment; false if there are none.
    fn scan(&mut self, state: &BrokerState, until: Instant) -> bool {
        if self.sources.is_empty() {
            self.sources.push(ScanPosition::Timers(None));
            self.sources.extend(state.channels.keys().map(|id| ScanPosition::Queue(*id, 0)));
            self.sources.extend(state.topics.keys().map(|name| ScanPosition::Topic(name.clone(), 0)));
        }
        let mut left = MAX_ENTRIES;
        while left > 0
            && (left == MAX_ENTRIES || Instant::now() < until)
            && let Some(source) = self.sources.pop()
        {
            // each source counts as one entry, even if empty
            let mut few = left.min(ENTRIES_PER_CHECK);
            left -= few;
            few -= 1;
            let rest = self.scan_source(state, source, &mut few);
            left += few;
            self.sources.extend(rest);
        }
        self.entries = MAX_ENTRIES - left;
        if !self.sources.is_empty() {
            return true;
        }
        self.moving = std::mem::take(&mut self.found);
        if self.moving.is_empty() {
            self.passes += 1;
        }
        !self.moving.is_empty()
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
                        let found = self.found.entry((held.run.key, held.run.range().start)).or_default();
                        found.push(FoundLocation::Topic(name.clone(), index));
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
                        let found = self.found.entry((run.key, run.range().start)).or_default();
                        found.push(FoundLocation::Queue(id, channel.popped + index as u64));
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
                        let found = self.found.entry((run.key, run.range().start)).or_default();
                        found.push(FoundLocation::Timer(id, message));
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

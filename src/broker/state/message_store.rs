//! All messages. Messages that were published together are stored as one batch, once for all their
//! holders.
//!
//! ```text
//!  StoredBatch   first id │ timestamp │ location in the log │ bodies, if in memory │ number of copies
//!      ▲
//!  MessageRun    key of the batch │ index and offset of the first message │ count (held by topics and channels)
//! ```
//!
//! Bodies stay in memory up to a limit. Beyond it, they are only in the log, and are read back, a
//! batch at a time, when a channel delivers them. A batch that was read back is dropped from memory
//! once enough others were read after it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;

use bytes::Bytes;
use slab::Slab;

use super::super::log::{BATCH_OVERHEAD, Log, LogLocation};
use super::run_bodies::{BodySource, RunBodies};
use super::time::{Micros, Millis};
use crate::proto::Bodies;

/// Key of a batch, valid as long as one of its messages is held.
pub(super) type BatchKey = u32;

/// Maximum bytes of batches that were read back and stay in memory.
const MAX_READ_BACK: usize = 4 << 20;

/// Delays in milliseconds before an unreadable batch is tried again: the first one, which doubles
/// with each failure, and the longest.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 3_600_000;

/// Location of batches that are not in the log; no log has such a segment.
const NOWHERE: LogLocation = LogLocation { segment: u32::MAX, offset: u32::MAX, record: u32::MAX };

/// Bytes of memory that a batch takes besides its bodies: the batch, its slab entry, and the
/// reference count of its bodies.
pub(super) const BATCH_BYTES: usize = size_of::<StoredBatch>() + 8 + 24;

/// Messages that were published together. There may be as many batches as messages, so the size
/// matters: 104 bytes.
#[derive(Debug)]
struct StoredBatch {
    /// The id of the first message; the others count up from it.
    first: u64,
    /// When they were published, in nanoseconds since 1970.
    timestamp: i64,
    /// The bodies, if they are in memory.
    bodies: Option<Bodies>,
    /// Bytes of the bodies with their sizes.
    length: u32,
    count: u32,
    /// The number of copies: a message counts once for each holder.
    copies: u64,
    /// Bytes of the copies, with their sizes; the highest number if unknown.
    copy_bytes: u32,
    /// The location in the log, or [`NOWHERE`].
    location: LogLocation,
    /// True if the bodies were only in the log from the start.
    is_backlog: bool,
    /// Serial number of the read, if the bodies are in memory because they were read back.
    read_back: Option<NonZeroU64>,
}

impl StoredBatch {
    fn location(&self) -> Option<LogLocation> {
        (self.location != NOWHERE).then_some(self.location)
    }

    /// Bytes of the log that the batch needs, rounded up by at most an eighth, so that the log is
    /// not told of each finished message.
    fn cost(&self) -> u64 {
        let bytes = u64::from(self.length.min(self.copy_bytes));
        let step = (u64::BITS - bytes.leading_zeros()).saturating_sub(4);
        BATCH_OVERHEAD + u64::from(self.length).min(((bytes >> step) + 1) << step)
    }

    /// Bytes of these messages with their sizes; 0 if unknown.
    fn bytes_of(&self, run: &MessageRun) -> u32 {
        match &self.bodies {
            _ if run.index + run.count == self.count => self.length - run.offset,
            Some(bodies) => {
                let end = (0..run.count).fold(run.offset as usize, |at, _| bodies.at(at).end);
                end as u32 - run.offset
            }
            None => 0,
        }
    }
}

/// Consecutive messages of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageRun {
    pub(super) key: BatchKey,
    /// Index of the first message in the batch.
    index: u32,
    /// Offset of its body, with its size, in the batch.
    offset: u32,
    pub(super) count: u32,
}

impl MessageRun {
    /// The same messages in a new batch, which begins with this batch's message `index`, whose body
    /// is at `offset`.
    pub(super) fn moved(self, key: BatchKey, index: u32, offset: u32) -> Self {
        Self { key, index: self.index - index, offset: self.offset - offset, count: self.count }
    }

    /// The range of the messages' indexes in the batch.
    pub(super) fn range(&self) -> Range<u32> {
        self.index..self.index + self.count
    }

    /// The offset of the first body in the batch.
    pub(super) fn offset(&self) -> u32 {
        self.offset
    }

    /// The first `count` messages of the run.
    pub(super) fn truncated(self, count: u32) -> Self {
        Self { count: self.count.min(count), ..self }
    }
}

/// The next message of a run.
pub(super) struct NextMessage {
    pub(super) id: u64,
    pub(super) timestamp: i64,
    /// A run of this message alone.
    pub(super) run: MessageRun,
    /// The range of its body in the batch's bytes.
    body: Range<usize>,
}

/// Failed reads of a batch.
#[derive(Debug, Clone, Copy, Default)]
struct UnreadableBatch {
    failures: u32,
    /// When the next read is allowed.
    until: Micros,
}

/// All batches, and the memory that their bodies take.
#[derive(Debug)]
pub(super) struct MessageStore {
    all: Slab<StoredBatch>,
    /// Bytes of bodies in memory that are nowhere else; and of bodies that are also in the log, and
    /// were not read back.
    only_here: usize,
    also_here: usize,
    /// Maximum bytes of bodies in memory; beyond it, logged bodies are only in the log.
    limit: usize,
    /// Batches that were read back, in that order.
    read_back: BTreeMap<NonZeroU64, BatchKey>,
    read_back_bytes: usize,
    reads: u64,
    last_id: u64,
    unreadable: HashMap<BatchKey, UnreadableBatch>,
}

impl MessageStore {
    pub(super) fn new(limit: usize) -> Self {
        let (all, read_back, unreadable) = (Slab::new(), BTreeMap::new(), HashMap::new());
        let (only_here, also_here, read_back_bytes, reads, last_id) = (0, 0, 0, 0, 0);
        Self { all, only_here, also_here, limit, read_back, read_back_bytes, reads, last_id, unreadable }
    }

    /// Reserves `count` consecutive unused ids; returns the first. Like nsqd's (`guid.go`), ids
    /// grow with time, so a broker without a log does not reuse the ids of its predecessor.
    pub(super) fn reserve_ids(&mut self, count: u64, unix_nanos: i64) -> u64 {
        const EPOCH: u64 = 1_288_834_974_288;
        let ticks = u64::try_from(unix_nanos >> 20).unwrap_or(0).saturating_sub(EPOCH);
        let first = (ticks << 22).max(self.last_id + 1);
        self.last_id = first + count - 1;
        first
    }

    /// Marks all ids up to this one as used.
    pub(super) fn reserve_ids_up_to(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// True if unlogged bodies of this size fit into memory. Bodies that are also in the log do not
    /// count.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.only_here.saturating_add(bytes) <= self.limit
    }

    /// The counter of memory for bodies with this location.
    fn resident(&mut self, location: Option<LogLocation>) -> &mut usize {
        if location.is_some() { &mut self.also_here } else { &mut self.only_here }
    }

    /// Stores messages for `holders` holders, each of which holds all of them.
    pub(super) fn insert(
        &mut self,
        first: u64,
        timestamp: i64,
        bodies: Bodies,
        location: Option<LogLocation>,
        holders: u32,
        log: &mut dyn Log,
    ) -> MessageRun {
        let bytes = self.only_here.saturating_add(self.also_here).saturating_add(bodies.length());
        let is_backlog = location.is_some() && bytes > self.limit;
        let (length, count) = (length_of(&bodies), bodies.count());
        *self.resident(location) += if is_backlog { 0 } else { bodies.length() };
        let run = self.add(StoredBatch {
            first,
            timestamp,
            bodies: (!is_backlog).then_some(bodies),
            length,
            count,
            copies: u64::from(holders) * u64::from(count),
            copy_bytes: length.saturating_mul(holders),
            location: location.unwrap_or(NOWHERE),
            is_backlog,
            read_back: None,
        });
        self.hold_in_log(run.key, log);
        run
    }

    /// Reports a batch as live to the log.
    pub(super) fn hold_in_log(&self, key: BatchKey, log: &mut dyn Log) {
        let batch = self.get(key);
        if let Some(location) = batch.location() {
            log.hold(location.segment, batch.count, batch.cost());
        }
    }

    /// Adds messages that are in the log, `length` bytes with their sizes.
    pub(super) fn recover(
        &mut self,
        first: u64,
        timestamp: i64,
        location: LogLocation,
        length: u32,
        count: u32,
    ) -> MessageRun {
        let (bodies, copies, copy_bytes, read_back) = (None, 0, 0, None);
        self.add(StoredBatch {
            first,
            timestamp,
            bodies,
            length,
            count,
            copies,
            copy_bytes,
            location,
            is_backlog: true,
            read_back,
        })
    }

    fn add(&mut self, batch: StoredBatch) -> MessageRun {
        let count = batch.count;
        let key = BatchKey::try_from(self.all.insert(batch)).expect("memory ends before 4 billion batches");
        MessageRun { key, index: 0, offset: 0, count }
    }

    /// The number of batches.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn get(&self, key: BatchKey) -> &StoredBatch {
        &self.all[key as usize]
    }

    /// The id of a run's first message.
    pub(super) fn id(&self, run: &MessageRun) -> u64 {
        self.get(run.key).first + u64::from(run.index)
    }

    /// The id of a batch's first message.
    pub(super) fn first(&self, key: BatchKey) -> u64 {
        self.get(key).first
    }

    pub(super) fn timestamp(&self, key: BatchKey) -> i64 {
        self.get(key).timestamp
    }

    /// True if the bodies were only in the log from the start, which nsqd calls its backend.
    pub(super) fn is_backlog(&self, key: BatchKey) -> bool {
        self.get(key).is_backlog
    }

    /// Removes the first message from a run, which must not be empty. Fails, and removes nothing,
    /// if its body cannot be read.
    pub(super) fn next(&mut self, run: &mut MessageRun, log: &mut dyn Log) -> io::Result<NextMessage> {
        let (id, timestamp) = (self.id(run), self.timestamp(run.key));
        let body = self.bodies(run.key, log)?.at(run.offset as usize);
        let next = NextMessage { id, timestamp, run: run.truncated(1), body };
        run.index += 1;
        run.offset = next.body.end as u32;
        run.count -= 1;
        Ok(next)
    }

    /// The body of the message that [`MessageStore::next`] returned last from this batch, as a
    /// range of bytes.
    pub(super) fn body(&self, next: &NextMessage) -> (&Bytes, Range<usize>) {
        let bodies = self.get(next.run.key).bodies.as_ref().expect("it was just read");
        (bodies.bytes(), next.body.clone())
    }

    /// All bodies of a batch, from memory or from the log.
    fn bodies(&mut self, key: BatchKey, log: &mut dyn Log) -> io::Result<&Bodies> {
        if self.get(key).bodies.is_none() {
            self.read(key, log)?;
            self.evict_read_back();
        }
        Ok(self.get(key).bodies.as_ref().expect("it is there by now"))
    }

    fn read(&mut self, key: BatchKey, log: &mut dyn Log) -> io::Result<()> {
        let batch = &mut self.all[key as usize];
        let bodies = log.read(batch.location, batch.length, batch.count)?;
        if !self.unreadable.is_empty() {
            self.unreadable.remove(&key);
        }
        self.reads += 1;
        self.read_back_bytes += bodies.length();
        batch.bodies = Some(bodies);
        batch.read_back = NonZeroU64::new(self.reads);
        self.read_back.extend(batch.read_back.map(|when| (when, key)));
        Ok(())
    }

    /// Records a failed read of a batch; returns the delay until it may be tried again, which
    /// doubles with each failure. All channels that hold the batch get the same time.
    pub(super) fn retry_delay(&mut self, key: BatchKey, now: Micros) -> Millis {
        let it = self.unreadable.entry(key).or_default();
        if it.until <= now {
            let delay = (RETRY_MIN_MS << it.failures.min(12)).min(RETRY_MAX_MS);
            *it = UnreadableBatch { failures: it.failures + 1, until: now + delay * 1_000 };
        }
        Millis((it.until - now).div_ceil(1_000))
    }

    /// Drops the oldest batches that were read back from memory, but not the last one.
    fn evict_read_back(&mut self) {
        while self.read_back_bytes > MAX_READ_BACK && self.read_back.len() > 1 {
            let Some((_, key)) = self.read_back.pop_first() else { return };
            let batch = &mut self.all[key as usize];
            batch.read_back = None;
            self.read_back_bytes -= batch.bodies.take().map_or(0, |bodies| bodies.length());
        }
    }

    /// Moves one copy, which is requeued or deferred, into a batch of its own, so that it does not
    /// keep all messages published with it. Returns `run` unchanged if its body cannot be read.
    pub(super) fn split_copy(&mut self, run: MessageRun, log: &mut dyn Log) -> MessageRun {
        let (id, count) = (self.id(&run), self.get(run.key).count);
        if count == 1 {
            return run;
        }
        let mut rest = run;
        let Ok(next) = self.next(&mut rest, log) else { return run };
        let (bytes, body) = self.body(&next);
        let body = Bodies::one(bytes.slice(body)).compact();
        let batch = self.get(run.key);
        let (timestamp, is_backlog, location) = (batch.timestamp, batch.is_backlog, batch.location());
        let location = location.map(|location| LogLocation { offset: location.offset + run.offset, ..location });
        let own = self.replace(id, timestamp, body, location, is_backlog, 1);
        self.hold_in_log(own.key, log);
        self.release(run, log);
        own
    }

    /// Stores messages of another batch as a new batch with `copies` copies.
    pub(super) fn replace(
        &mut self,
        id: u64,
        timestamp: i64,
        bodies: Bodies,
        location: Option<LogLocation>,
        is_backlog: bool,
        copies: u64,
    ) -> MessageRun {
        let (length, kept) = (length_of(&bodies), location.is_none() || !is_backlog);
        *self.resident(location) += if kept { bodies.length() } else { 0 };
        let count = bodies.count();
        self.add(StoredBatch {
            first: id,
            timestamp,
            bodies: kept.then_some(bodies),
            length,
            count,
            copies,
            copy_bytes: share(length, copies, count),
            location: location.unwrap_or(NOWHERE),
            is_backlog,
            read_back: None,
        })
    }

    /// Adds `copies` references to a batch.
    pub(super) fn hold(&mut self, key: BatchKey, copies: u64) {
        let batch = &mut self.all[key as usize];
        batch.copies += copies;
        batch.copy_bytes = batch.copy_bytes.saturating_add(share(batch.length, copies, batch.count));
    }

    /// The number of copies and of messages of a batch, if it is in this segment.
    pub(super) fn in_segment(&self, key: BatchKey, segment: u32) -> Option<(u64, u32)> {
        let batch =
            self.all.get(key as usize).filter(|batch| batch.location().is_some_and(|it| it.segment == segment))?;
        Some((batch.copies, batch.count))
    }

    /// All bodies of a batch; bodies read from the log are not kept in memory.
    pub(super) fn peek(&self, key: BatchKey, log: &mut dyn Log) -> io::Result<Bodies> {
        let batch = self.get(key);
        match &batch.bodies {
            Some(bodies) => Ok(bodies.clone()),
            None => log.read(batch.location, batch.length, batch.count),
        }
    }

    /// The bodies of a run, to be read without the store.
    pub(super) fn run_bodies(&self, run: &MessageRun, log: &dyn Log) -> RunBodies {
        let batch = self.get(run.key);
        let source = match &batch.bodies {
            Some(bodies) => BodySource::Memory(bodies.clone()),
            None => BodySource::Log(log.logged_bodies(batch.location, batch.length, batch.count)),
        };
        RunBodies::new(source, run.offset, run.count)
    }

    /// Bytes of all bodies of a batch, with their sizes.
    pub(super) fn length(&self, key: BatchKey) -> u32 {
        self.get(key).length
    }

    /// Drops a reference to each message of a run; the last one removes the batch.
    pub(super) fn release(&mut self, run: MessageRun, log: &mut dyn Log) {
        let batch = &mut self.all[run.key as usize];
        batch.copies -= u64::from(run.count);
        if batch.copies == 0 {
            let cost = batch.cost();
            self.remove(run.key, cost, log);
        } else if batch.count > 1 && batch.copy_bytes < u32::MAX {
            let before = batch.cost();
            batch.copy_bytes = batch.copy_bytes.saturating_sub(batch.bytes_of(&run));
            let after = batch.cost();
            if after < before && batch.location != NOWHERE {
                log.spent(batch.location.segment, 0, before - after);
            }
        }
    }

    fn remove(&mut self, key: BatchKey, cost: u64, log: &mut dyn Log) {
        let batch = self.all.remove(key as usize);
        if !self.unreadable.is_empty() {
            self.unreadable.remove(&key);
        }
        let bytes = batch.bodies.as_ref().map_or(0, Bodies::length);
        match batch.read_back {
            Some(when) => {
                self.read_back.remove(&when);
                self.read_back_bytes -= bytes;
            }
            None => *self.resident(batch.location()) -= bytes,
        }
        if let Some(location) = batch.location() {
            log.spent(location.segment, batch.count, cost);
        }
    }

    /// Asserts the invariants of the memory counters; returns the number of copies of each batch.
    pub(super) fn check(&self) -> HashMap<BatchKey, u64> {
        let bytes = |is_read_back, is_logged| {
            let of = move |batch: &&StoredBatch| {
                (batch.read_back.is_some(), batch.location().is_some()) == (is_read_back, is_logged)
            };
            let some = self.all.iter().map(|(_, batch)| batch).filter(of);
            some.filter_map(|batch| batch.bodies.as_ref()).map(Bodies::length).sum::<usize>()
        };
        let (only_here, also_here, read_back) = (bytes(false, false), bytes(false, true), bytes(true, true));
        let counted = (self.only_here, self.also_here, self.read_back_bytes);
        assert_eq!((only_here, also_here, read_back), counted, "bytes in memory");
        self.all.iter().map(|(key, batch)| (key as BatchKey, batch.copies)).collect()
    }
}

/// The bytes of `copies` copies, if `count` messages have `length` bytes.
fn share(length: u32, copies: u64, count: u32) -> u32 {
    let bytes = u128::from(length) * u128::from(copies) / u128::from(count.max(1));
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn length_of(bodies: &Bodies) -> u32 {
    u32::try_from(bodies.sized_length()).expect("what is published at once is far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_104_bytes_besides_its_bodies() {
        assert_eq!((size_of::<StoredBatch>(), size_of::<MessageRun>()), (104, 16));
    }

    #[test]
    fn ids_grow_even_if_the_clock_is_set_back() {
        let mut batches = MessageStore::new(0);
        let first = batches.reserve_ids(10, 1_800_000_000_000_000_000);
        assert_eq!(batches.reserve_ids(1, 1_700_000_000_000_000_000), first + 10);
        assert!(batches.reserve_ids(1, 1_900_000_000_000_000_000) > first + 11);
    }
}

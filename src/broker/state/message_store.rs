//! All messages: what was published together is kept together, once however many hold it.
//!
//! ```text
//!  StoredBatch   │ first id │ timestamp │ place in the log │ bodies, if they are in memory │ copies that are held
//!             ▲
//!  MessageRun     batch, which message of it, where its body begins, how many         what topics and channels hold
//! ```
//!
//! Bodies stay in memory up to a limit; beyond, they are in the log only, and are read back, a batch at a time, when a channel gets to
//! them. What was read back goes again once enough has been read after it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;

use bytes::Bytes;
use slab::Slab;

use super::super::log::{Log, LogLocation};
use super::time::Micros;
use crate::proto::Bodies;

/// Names a batch as long as anybody holds a message of it.
pub(super) type BatchKey = u32;

/// What was read back stays until this many bytes were read after it.
const READ_BACK: usize = 4 << 20;

/// A batch that the log could not give is tried again after so many milliseconds, then twice as many, up to an hour.
const UNREADABLE: u64 = 1_000;
const UNREADABLE_MOST: u64 = 3_600_000;

/// No log has segments so high.
const NOWHERE: LogLocation = LogLocation { segment: u32::MAX, offset: u32::MAX, record: u32::MAX };

/// Bytes that a batch takes in the log besides its bodies, about.
const OVERHEAD: u64 = 64;

/// Bytes of memory that a batch takes besides its bodies: itself, its place, and the shared memory of its bodies.
pub(super) const BATCH_BYTES: usize = size_of::<StoredBatch>() + 8 + 24;

/// Messages that were published together. There may be as many as messages: this is 104 bytes.
#[derive(Debug)]
struct StoredBatch {
    /// The id of the first message; the others count up from it.
    first: u64,
    /// When they were published, in nanoseconds since 1970.
    timestamp: i64,
    /// Their bodies, if they are in memory.
    bodies: Option<Bodies>,
    /// Bytes of the bodies with their sizes.
    length: u32,
    count: u32,
    /// How many copies are held: a message counts once for each holder.
    copies: u64,
    /// Bytes of the copies that are held, with their sizes; the highest number if it is not known.
    copy_bytes: u32,
    /// Where the log has them, or [`NOWHERE`].
    place: LogLocation,
    /// They were left in the log when they came.
    is_backlog: bool,
    /// When they were read back, if they are in memory for that.
    read_back: Option<NonZeroU64>,
}

impl StoredBatch {
    fn place(&self) -> Option<LogLocation> {
        (self.place != NOWHERE).then_some(self.place)
    }

    /// Bytes of the log that it needs, an eighth more at most: so the log is not told of each message that is finished.
    fn cost(&self) -> u64 {
        let bytes = u64::from(self.length.min(self.copy_bytes));
        let step = (u64::BITS - bytes.leading_zeros()).saturating_sub(4);
        OVERHEAD + u64::from(self.length).min(((bytes >> step) + 1) << step)
    }

    /// Bytes of these messages with their sizes; 0 where that is not known.
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

/// Messages of a batch that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageRun {
    pub(super) key: BatchKey,
    /// The first one's number in the batch.
    index: u32,
    /// Where its body begins in the batch, with its size.
    offset: u32,
    pub(super) count: u32,
}

impl MessageRun {
    /// The same messages in a batch that begins with this batch's message `index`, whose body begins at `offset`.
    pub(super) fn moved(self, key: BatchKey, index: u32, offset: u32) -> Self {
        Self { key, index: self.index - index, offset: self.offset - offset, count: self.count }
    }

    /// The number of the first message in the batch, and the first that is not in the run.
    pub(super) fn range(&self) -> Range<u32> {
        self.index..self.index + self.count
    }

    /// Where the first body begins in the batch.
    pub(super) fn offset(&self) -> u32 {
        self.offset
    }

    /// Only the first so many.
    pub(super) fn truncated(self, count: u32) -> Self {
        Self { count: self.count.min(count), ..self }
    }
}

/// The next message of a run.
pub(super) struct NextMessage {
    pub(super) id: u64,
    pub(super) timestamp: i64,
    /// It alone.
    pub(super) run: MessageRun,
    /// Its body's place in the batch's memory.
    body: Range<usize>,
}

/// A batch that the log could not give.
#[derive(Debug, Clone, Copy, Default)]
struct UnreadableBatch {
    failures: u32,
    /// It is not tried before.
    until: Micros,
}

/// The batches, and how much memory their bodies take.
#[derive(Debug)]
pub(super) struct MessageStore {
    all: Slab<StoredBatch>,
    /// Bytes of bodies in memory that are nowhere else, and of those that are in the log, too, and were not read back.
    only_here: usize,
    also_here: usize,
    /// Beyond so many bytes a body stays in the log, if it is there.
    limit: usize,
    /// What was read back, in that order.
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

    /// The first of `count` ids, which nobody had before. As nsqd's (`guid.go`) they grow with time, so that those of a broker that forgot all
    /// (`--memory`) differ from those before.
    pub(super) fn reserve_ids(&mut self, count: u64, unix_nanos: i64) -> u64 {
        const EPOCH: u64 = 1_288_834_974_288;
        let ticks = u64::try_from(unix_nanos >> 20).unwrap_or(0).saturating_sub(EPOCH);
        let first = (ticks << 22).max(self.last_id + 1);
        self.last_id = first + count - 1;
        first
    }

    /// No id up to this one is given again.
    pub(super) fn reserve_ids_up_to(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// True if bodies of that size, which are nowhere else, find room in memory; what is also in the log is not in their way.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.only_here.saturating_add(bytes) <= self.limit
    }

    /// The count that bodies belong to.
    fn resident(&mut self, place: Option<LogLocation>) -> &mut usize {
        if place.is_some() { &mut self.also_here } else { &mut self.only_here }
    }

    /// Keeps messages for `holders`, each of which holds them all.
    pub(super) fn insert(
        &mut self,
        first: u64,
        timestamp: i64,
        bodies: Bodies,
        place: Option<LogLocation>,
        holders: u32,
        log: &mut dyn Log,
    ) -> MessageRun {
        let bytes = self.only_here.saturating_add(self.also_here).saturating_add(bodies.length());
        let is_backlog = place.is_some() && bytes > self.limit;
        let (length, count) = (length_of(&bodies), bodies.count());
        *self.resident(place) += if is_backlog { 0 } else { bodies.length() };
        let run = self.add(StoredBatch {
            first,
            timestamp,
            bodies: (!is_backlog).then_some(bodies),
            length,
            count,
            copies: u64::from(holders) * u64::from(count),
            copy_bytes: length.saturating_mul(holders),
            place: place.unwrap_or(NOWHERE),
            is_backlog,
            read_back: None,
        });
        self.hold_in_log(run.key, log);
        run
    }

    /// Tells the log that a batch is held.
    pub(super) fn hold_in_log(&self, key: BatchKey, log: &mut dyn Log) {
        let batch = self.get(key);
        if let Some(place) = batch.place() {
            log.hold(place.segment, batch.count, batch.cost());
        }
    }

    /// Keeps messages that are in the log, `length` bytes with their sizes.
    pub(super) fn recover(
        &mut self,
        first: u64,
        timestamp: i64,
        place: LogLocation,
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
            place,
            is_backlog: true,
            read_back,
        })
    }

    fn add(&mut self, batch: StoredBatch) -> MessageRun {
        let count = batch.count;
        let key = BatchKey::try_from(self.all.insert(batch)).expect("memory ends before 4 billion batches");
        MessageRun { key, index: 0, offset: 0, count }
    }

    /// How many there are.
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

    /// True if the bodies were left in the log when they came: nsqd calls that its backend.
    pub(super) fn is_backlog(&self, key: BatchKey) -> bool {
        self.get(key).is_backlog
    }

    /// Takes the first message off a run, which is not empty. Fails, and takes nothing, if the log does not give its body.
    pub(super) fn next(&mut self, run: &mut MessageRun, log: &mut dyn Log) -> io::Result<NextMessage> {
        let (id, timestamp) = (self.id(run), self.timestamp(run.key));
        let body = self.bodies(run.key, log)?.at(run.offset as usize);
        let next = NextMessage { id, timestamp, run: run.truncated(1), body };
        run.index += 1;
        run.offset = next.body.end as u32;
        run.count -= 1;
        Ok(next)
    }

    /// The body of what [`MessageStore::next`] took last from this batch: a part of the bytes.
    pub(super) fn body(&self, next: &NextMessage) -> (&Bytes, Range<usize>) {
        let bodies = self.get(next.run.key).bodies.as_ref().expect("it was just read");
        (bodies.bytes(), next.body.clone())
    }

    /// All bodies of a batch, from memory or from the log.
    fn bodies(&mut self, key: BatchKey, log: &mut dyn Log) -> io::Result<&Bodies> {
        if self.get(key).bodies.is_none() {
            self.read(key, log)?;
            self.forget_read();
        }
        Ok(self.get(key).bodies.as_ref().expect("it is there by now"))
    }

    fn read(&mut self, key: BatchKey, log: &mut dyn Log) -> io::Result<()> {
        let batch = &mut self.all[key as usize];
        let bodies = log.read(batch.place, batch.length, batch.count)?;
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

    /// The log could not give a batch: milliseconds until it is to be tried again, which grow with each failure. Other channels that
    /// hold it meanwhile are told the same time.
    pub(super) fn retry_delay(&mut self, key: BatchKey, now: Micros) -> u64 {
        let it = self.unreadable.entry(key).or_default();
        if it.until <= now {
            let delay = (UNREADABLE << it.failures.min(12)).min(UNREADABLE_MOST);
            *it = UnreadableBatch { failures: it.failures + 1, until: now + delay * 1_000 };
        }
        (it.until - now).div_ceil(1_000)
    }

    /// Forgets what was read back long ago, but not what was read last.
    fn forget_read(&mut self) {
        while self.read_back_bytes > READ_BACK && self.read_back.len() > 1 {
            let Some((_, key)) = self.read_back.pop_first() else { return };
            let batch = &mut self.all[key as usize];
            batch.read_back = None;
            self.read_back_bytes -= batch.bodies.take().map_or(0, |bodies| bodies.length());
        }
    }

    /// A copy that goes its own way, back into the queue or to a later time, so that it does not keep all that was published with
    /// it: a run of a batch of its own. As it was if its body cannot be read.
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
        let (timestamp, is_backlog, place) = (batch.timestamp, batch.is_backlog, batch.place());
        let place = place.map(|place| LogLocation { offset: place.offset + run.offset, ..place });
        let own = self.replace(id, timestamp, body, place, is_backlog, 1);
        self.hold_in_log(own.key, log);
        self.release(run, log);
        own
    }

    /// Keeps messages of another batch in one of their own, of which so many copies are held.
    pub(super) fn replace(
        &mut self,
        id: u64,
        timestamp: i64,
        bodies: Bodies,
        place: Option<LogLocation>,
        is_backlog: bool,
        copies: u64,
    ) -> MessageRun {
        let (length, kept) = (length_of(&bodies), place.is_none() || !is_backlog);
        *self.resident(place) += if kept { bodies.length() } else { 0 };
        let count = bodies.count();
        self.add(StoredBatch {
            first: id,
            timestamp,
            bodies: kept.then_some(bodies),
            length,
            count,
            copies,
            copy_bytes: share(length, copies, count),
            place: place.unwrap_or(NOWHERE),
            is_backlog,
            read_back: None,
        })
    }

    /// So many copies more are held.
    pub(super) fn hold(&mut self, key: BatchKey, copies: u64) {
        let batch = &mut self.all[key as usize];
        batch.copies += copies;
        batch.copy_bytes = batch.copy_bytes.saturating_add(share(batch.length, copies, batch.count));
    }

    /// The batch, if it is in this segment: how many copies are held, and how many messages it has.
    pub(super) fn in_segment(&self, key: BatchKey, segment: u32) -> Option<(u64, u32)> {
        let batch = self.all.get(key as usize).filter(|batch| batch.place().is_some_and(|it| it.segment == segment))?;
        Some((batch.copies, batch.count))
    }

    /// All bodies of a batch, without keeping them in memory if they are not.
    pub(super) fn look(&self, key: BatchKey, log: &mut dyn Log) -> io::Result<Bodies> {
        let batch = self.get(key);
        match &batch.bodies {
            Some(bodies) => Ok(bodies.clone()),
            None => log.read(batch.place, batch.length, batch.count),
        }
    }

    /// All copies of a batch have moved to others.
    pub(super) fn drop_batch(&mut self, key: BatchKey, log: &mut dyn Log) {
        let cost = self.get(key).cost();
        self.all[key as usize].copies = 0;
        self.remove(key, cost, log);
    }

    /// A copy of each message of a run is not held any more; with the last the batch is gone.
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
            if after < before && batch.place != NOWHERE {
                log.spent(batch.place.segment, 0, before - after);
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
            None => *self.resident(batch.place()) -= bytes,
        }
        if let Some(place) = batch.place() {
            log.spent(place.segment, batch.count, cost);
        }
    }

    /// What must hold of the memory, and how many copies of each batch are held.
    pub(super) fn check(&self) -> HashMap<BatchKey, u64> {
        let bytes = |is_read_back, is_logged| {
            let of = move |batch: &&StoredBatch| {
                (batch.read_back.is_some(), batch.place().is_some()) == (is_read_back, is_logged)
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

/// The bytes of `copies` copies, where `count` messages have `length` bytes.
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
    fn ids_grow_though_the_clock_goes_back() {
        let mut batches = MessageStore::new(0);
        let first = batches.reserve_ids(10, 1_800_000_000_000_000_000);
        assert_eq!(batches.reserve_ids(1, 1_700_000_000_000_000_000), first + 10);
        assert!(batches.reserve_ids(1, 1_900_000_000_000_000_000) > first + 11);
    }
}

//! The log on a disk.
//!
//! ```text
//!  note ─────▶ Outgoing ──one write──▶ Segment (the newest) ──▶ Syncer: fsync, in a thread of its own
//!  publish ──▶                         Segments: what each still holds ──spent──▶ Syncer: removal
//! ```
//!
//! What was written is in the system's hands: it survives a kill of the process at once, the machine's crash once synced. A write that
//! fails is taken back whole; what was noted is kept for the next one, and what was written before is read as ever.

mod open;
mod reader;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::open::Lock;
pub use self::open::OpenError;
use self::reader::Reader;
use super::catalog::Catalog;
use super::outgoing::Outgoing;
use super::payload::BATCH_HEAD;
use super::record::HEAD;
use super::segment::{Extent, Header, Segment, file_path};
use super::segments::Segments;
use super::sync::{Removal, Synced, Syncer};
use super::{Batch, Carried, Change, Log, Place, SyncMode};
use crate::proto::Bodies;

/// After a failed sync, a new file is tried at most so often.
const RETRY: Duration = Duration::from_secs(1);

/// Where a log is, and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The directory; created if it is not there. One broker at a time.
    pub path: PathBuf,
    /// When to sync.
    pub sync: SyncMode,
    /// How old what is not synced may become with [`SyncMode::Interval`].
    pub interval: Duration,
    /// Bytes at which a new segment is begun; a larger batch has one of its own.
    pub segment_bytes: u32,
}

impl Options {
    /// Bytes of a segment.
    pub const SEGMENT_BYTES: u32 = 64 << 20;

    /// Between syncs.
    pub const INTERVAL: Duration = Duration::from_millis(100);

    /// A log at `path`, with the defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sync: SyncMode::Interval,
            interval: Self::INTERVAL,
            segment_bytes: Self::SEGMENT_BYTES,
        }
    }
}

/// A [`Log`] on a disk.
///
/// Dropping it writes what was noted, and waits for the last sync.
#[derive(Debug)]
pub struct DiskLog {
    path: PathBuf,
    segment_bytes: u32,
    /// As it is after what was written: without what is only noted.
    catalog: Catalog,
    outgoing: Outgoing,
    segment: Segment,
    segments: Segments,
    reader: Reader,
    next_segment: u32,
    position: u64,
    /// The position at which the segment's Snapshot ends.
    snapshot: u64,
    /// The positions between which messages of the oldest segment were carried.
    carried: Option<(u64, u64)>,
    retry: Option<Instant>,
    syncer: Syncer,
    /// Held for as long as the log is open.
    _lock: Lock,
}

impl DiskLog {
    /// For who waits until a [`Log::position`] is synced.
    pub fn synced(&self) -> Synced {
        self.syncer.synced()
    }

    /// Writes all that is outgoing, and says where in the segment it begins.
    fn write(&mut self) -> io::Result<Place> {
        self.check_syncs()?;
        let length = self.outgoing.checked_len()?;
        if !self.segment.has_room(length, self.segment_bytes) {
            self.begin_segment()?;
        }
        let Extent { number, end } = self.segment.extent();
        self.outgoing.seal(self.segment.salt());
        self.segment.append(&mut self.outgoing.slices(), length)?;
        self.position += u64::from(length);
        self.outgoing.clear().iter().for_each(|change| self.catalog.apply(change));
        self.segments.grew(self.segment.extent());
        self.syncer.written(&self.segment, self.position);
        Ok(Place { segment: number, offset: end })
    }

    /// Fails as long as what is written might not get to the disk.
    fn check_syncs(&mut self) -> io::Result<()> {
        let Some(trouble) = self.syncer.trouble(self.segment.extent().number) else { return Ok(()) };
        let is_due = self.retry.is_none_or(|last| last.elapsed() >= RETRY);
        if trouble.needs_segment && is_due {
            self.retry = Some(Instant::now());
            self.begin_segment()?;
        }
        Err(io::Error::other(trouble.why.to_string()))
    }

    /// Goes on in a new segment.
    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.next_segment;
        self.next_segment = number.checked_add(1).ok_or_else(|| io::Error::other("no segment number is left"))?;
        let old = self.segment.extent();
        let is_useless = self.segment.is_bare() && self.syncer.trouble(old.number).is_some_and(|it| it.needs_segment);
        let previous = if is_useless { self.segment.previous() } else { old };
        let header = Header { number, salt: fastrand::u32(..), previous };
        self.segment = Segment::create(&self.path, header, &self.catalog)?;
        if is_useless {
            self.segments.pop_newest();
            // One that stays is left out of the chain, and of no harm.
            let _ = std::fs::remove_file(file_path(&self.path, old.number));
        }
        self.position += u64::from(self.segment.extent().end);
        self.snapshot = self.position;
        self.segments.push(self.segment.extent());
        self.syncer.created(&self.segment, self.position);
        tracing::debug!(segment = number, after = previous.number, "begins a segment");
        self.remove_spent();
        Ok(())
    }

    fn remove_spent(&mut self) {
        while let Some(segment) = self.segments.pop_spent() {
            let (from, to) = self.carried.take().unwrap_or((self.snapshot, self.snapshot));
            // What it knew of the catalog is in the newest segment's Snapshot.
            let (from, to) = (from.min(self.snapshot.saturating_sub(1)), to.max(self.snapshot));
            self.reader.forget(segment);
            self.syncer.remove(Removal { segment, from, to });
        }
    }
}

impl Log for DiskLog {
    fn publish(&mut self, batch: &Batch<'_>) -> io::Result<Option<Place>> {
        let mark = self.outgoing.mark();
        let noted = self.outgoing.len();
        self.outgoing.batch(batch);
        let bytes = self.outgoing.len() - noted;
        let begin = self.write().inspect_err(|_| self.outgoing.rewind(mark))?;
        let count = u64::from(batch.bodies.count());
        self.catalog.saw_ids(batch.first, count);
        self.segments.hold(begin.segment, count, bytes as u64);
        let first = noted + HEAD + BATCH_HEAD;
        Ok(Some(Place { offset: begin.offset + first as u32, ..begin }))
    }

    fn note(&mut self, change: &Change) {
        self.outgoing.change(change);
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            self.write()?;
        }
        Ok(())
    }

    fn carry(&mut self, message: &Carried<'_>) -> io::Result<Option<Place>> {
        let mark = self.outgoing.mark();
        let noted = self.outgoing.len();
        let body = self.outgoing.carried(message);
        let bytes = self.outgoing.len() - noted;
        let from = self.position;
        let begin = self.write().inspect_err(|_| self.outgoing.rewind(mark))?;
        self.catalog.saw_ids(message.id, 1);
        self.segments.hold(begin.segment, 1, bytes as u64);
        self.carried = Some((self.carried.map_or(from, |(first, _)| first), self.position));
        Ok(Some(Place { offset: begin.offset + body as u32, ..begin }))
    }

    /// Checks that the sizes add up; the record was checked as a whole when the log was opened, if it was in it then.
    fn read(&mut self, place: Place, length: u32, count: u32) -> io::Result<Bodies> {
        let end = self.segments.end(place.segment).unwrap_or(0);
        self.reader.read(place, length, count, end)
    }

    fn hold(&mut self, segment: u32) {
        self.segments.hold_again(segment);
    }

    fn spent(&mut self, segment: u32, count: u32) {
        self.segments.spent(segment, count);
        self.remove_spent();
    }

    fn wants_carried(&self) -> Option<u32> {
        self.segments.wants_carried()
    }

    fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for DiskLog {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!("could not write what was noted last to {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests;

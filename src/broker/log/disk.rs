//! The log on a disk.
//!
//! ```text
//!  note ─────▶ WriteBatch ──one write──▶ Segment (the newest) ──▶ Syncer: fsync, in a thread of its own
//!  publish ──▶                         Segments: the live bytes of each ──spent──▶ Syncer: removal
//! ```
//!
//! Written data is in the page cache: it survives a kill of the process at once, and a crash of the
//! machine once synced. A failed write is undone as a whole; its changes are kept for the next
//! write, and earlier data can still be read.

mod inspect;
mod reader;
mod recover;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::inspect::{BackupError, backup, verify};
pub use self::reader::DetachedReader;
use self::reader::StoredBodyReader;
use self::recover::DirectoryLock;
pub use self::recover::OpenError;
use super::catalog::Catalog;
use super::reserve::Reserve;
use super::segment::{Extent, Segment, SegmentHeader, file_path, is_full};
use super::segments::{MIN_STRIPPED, Reclaimable, Segments};
use super::sync::{Removal, Synced, Syncer};
use super::write_batch::WriteBatch;
use super::{
    BATCH_BEGIN, Change, DiskSpace, Log, LogLocation, LogUsage, LoggedBodies, PublishedBatch, Relocated, SyncMode,
};
use crate::duration_histogram::DurationCounts;
use crate::io_error::describe;
use crate::proto::Bodies;

/// Minimum interval between attempts to continue after a failed sync (with a new segment) or a
/// failed write.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// After a failed write, more bytes of changes than this are retried at most every
/// [`LARGE_RETRY_INTERVAL`], because each attempt checksums all of them.
const LARGE_RETRY: usize = 64 << 10;
const LARGE_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Options of a log on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// The directory, used by one broker at a time; created if it does not exist.
    pub path: PathBuf,
    /// When to sync.
    pub sync: SyncMode,
    /// The interval between syncs with [`SyncMode::Interval`].
    pub interval: Duration,
    /// Number of published messages after which [`SyncMode::Interval`] syncs before the interval is
    /// over; `None` for any number.
    pub sync_every: Option<u64>,
    /// Maximum size of a segment in bytes, limited further on a small disk; a larger batch has a
    /// segment of its own.
    pub segment_bytes: u32,
    /// Bytes of disk space reserved for finishing and deleting messages when the disk is full,
    /// limited further on a small disk.
    pub reserve_bytes: u64,
}

/// On a small disk, a segment is at most the disk's size divided by this.
const MIN_SEGMENTS_PER_DISK: u64 = 64;
/// Minimum size of a segment, however small the disk is.
const MIN_SEGMENT_BYTES: u64 = 64 << 10;

impl LogOptions {
    /// Default size of a segment.
    pub const SEGMENT_BYTES: u32 = 64 << 20;

    /// Default size of the reserve.
    pub const RESERVE_BYTES: u64 = 16 << 20;

    /// Default interval between syncs.
    pub const INTERVAL: Duration = Duration::from_millis(100);

    /// Options for a log at `path`, with the defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sync: SyncMode::Interval,
            interval: Self::INTERVAL,
            sync_every: None,
            segment_bytes: Self::SEGMENT_BYTES,
            reserve_bytes: Self::RESERVE_BYTES,
        }
    }

    /// The segment size for the disk of `path`.
    fn fitting_segment_bytes(&self, path: &Path) -> u32 {
        let most = (disk_bytes(path) / MIN_SEGMENTS_PER_DISK).max(MIN_SEGMENT_BYTES);
        u32::try_from(most).unwrap_or(u32::MAX).min(self.segment_bytes)
    }

    /// The reserve size for the disk of `path`.
    fn reserve_bytes(&self, path: &Path) -> u64 {
        self.reserve_bytes.min((disk_bytes(path) * 2 / MIN_SEGMENTS_PER_DISK).max(MIN_SEGMENT_BYTES))
    }
}

/// The space of the file system at `path`; zeroes if unknown.
fn disk(path: &Path) -> DiskSpace {
    let of = |fs: nix::sys::statvfs::Statvfs| DiskSpace {
        bytes: fs.blocks().saturating_mul(fs.fragment_size()),
        free_bytes: fs.blocks_available().saturating_mul(fs.fragment_size()),
    };
    nix::sys::statvfs::statvfs(path).map(of).unwrap_or_default()
}

/// Free bytes of the file system for this user; the highest number if unknown.
fn free_bytes(path: &Path) -> u64 {
    let bytes = nix::sys::statvfs::statvfs(path).map(|fs| fs.blocks_available().saturating_mul(fs.fragment_size()));
    bytes.unwrap_or(u64::MAX)
}

/// The size of the file system; as large as possible if unknown.
fn disk_bytes(path: &Path) -> u64 {
    let bytes = nix::sys::statvfs::statvfs(path).map(|fs| fs.blocks().saturating_mul(fs.fragment_size()));
    bytes.unwrap_or(u64::MAX / MIN_SEGMENTS_PER_DISK)
}

/// The reason why publishing is refused on a full disk.
const DISK_FULL: &str = "the disk is full; the reserved space is for finishing and deleting messages";

/// On a full disk, segments with at most this many live bytes are relocated even if the reserve is
/// used up.
const MIN_RELOCATION: u64 = 16 << 10;

/// On a full disk, a dead segment is written to as long as this fraction of what is kept allocated
/// after its end is left.
const KEPT_AHEAD: u64 = 16;

/// Hard-links a damaged file under a second name, so that it can be examined after the log has
/// removed it. Failure is ignored: the damage is reported in any case.
fn keep_damaged(path: &Path, number: u32) {
    let path = file_path(path, number);
    let _ = std::fs::hard_link(&path, path.with_extension("log.damaged"));
}

/// Purpose of a write, by which it may use space that is kept for when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WritePurpose {
    /// New messages, which may use none of it.
    Publish,
    /// Relocated messages, which leave half of what is allocated to changes.
    Relocate,
    /// Changes.
    Note,
}

/// A [`Log`] on a disk.
///
/// Dropping the log writes the noted changes, and waits for the last sync.
#[derive(Debug)]
pub struct DiskLog {
    path: PathBuf,
    segment_bytes: u32,
    /// The catalog after all written changes, without those that are only noted.
    catalog: Catalog,
    outgoing: WriteBatch,
    segment: Segment,
    segments: Segments,
    reader: StoredBodyReader,
    next_segment: u32,
    /// The number of a segment that could not be created, whose file is still there.
    leftover: Option<u32>,
    position: u64,
    /// The position of the end of the current segment's Snapshot.
    snapshot: u64,
    retry: Option<Instant>,
    reserve: Reserve,
    /// Bytes of disk space kept allocated after the end of the newest segment, for changes: no
    /// other program can take it when the disk is full.
    ahead: u64,
    /// Bytes of the last publish, if the disk had no room for it.
    was_full: Option<u64>,
    /// Time and reason of the last write's failure, if it failed.
    failed: Option<(Instant, io::ErrorKind, String)>,
    /// The number of segments being stripped, and whether the disk had no room for one.
    stripping: usize,
    stripping_was_refused: bool,
    /// True once recovery has ended: segments without live messages may be removed.
    is_recovered: bool,
    syncer: Syncer,
    /// Held as long as the log is open.
    _lock: DirectoryLock,
}

impl DiskLog {
    /// A handle to wait until a [`Log::position`] is synced.
    pub fn synced(&self) -> Synced {
        self.syncer.synced()
    }

    /// Writes all gathered records; returns the location in the segment where they begin. Only
    /// writes that do not publish may use the reserve.
    fn write(&mut self, purpose: WritePurpose) -> io::Result<LogLocation> {
        let publishes = purpose == WritePurpose::Publish;
        self.check_syncs()?;
        self.check_retry()?;
        let length = self.outgoing.checked_len()?;
        loop {
            match self.try_write(length, purpose) {
                Err(error) if !publishes && is_full(&error) && self.take_from_reserve(length.into()) => {}
                Err(error) => {
                    self.failed = Some((Instant::now(), error.kind(), describe(&error)));
                    return Err(error);
                }
                Ok(location) => {
                    self.failed = None;
                    return Ok(location);
                }
            }
        }
    }

    /// Frees space for at least `bytes` bytes in the reserve, and allocates all of it to the newest
    /// segment at once, before another program takes it. False if no space is left in the reserve.
    fn take_from_reserve(&mut self, bytes: u64) -> bool {
        let before = self.reserve.left();
        let has_given = self.reserve.give(bytes);
        if has_given {
            self.segment.allocate_more(before - self.reserve.left());
        }
        has_given
    }

    fn try_write(&mut self, length: u32, purpose: WritePurpose) -> io::Result<LogLocation> {
        self.remove_leftover()?;
        if !self.segment.has_room(length, self.segment_bytes) {
            match self.begin_segment(self.ahead) {
                // what is allocated after the end of the old segment may exceed its size
                Err(error) if is_full(&error) && purpose != WritePurpose::Publish => {
                    if !self.segment.has_allocated(length) {
                        self.begin_segment(0)?;
                    }
                }
                begun => begun?,
            }
        }
        let least = match purpose {
            WritePurpose::Publish => self.ahead,
            WritePurpose::Relocate => self.ahead / 2,
            WritePurpose::Note => 0,
        };
        self.segment.allocate(length, least, self.ahead)?;
        let Extent { number, end } = self.segment.extent();
        self.outgoing.seal(self.segment.salt());
        let segment = &mut self.segment;
        self.outgoing.write(|slices| segment.append(slices, length))?;
        self.position += u64::from(length);
        let notes = self.outgoing.noted();
        self.outgoing.clear().iter().for_each(|change| self.catalog.apply(change));
        self.segments.grow_newest(self.segment.extent());
        if notes > 0 {
            self.segments.contents().into_iter().for_each(|contents| contents.notes += notes as u64);
        }
        self.syncer.written(&self.segment, self.position);
        Ok(LogLocation { segment: number, offset: end, record: end })
    }

    /// Fails if the last write failed and it is too early to try again.
    fn check_retry(&self) -> io::Result<()> {
        match &self.failed {
            Some((when, kind, why)) if self.outgoing.noted() > LARGE_RETRY && when.elapsed() < LARGE_RETRY_INTERVAL => {
                Err(io::Error::new(*kind, why.clone()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Finds out, after a failed write, whether writing works again. Noted changes are not written
    /// here, but by [`Log::flush`].
    fn probe_write(&mut self) {
        let is_due = self.failed.as_ref().is_some_and(|(last, ..)| last.elapsed() >= RETRY_INTERVAL);
        match self.was_full {
            Some(length) if free_bytes(&self.path) >= length + MIN_SEGMENT_BYTES + self.segment.missing(self.ahead) => {
                (self.was_full, self.failed) = (None, None);
            }
            None if is_due && self.outgoing.is_empty() => {
                let mark = self.outgoing.mark();
                self.outgoing.push_empty_changes();
                if self.write(WritePurpose::Note).is_err() {
                    self.outgoing.rewind(mark);
                }
            }
            Some(_) | None => {}
        }
    }

    /// Fails if a part of the reserve is in use: there is no room for new messages.
    fn check_room(&mut self) -> io::Result<()> {
        match self.reserve.is_whole() || self.reserve.restore() {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::StorageFull, DISK_FULL)),
        }
    }

    /// True if there is no room for more messages.
    fn is_full(&self) -> bool {
        self.was_full.is_some() || !self.reserve.is_whole()
    }

    /// Maximum live bytes of a segment to relocate.
    fn relocation_limit(&self) -> u64 {
        if self.is_full() { (self.reserve.left() / 2).max(MIN_RELOCATION) } else { u64::MAX }
    }

    /// Removes and strips segments, after each write; cheap if there is nothing to do.
    fn tidy(&mut self) {
        self.take_stripped();
        // without room, they are stripped when the next segment is removed
        if std::mem::take(&mut self.stripping_was_refused) && self.reserve.give(0) {
            self.remove_dead_segments();
        }
        if !self.reserve.is_whole() {
            self.reserve.restore();
        }
        let written = self.segment.written();
        let is_long = written >= self.segment_bytes / 4 || (self.is_full() && written >= MIN_STRIPPED);
        let is_of_no_use = |log: &Self| match log.is_full() {
            true => log.segments.is_newest_wasteful(),
            false => log.segments.is_newest_dead(),
        };
        if is_long && self.is_recovered && is_of_no_use(self) {
            if let Err(error) = self.begin_segment(self.ahead) {
                // a segment with allocated space is worth more than what its end would free
                let keeps = self.segment.has_allocated(u32::try_from(self.ahead / KEPT_AHEAD).unwrap_or(u32::MAX));
                if !is_full(&error) || keeps {
                    return;
                }
                let mut freed = 0;
                while let Err(error) = self.begin_segment(0) {
                    let before = self.reserve.left();
                    if !is_full(&error) || !self.reserve.give(0) {
                        return;
                    }
                    freed += before - self.reserve.left();
                }
                self.segment.allocate_more(freed);
            }
            self.remove_dead_segments();
        }
    }

    /// Takes the results of stripping.
    fn take_stripped(&mut self) {
        if self.stripping == 0 {
            return;
        }
        for (number, stripped) in self.syncer.take_stripped() {
            self.stripping -= 1;
            self.stripping_was_refused |= stripped.as_ref().is_err_and(is_full);
            self.segments.stripped(number, stripped);
        }
    }

    /// Fails if a sync failed and no new segment was synced since. Begins a new segment if that is
    /// due.
    fn check_syncs(&mut self) -> io::Result<()> {
        if !self.syncer.has_failure() {
            return Ok(());
        }
        let Some(failure) = self.syncer.failure(self.segment.extent().number) else { return Ok(()) };
        let is_due = self.retry.is_none_or(|last| last.elapsed() >= RETRY_INTERVAL);
        if failure.needs_segment && is_due {
            self.retry = Some(Instant::now());
            self.begin_segment(0)?;
        }
        Err(io::Error::other(failure.why.to_string()))
    }

    /// Begins a new segment, with space allocated for `ahead` bytes.
    fn begin_segment(&mut self, ahead: u64) -> io::Result<()> {
        let number = self.next_segment;
        self.next_segment = number.checked_add(1).ok_or_else(|| io::Error::other("no segment number is left"))?;
        let old = self.segment.extent();
        let is_useless = self.segment.is_bare() && self.syncer.failure(old.number).is_some_and(|it| it.needs_segment);
        let previous = if is_useless { self.segment.previous() } else { old };
        self.remove_leftover()?;
        let segment = self.create_segment(SegmentHeader::new(number, previous), ahead).inspect_err(|error| {
            if error.kind() != io::ErrorKind::AlreadyExists {
                self.leftover = Some(number);
                let _ = self.remove_leftover();
            }
        })?;
        std::mem::replace(&mut self.segment, segment).release();
        if is_useless {
            self.segments.pop_newest();
            // If the file stays, it is not part of the chain, and does no harm.
            let _ = std::fs::remove_file(file_path(&self.path, old.number));
        }
        self.position += u64::from(self.segment.extent().end);
        self.snapshot = self.position;
        self.segments.push(self.segment.extent());
        self.syncer.created(&self.segment, self.position);
        tracing::debug!(segment = number, after = previous.number, "segment begun");
        self.remove_dead_segments();
        Ok(())
    }

    fn create_segment(&self, header: SegmentHeader, ahead: u64) -> io::Result<Segment> {
        let mut segment = Segment::create(&self.path, header, &self.catalog)?;
        if self.ahead > 0 {
            segment.begin_allocating();
            segment.allocate(0, ahead, ahead)?;
        }
        Ok(segment)
    }

    /// Removes the file of a segment that could not be created. Its header states an end of the segment
    /// before it, which grows on: if the file came back after a crash, recovery would cut off what
    /// follows. So nothing is written while it is there, and the directory is synced before anything
    /// is acknowledged again.
    fn remove_leftover(&mut self) -> io::Result<()> {
        let Some(number) = self.leftover else { return Ok(()) };
        match std::fs::remove_file(file_path(&self.path, number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.leftover = None;
        self.syncer.directory_changed();
        Ok(())
    }

    /// True if no removal or stripping is pending.
    fn is_tidy(&self) -> bool {
        self.stripping == 0 && self.syncer.has_removed()
    }

    fn remove_dead_segments(&mut self) {
        if !self.is_recovered {
            return;
        }
        self.take_stripped();
        for Reclaimable { extent, moved, all_but } in self.segments.take_reclaimable() {
            let moved = moved.unwrap_or(self.position);
            // The catalog of the removed segment is in the newest segment's Snapshot.
            let from = moved.min(self.snapshot.saturating_sub(1));
            self.reader.forget(extent.number);
            self.stripping += usize::from(all_but.is_some());
            self.syncer.remove(Removal { segment: extent, from, to: self.position.max(self.snapshot), all_but });
        }
    }
}

impl Log for DiskLog {
    fn publish(&mut self, batch: &PublishedBatch<'_>) -> io::Result<Option<LogLocation>> {
        if !self.reserve.is_whole() {
            self.check_room()?;
        }
        let mark = self.outgoing.mark();
        let noted = self.outgoing.len();
        self.outgoing.push_batch(batch);
        let length = self.outgoing.len() as u64;
        let bodies = length - (noted + batch.parts.len() * BATCH_BEGIN) as u64;
        let written = self.write(WritePurpose::Publish);
        self.was_full = written.as_ref().is_err_and(is_full).then_some(length);
        let begin = written.inspect_err(|_| self.outgoing.rewind(mark))?;
        let count = batch.count();
        self.syncer.published(count);
        self.catalog.add_ids(batch.first, count);
        self.segments.contents().into_iter().for_each(|contents| contents.add_messages(batch.first, count, bodies));
        let record = begin.offset + noted as u32;
        Ok(Some(LogLocation { offset: record + BATCH_BEGIN as u32, record, ..begin }))
    }

    fn note(&mut self, change: &Change) {
        self.outgoing.push_change(change);
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            self.write(WritePurpose::Note).inspect_err(|_| self.outgoing.condense())?;
        }
        self.tidy();
        Ok(())
    }

    fn relocate(&mut self, messages: &Relocated<'_>) -> io::Result<Option<LogLocation>> {
        let is_new = messages.from.is_none();
        let purpose = if is_new { WritePurpose::Publish } else { WritePurpose::Relocate };
        if is_new && !self.reserve.is_whole() {
            self.check_room()?;
        }
        let mark = self.outgoing.mark();
        let noted = self.outgoing.len();
        let body = self.outgoing.push_relocated(messages);
        let bodies = (self.outgoing.len() - body) as u64;
        let position = self.position;
        let begin = self.write(purpose).inspect_err(|_| self.outgoing.rewind(mark))?;
        let count = u64::from(messages.bodies.count());
        self.catalog.add_ids(messages.first, count);
        self.segments.contents().into_iter().for_each(|contents| contents.add_messages(messages.first, count, bodies));
        if let Some(from) = messages.from {
            self.segments.note_relocation(from, position);
        }
        Ok(Some(LogLocation { offset: begin.offset + body as u32, record: begin.offset + noted as u32, ..begin }))
    }

    /// Checks the record's checksum, and that the sizes of the bodies add up.
    fn read(&mut self, location: LogLocation, length: u32, count: u32) -> io::Result<Bodies> {
        let end = self.segments.end(location.segment).unwrap_or(0);
        self.reader.read(location, length, count, end).inspect_err(|error| {
            let is_damage = error.kind() == io::ErrorKind::InvalidData || reader::is_device_error(error);
            if is_damage && self.segments.mark_damaged(location.segment) {
                keep_damaged(&self.path, location.segment);
            }
        })
    }

    fn logged_bodies(&self, location: LogLocation, length: u32, count: u32) -> LoggedBodies {
        LoggedBodies { location, length, count, end: self.segments.end(location.segment).unwrap_or(0) }
    }

    fn detached_reader(&self) -> Option<DetachedReader> {
        Some(DetachedReader::new(self.path.clone()))
    }

    fn hold(&mut self, segment: u32, messages: u32, bytes: u64) {
        self.segments.hold(segment, messages, bytes);
    }

    fn spent(&mut self, segment: u32, messages: u32, bytes: u64) {
        if self.segments.spent(segment, messages, bytes) {
            self.remove_dead_segments();
        }
    }

    fn recovered(&mut self) {
        self.is_recovered = true;
        self.remove_dead_segments();
        self.tidy();
    }

    fn compaction_candidate(&mut self) -> Option<u32> {
        self.take_stripped();
        let is_full = self.is_full();
        if is_full && !self.is_tidy() {
            return None; // pending removals make room
        }
        self.segments.compaction_candidate(is_full, self.relocation_limit(), Instant::now())
    }

    fn postpone_compaction(&mut self, segment: u32) {
        let cannot_write = self.failed.is_some();
        self.segments.postpone_compaction(segment, cannot_write, Instant::now());
    }

    fn next_compaction(&self) -> Option<Instant> {
        let is_full = self.is_full();
        // the length of a stripped segment is not known yet
        if self.stripping > 0 || (is_full && !self.is_tidy()) {
            return Some(Instant::now() + RETRY_INTERVAL);
        }
        self.segments.next_compaction(is_full, self.relocation_limit())
    }

    fn checkpoint(&mut self) -> io::Result<()> {
        self.flush()?;
        inspect::write_checkpoint(&self.path)
    }

    fn usage(&self) -> LogUsage {
        let (bytes, live_bytes, segments) = self.segments.usage();
        let (reserve_bytes, disk) = (self.reserve.left(), disk(&self.path));
        let unsynced_bytes = self.syncer.passed().map(|passed| self.position.saturating_sub(passed));
        LogUsage { bytes, live_bytes, segments, reserve_bytes, unsynced_bytes, disk }
    }

    fn sync_times(&self) -> Option<DurationCounts> {
        self.syncer.times()
    }

    fn failure(&mut self) -> Option<String> {
        if self.failed.is_none() && !self.is_full() && !self.syncer.has_failure() {
            return None;
        }
        if let Some(failure) = self.syncer.failure(0) {
            // begins a new segment for the thread to sync, if that is due
            let _ = self.check_syncs();
            return Some(failure.why.to_string());
        }
        if !self.reserve.is_whole() && !self.reserve.restore() {
            return Some(DISK_FULL.to_owned());
        }
        self.probe_write();
        let failed = self.failed.as_ref().map(|(_, _, why)| why.clone());
        // changes can be written still
        failed.or_else(|| self.was_full.map(|_| DISK_FULL.to_owned()))
    }

    fn failure_notify(&self) -> Arc<Notify> {
        self.syncer.failure_notify()
    }

    fn io_bytes(&self) -> u64 {
        self.position + self.reader.bytes()
    }

    fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for DiskLog {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            let path = self.path.display();
            tracing::error!(%path, error = %describe(&error), "cannot write the last changes to the log; they are lost");
        }
    }
}

#[cfg(test)]
mod tests;

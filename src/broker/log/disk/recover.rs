//! Opening a log: locks it, reads it, and repairs its end.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::super::checkpoint::Checkpoint;
use super::super::record::{RECORD_HEADER_BYTES, RecordScan, Scanned};
use super::super::replace::remove_unfinished;
use super::super::replay::Replay;
use super::super::report::{Damage, RecoveryReport, Torn};
use super::super::reserve::Reserve;
use super::super::segment::{BadHeader, Extent, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, file_path, number_of};
use super::super::segments::{SegmentContents, Segments};
use super::super::sync::{SyncFile, Syncer};
use super::super::unsynced;
use super::super::{Log, Recovered, SyncMode, catalog::Catalog};
use super::inspect::PinnedFiles;
use super::{DiskLog, LogOptions, StoredBodyReader, WriteBatch, is_full, keep_damaged};
use crate::io_error::describe;

/// Name of an empty file that exists as long as an import into the directory has not ended.
pub(super) const UNFINISHED_IMPORT: &str = "importing";

/// Error of opening a log.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has locked the log.
    #[error("{} is in use by another broker: stop that one, or choose another data path", .0.display())]
    InUse(PathBuf),
    /// The directory holds an import that did not end.
    #[error("{} holds an import that did not end: run `mqueue broker import` again, into the same data path", .0.display())]
    UnfinishedImport(PathBuf),
    /// The log already has topics, and nothing can be imported into it.
    #[error("{} has topics already: import into an empty or a new data path", .0.display())]
    NotEmpty(PathBuf),
    /// The log was written by an unknown version.
    #[error("{} has a format that this version does not know: use the version that wrote it, or another data path", .0.display())]
    OtherVersion(PathBuf),
    /// The log cannot be read or written.
    #[error("cannot use {}: {}", path.display(), describe(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.into(), source }
}

impl DiskLog {
    /// Opens a log, or creates it. Reads all of it, cuts off an interrupted write, and skips
    /// damaged records, as the report says. Recovered messages are synced, unless the mode is
    /// [`SyncMode::Never`].
    ///
    /// Fails if another broker has locked the log, if it has another version, if it is an import
    /// that did not end, or if its files cannot be read or written.
    pub fn open(options: &LogOptions) -> Result<(Self, Recovered, RecoveryReport), OpenError> {
        Self::open_with(options, Box::new(File::sync_data))
    }

    /// True if the directory has segments.
    pub fn exists(path: &Path) -> bool {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_str().and_then(number_of).is_some())
    }

    /// Creates a log for an import, in a directory without a log, with a log that has no topics, or
    /// with an import that did not end, which is begun anew. Until [`DiskLog::end_import`], the log
    /// cannot be [opened](DiskLog::open).
    pub(in crate::broker) fn begin_import(options: &LogOptions) -> Result<Self, OpenError> {
        let sync: SyncFile = Box::new(File::sync_data);
        let path = &options.path;
        create_folder(path, Some(&sync)).map_err(at(path))?;
        let lock = lock(path)?;
        let marker = path.join(UNFINISHED_IMPORT);
        if !marker.exists() {
            let mut opening = LogRecovery::new(path, RecoveryMode::Repair(options.sync))?;
            opening.read_all()?;
            if opening.report.is_damaged() || !opening.replay.finish().0.topics.is_empty() {
                return Err(OpenError::NotEmpty(path.into()));
            }
            let created = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&marker);
            created.and_then(|file| sync(&file)).and_then(|()| sync(&File::open(path)?)).map_err(at(&marker))?;
        }
        for entry in fs::read_dir(path).map_err(at(path))? {
            let entry = entry.map_err(at(path))?;
            if entry.file_name().to_str().and_then(number_of).is_some() {
                fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        let (log, _, _) = Self::open_locked(options, sync, lock, Instant::now())?;
        Ok(log)
    }

    /// Ends an import: everything is synced, and the log can be opened from now on.
    pub(in crate::broker) async fn end_import(mut self) -> io::Result<()> {
        self.flush()?;
        let position = self.position();
        self.synced().reached(position).await?;
        fs::remove_file(self.path.join(UNFINISHED_IMPORT))?;
        File::open(&self.path)?.sync_all()
    }

    /// As [`DiskLog::open`], with a function that syncs a file.
    pub(crate) fn open_with(
        options: &LogOptions,
        sync: SyncFile,
    ) -> Result<(Self, Recovered, RecoveryReport), OpenError> {
        let begun = Instant::now();
        let path = &options.path;
        create_folder(path, (options.sync != SyncMode::Never).then_some(&sync)).map_err(at(path))?;
        let lock = lock(path)?;
        if path.join(UNFINISHED_IMPORT).exists() {
            return Err(OpenError::UnfinishedImport(path.into()));
        }
        Self::open_locked(options, sync, lock, begun)
    }

    fn open_locked(
        options: &LogOptions,
        sync: SyncFile,
        lock: DirectoryLock,
        begun: Instant,
    ) -> Result<(Self, Recovered, RecoveryReport), OpenError> {
        let path = &options.path;
        if options.sync != SyncMode::Never {
            unsynced::rewrite_marked(path, &sync).map_err(at(path))?;
        }
        let mut opening = LogRecovery::new(path, RecoveryMode::Repair(options.sync))?;
        let checkpoint = opening.take_checkpoint();
        if checkpoint.is_none() {
            opening.read_all()?;
        }
        let LogRecovery { files, damaged, newest, mut report, mut replay, .. } = opening;
        let contents = std::mem::take(&mut replay.contents);
        let (recovered, catalog) = match checkpoint {
            Some(checkpoint) => checkpoint.into_recovered(),
            None => {
                let (recovered, catalog, unknown) = replay.finish();
                report.damage.extend(unknown);
                (recovered, catalog)
            }
        };
        let next_segment = files.last().map_or(1, |extent| extent.number.saturating_add(1));
        // before a segment is created, which may need the reserve
        let mut reserve = Reserve::open(path, options.reserve_bytes(path)).map_err(at(path))?;
        let segment_bytes = options.fitting_segment_bytes(path);
        let resumed = newest.filter(|(header, end)| *end < segment_bytes && header.is_current());
        let (segment, is_new) = match resumed {
            Some((header, end)) => (Segment::resume(path, header, end), false),
            None => match (begin(path, next_segment, files.last(), &catalog, &mut reserve), newest) {
                // on a full disk, no segment can be created, but the old one can be appended to
                (Err(_), Some((header, end))) => (Segment::resume(path, header, end), false),
                (segment, _) => (segment, true),
            },
        };
        let mut segment = segment.map_err(at(path))?;
        let ahead = options.reserve_bytes(path) / 2;
        if ahead > 0 {
            segment.begin_allocating();
        }
        // a log with a checkpoint was synced before that was written
        if options.sync != SyncMode::Never && (is_new || !report.is_from_checkpoint) {
            // a killed broker may have left several segments unsynced
            for extent in &files {
                let file = file_path(path, extent.number);
                let synced = File::open(&file).and_then(|file| sync(&file));
                synced.inspect_err(|_| unsynced::mark(path, extent.number)).map_err(at(&file))?;
            }
            sync(&segment.file()).and_then(|()| sync(&File::open(path)?)).map_err(at(path))?;
        }
        report.messages = recovered.batches.iter().map(|batch| u64::from(batch.count)).sum();
        report.took = begun.elapsed();
        let is_left = |number| !is_new && file_path(path, number).exists();
        let log = Self {
            path: path.clone(),
            segment_bytes,
            leftover: Some(next_segment).filter(|number| is_left(*number)),
            catalog,
            outgoing: WriteBatch::default(),
            segments: segments(&files, is_new.then(|| segment.extent()), &contents, &damaged),
            reader: StoredBodyReader::new(path.clone()),
            next_segment: segment.extent().number.saturating_add(1).max(next_segment),
            segment,
            position: 0,
            snapshot: 0,
            retry: None,
            reserve,
            ahead,
            was_full: None,
            failed: None,
            stripping: 0,
            stripping_was_refused: false,
            is_recovered: false,
            syncer: Syncer::start(path, options, sync).map_err(at(path))?,
            _lock: lock,
        };
        Ok((log, recovered, report))
    }
}

/// Creates a folder and its parents, and syncs the new directory entries if `sync` is given.
fn create_folder(path: &Path, sync: Option<&SyncFile>) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|it| !it.as_os_str().is_empty() && !it.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for (folder, sync) in missing.into_iter().zip(sync.into_iter().cycle()) {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync(&File::open(parent.unwrap_or(Path::new(".")))?)?;
    }
    Ok(())
}

/// Lock on a log's directory.
#[derive(Debug)]
pub(super) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    /// Unlocks explicitly: closing the file does not unlock it while a process that was just forked
    /// still has it open.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn lock(directory: &Path) -> Result<DirectoryLock, OpenError> {
    let path = directory.join("lock");
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(DirectoryLock(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(directory.into())),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

fn begin(
    path: &Path,
    number: u32,
    previous: Option<&Extent>,
    catalog: &Catalog,
    reserve: &mut Reserve,
) -> io::Result<Segment> {
    let header = SegmentHeader::new(number, previous.copied().unwrap_or_default());
    loop {
        match Segment::create(path, header, catalog) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let _ = fs::remove_file(file_path(path, number));
                if !is_full(&error) || !reserve.give(0) {
                    return Err(error);
                }
            }
            segment => return segment,
        }
    }
}

/// The segments, without any live messages yet.
fn segments(
    files: &[Extent],
    new: Option<Extent>,
    contents: &BTreeMap<u32, SegmentContents>,
    damaged: &[u32],
) -> Segments {
    let mut segments = Segments::default();
    for extent in files.iter().copied().chain(new) {
        let contents = contents.get(&extent.number).copied().unwrap_or_default();
        segments.push_recovered(extent, contents, damaged.contains(&extent.number));
    }
    segments
}

/// Whether reading a log may change its files.
#[derive(Debug)]
pub(super) enum RecoveryMode {
    /// Repairs ends of segments, and syncs unless the mode is [`SyncMode::Never`].
    Repair(SyncMode),
    /// Reads these files, and changes nothing.
    ReadOnly(PinnedFiles),
}

impl RecoveryMode {
    fn is_read_only(&self) -> bool {
        matches!(self, Self::ReadOnly(_))
    }

    /// Numbers of the segments, in their order.
    fn numbers(&self, path: &Path) -> io::Result<Vec<u32>> {
        match self {
            Self::Repair(_) => segment_numbers(path),
            Self::ReadOnly(pinned) => Ok(pinned.numbers().collect()),
        }
    }

    /// Reads a segment, or at most `limit` bytes of it.
    fn read(&self, path: &Path, number: u32, limit: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Repair(_) => {
                let mut bytes = Vec::new();
                File::open(file_path(path, number))?.take(limit).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            Self::ReadOnly(pinned) => pinned.read(number, limit),
        }
    }
}

/// Numbers of the segments in a directory, in their order.
pub(super) fn segment_numbers(path: &Path) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    let mut numbers: Vec<_> = entries.iter().filter_map(|entry| number_of(entry.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The header and the good length of an undamaged segment, if it can be appended to: without its
/// Snapshot, it would depend on older ones for the catalog.
fn resumable(header: SegmentHeader, good: u32) -> Option<(SegmentHeader, u32)> {
    (header.end == 0 && good > header.length).then_some((header, good))
}

/// A log while it is read.
pub(super) struct LogRecovery<'a> {
    path: &'a Path,
    pub(super) mode: RecoveryMode,
    /// The segment files found, by number, with their headers if these are good.
    found: Vec<(u32, Option<SegmentHeader>)>,
    /// The segments read, with their good lengths.
    pub(super) files: Vec<Extent>,
    /// Numbers of damaged segments.
    damaged: Vec<u32>,
    /// The last segment's header and good length, if it can be appended to.
    newest: Option<(SegmentHeader, u32)>,
    pub(super) report: RecoveryReport,
    pub(super) replay: Replay,
}

impl<'a> LogRecovery<'a> {
    pub(super) fn new(path: &'a Path, mode: RecoveryMode) -> Result<Self, OpenError> {
        if !mode.is_read_only() {
            remove_unfinished(path).map_err(at(path))?;
        }
        let mut found = Vec::new();
        for number in mode.numbers(path).map_err(at(path))? {
            let file_path = file_path(path, number);
            let bytes = mode.read(path, number, SEGMENT_HEADER_BYTES as u64).map_err(at(&file_path))?;
            match SegmentHeader::decode(&bytes) {
                Err(BadHeader::OtherVersion) => return Err(OpenError::OtherVersion(file_path)),
                header => found.push((number, header.ok().filter(|header| header.number == number))),
            }
        }
        let has_damaged_copy = |header: &SegmentHeader| header.has_damaged_copy.then_some(header.number);
        let damaged_header_copies =
            found.iter().filter_map(|(_, header)| header.as_ref().and_then(has_damaged_copy)).collect();
        let report = RecoveryReport { damaged_header_copies, ..RecoveryReport::default() };
        let (files, damaged, newest, replay) = Default::default();
        Ok(Self { path, mode, found, files, damaged, newest, report, replay })
    }

    /// Takes the checkpoint of these segments, if there is one: they need not be read then.
    fn take_checkpoint(&mut self) -> Option<Checkpoint> {
        let numbers: Vec<_> = self.found.iter().map(|(number, _)| *number).collect();
        let headers: Option<Vec<_>> = self.found.iter().map(|(_, header)| *header).collect();
        let checkpoint = Checkpoint::take(self.path, &numbers)?;
        let header = headers?.pop()?;
        self.files = checkpoint.segments.iter().map(|segment| segment.extent).collect();
        let contents = checkpoint.segments.iter().map(|segment| (segment.extent.number, segment.contents));
        self.replay.contents = contents.collect();
        self.newest = self.files.last().and_then(|extent| resumable(header, extent.end));
        self.report.segments = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.report.is_from_checkpoint = true;
        Some(checkpoint)
    }

    pub(super) fn read_all(&mut self) -> Result<(), OpenError> {
        for n in 0..self.found.len() {
            let (number, header) = self.found[n];
            self.check_missing(n, header);
            let path = file_path(self.path, number);
            let bytes = self.mode.read(self.path, number, u64::MAX).map_err(at(&path))?;
            self.report.segments += 1;
            self.report.bytes += bytes.len() as u64;
            // a stripped segment has its end in its own header; the next segment's is older than
            // the stripping
            let own = header.and_then(|header| (header.end > 0).then_some(header.end));
            self.segment(number, header, &bytes, own.or_else(|| self.stated_end(n))).map_err(at(&path))?;
        }
        Ok(())
    }

    fn check_missing(&mut self, n: usize, header: Option<SegmentHeader>) {
        let Some(SegmentHeader { previous, .. }) = header else { return };
        let is_there = self.found.iter().any(|(number, _)| *number == previous.number);
        if n > 0 && !is_there {
            self.report.damage.push(Damage::Missing { segment: previous.number });
        }
    }

    /// The good length of a segment as stated by the next readable segment; 0 for a segment that
    /// was left out of the chain.
    fn stated_end(&self, n: usize) -> Option<u32> {
        let number = self.found[n].0;
        let previous = self.found[n + 1..].iter().find_map(|(_, header)| *header)?.previous;
        match previous.number.cmp(&number) {
            std::cmp::Ordering::Less => Some(0),
            std::cmp::Ordering::Equal => Some(previous.end),
            std::cmp::Ordering::Greater => None,
        }
    }

    fn segment(
        &mut self,
        number: u32,
        header: Option<SegmentHeader>,
        bytes: &[u8],
        end: Option<u32>,
    ) -> io::Result<()> {
        let (damage, length) = (self.report.damage.len(), bytes.len() as u64);
        let Some(header) = header else {
            if SegmentHeader::decode(bytes) == Err(BadHeader::Unwritten) && end.unwrap_or(0) == 0 {
                self.report.torn.extend((length > 0).then_some(Torn { segment: number, bytes: length }));
                return match self.mode {
                    RecoveryMode::Repair(_) => fs::remove_file(file_path(self.path, number)),
                    RecoveryMode::ReadOnly(_) => Ok(()),
                };
            }
            self.newest = None;
            self.files.push(Extent { number, end: 0 });
            self.damaged.push(number);
            self.report_damage(number, 0..bytes.len());
            if !self.mode.is_read_only() {
                keep_damaged(self.path, number);
            }
            return Ok(());
        };
        let good = self.records(header, bytes, end);
        self.files.push(Extent { number, end: good });
        let is_damaged = self.report.damage.len() > damage;
        self.newest = resumable(header, good).filter(|_| !is_damaged);
        self.damaged.extend(is_damaged.then_some(number));
        match &self.mode {
            RecoveryMode::Repair(sync) => self.repair(number, bytes, good, is_damaged, *sync),
            RecoveryMode::ReadOnly(_) => Ok(()),
        }
    }

    /// Keeps a damaged segment, or cuts off what follows its last good record; then syncs it.
    fn repair(&self, number: u32, bytes: &[u8], good: u32, is_damaged: bool, sync: SyncMode) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(file_path(self.path, number))?;
        if is_damaged {
            keep_damaged(self.path, number);
        } else if (good as usize) < bytes.len() {
            if self.report.torn.last().is_some_and(|torn| torn.segment == number) {
                self.keep_torn(number, &bytes[good as usize..])?;
            }
            file.set_len(good.into())?;
        }
        if sync != SyncMode::Never {
            file.sync_data()?;
        }
        Ok(())
    }

    /// Replays a segment's records; returns the end of the last good one.
    fn records(&mut self, header: SegmentHeader, bytes: &[u8], end: Option<u32>) -> u32 {
        let segment = header.number;
        let mut good = header.length as usize;
        for found in RecordScan::new(bytes, header.salt, good, end.map(|end| end as usize)) {
            match found {
                Scanned::Record { at, kind, payload } => {
                    good = at + RECORD_HEADER_BYTES + payload.len();
                    if self.replay.replay_record(segment, at, kind, payload).is_err() {
                        self.report_damage(segment, at..good);
                    }
                }
                Scanned::Damaged(range) => self.report_damage(segment, range),
                Scanned::Torn(at) => {
                    let bytes = (bytes.len() - at) as u64;
                    self.report.torn.push(Torn { segment, bytes });
                }
            }
        }
        u32::try_from(good).unwrap_or(u32::MAX)
    }

    /// Saves the end of a segment before it is cut off.
    fn keep_torn(&self, number: u32, bytes: &[u8]) -> io::Result<()> {
        let path = file_path(self.path, number).with_extension("log.torn");
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        match file.write_all(bytes).and_then(|()| file.sync_data()) {
            // a full disk is no reason not to start: these bytes are only for examination
            Err(error) if is_full(&error) => {
                let path = path.display();
                tracing::error!(%path, error = %describe(&error), "cannot keep the bytes that were cut off a segment; the disk is full");
                Ok(())
            }
            kept => kept,
        }
    }

    fn report_damage(&mut self, segment: u32, range: std::ops::Range<usize>) {
        // dead bytes, for compaction
        self.replay.contents.entry(segment).or_default().messages += range.len() as u64;
        self.report.damage.push(Damage::Bytes { segment, range: range.start as u64..range.end as u64 });
    }
}

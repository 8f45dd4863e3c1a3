//! Reading a log that may be in use: verifying and copying it, without any change to it and
//! without the broker.
//!
//! ```text
//!  list ─▶ open every segment ─▶ length of the newest ─▶ list again: the same files? ─▶ PinnedFiles
//!                                                          └ no: begin anew
//! ```
//!
//! Between the two lists no segment was created, removed or replaced, so the files and the newest
//! one's length are the log as it was at one moment. Open files keep their contents when the
//! broker removes or replaces them later.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::super::checkpoint::{Checkpoint, CheckpointSegment};
use super::super::record::{RECORD_HEADER_BYTES, RecordHeader};
use super::super::report::RecoveryReport;
use super::super::segment::{Extent, SEGMENT_HEADER_BYTES, SegmentHeader, file_path};
use super::OpenError;
use super::recover::{LogRecovery, RecoveryMode, UNFINISHED_IMPORT, at, segment_numbers};
use crate::io_error::describe;

/// Attempts to list and open the segments while none of them changes.
const MAX_LISTINGS: u32 = 100;
/// The longest time that a write of the broker is waited for.
const MAX_WRITE_TIME: Duration = Duration::from_secs(1);
/// Bytes that the copy syncs at a time, so that the broker's own syncs never wait for much.
const COPY_STEP: usize = 1 << 20;
/// Bytes that one damaged sector costs.
const SECTOR: usize = 4 << 10;

/// Verifies every checksum of a log, and changes nothing. The log may be in use.
///
/// # Errors
///
/// Fails if the directory cannot be read, or holds no log of this version.
pub fn verify(path: &Path) -> Result<RecoveryReport, OpenError> {
    verify_pinned(path).map(|(report, ..)| report)
}

/// Error of a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The directory has no segments.
    #[error("{} has no log: give the --data-path of the broker", .0.display())]
    NoLog(PathBuf),
    /// The destination has files.
    #[error("{} is not empty: give a new folder for each backup", .0.display())]
    NotEmpty(PathBuf),
    /// The copy cannot be written.
    #[error("cannot write the backup {}: {}", path.display(), describe(source))]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Copies a log, which may be in use, to a new directory; returns the report about the copy, whose
/// checksums are verified. The copy is the log as it was at one moment. It appears under its name
/// when it is complete and synced. Damaged parts are copied as they are.
///
/// # Errors
///
/// Fails if the log cannot be read, or if the copy cannot be written; the destination is unchanged
/// then.
pub fn backup(path: &Path, to: &Path) -> Result<RecoveryReport, BackupError> {
    let written = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Write { path, source }
    };
    match fs::read_dir(to).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(BackupError::NotEmpty(to.into())),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(written(to)(error)),
    }
    let (damage, files, pinned) = verify_pinned(path)?;
    if files.is_empty() {
        return Err(BackupError::NoLog(path.into()));
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = to.file_name().ok_or_else(|| written(to)(io::ErrorKind::InvalidInput.into()))?;
    let folder = parent.join(format!(".{}.{:08x}.partial", name.to_string_lossy(), fastrand::u32(..)));
    let copied = (|| {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        copy(&pinned, &files, &folder)?;
        File::open(&folder)?.sync_all()?;
        fs::rename(&folder, to)?;
        File::open(parent)?.sync_all()
    })();
    if let Err(error) = copied {
        let _ = fs::remove_dir_all(&folder);
        return Err(written(to)(error));
    }
    let mut report = verify(to)?;
    // the end of the newest segment is not copied if it is no whole record
    let new = damage.torn.into_iter().filter(|torn| !report.torn.contains(torn)).collect::<Vec<_>>();
    report.torn.extend(new);
    Ok(report)
}

fn copy(pinned: &PinnedFiles, files: &[Extent], folder: &Path) -> io::Result<()> {
    let newest = files.last().map(|extent| extent.number);
    for number in pinned.numbers() {
        let mut bytes = pinned.read(number, u64::MAX)?;
        let end = files.iter().find(|extent| extent.number == number && extent.end > 0).map(|extent| extent.end);
        if let Some(end) = end.filter(|_| newest == Some(number)) {
            bytes.truncate(end as usize);
        }
        let path = file_path(folder, number);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        for step in bytes.chunks(COPY_STEP) {
            file.write_all(step)?;
            file.sync_data()?;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// Reads a log and writes its [`Checkpoint`], so that the next opening need not read it. The log's
/// owner waits meanwhile.
///
/// # Errors
///
/// Fails, and writes nothing, if the log is damaged, is changed meanwhile, or if a file cannot be
/// read or written.
pub(super) fn write_checkpoint(path: &Path) -> io::Result<()> {
    let pinned = PinnedFiles::pin(path)?;
    for (file, _) in pinned.0.values() {
        file.sync_data()?;
    }
    let mut reading = LogRecovery::new(path, RecoveryMode::ReadOnly(pinned)).map_err(io::Error::other)?;
    reading.read_all().map_err(io::Error::other)?;
    let LogRecovery { files, report, mut replay, .. } = reading;
    let contents = std::mem::take(&mut replay.contents);
    let (recovered, catalog, unknown) = replay.finish();
    if report.problems().chain(report.warnings()).next().is_some() || !unknown.is_empty() {
        return Err(io::Error::other("the log is damaged"));
    }
    let segment = |extent: &Extent| {
        CheckpointSegment::of(path, *extent, contents.get(&extent.number).copied().unwrap_or_default())
    };
    let segments = files.iter().map(segment).collect::<io::Result<_>>()?;
    Checkpoint { segments, catalog, batches: recovered.batches }.write(path)
}

/// Verifies a log; returns the report, the segments with their good lengths, and the files.
fn verify_pinned(path: &Path) -> Result<(RecoveryReport, Vec<Extent>, PinnedFiles), OpenError> {
    let begun = Instant::now();
    if path.join(UNFINISHED_IMPORT).exists() {
        return Err(OpenError::UnfinishedImport(path.into()));
    }
    let pinned = PinnedFiles::pin(path).map_err(at(path))?;
    let mut reading = LogRecovery::new(path, RecoveryMode::ReadOnly(pinned))?;
    reading.read_all()?;
    let LogRecovery { files, mut report, replay, mode, .. } = reading;
    let RecoveryMode::ReadOnly(pinned) = mode else { unreachable!("the mode was given above") };
    if let Some(newest) = files.last() {
        let is_write = |torn: &super::super::Torn| torn.segment == newest.number && pinned.is_completed(*newest);
        report.torn.retain(|torn| !is_write(torn));
    }
    let (recovered, _, unknown) = replay.finish();
    report.damage.extend(unknown);
    report.messages = recovered.batches.iter().map(|batch| u64::from(batch.count)).sum();
    report.took = begun.elapsed();
    Ok((report, files, pinned))
}

/// The segments of a log at one moment: open files, and their lengths.
#[derive(Debug)]
pub(super) struct PinnedFiles(BTreeMap<u32, (File, u64)>);

impl PinnedFiles {
    /// Opens the segments of a log, as they are at one moment.
    fn pin(path: &Path) -> io::Result<Self> {
        for _ in 0..MAX_LISTINGS {
            if let Some(files) = Self::try_pin(path)? {
                return Ok(files);
            }
        }
        Err(io::Error::other("its files change all the time: try again later"))
    }

    /// `None` if a segment was created, removed or replaced meanwhile.
    fn try_pin(path: &Path) -> io::Result<Option<Self>> {
        let numbers = segment_numbers(path)?;
        let mut files = BTreeMap::new();
        for number in &numbers {
            match File::open(file_path(path, *number)) {
                Ok(file) => files.insert(*number, (file, 0)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        for (file, length) in files.values_mut() {
            *length = file.metadata()?.len();
        }
        if segment_numbers(path)? != numbers {
            return Ok(None);
        }
        for (number, (file, _)) in &files {
            let is_same = fs::metadata(file_path(path, *number)).is_ok_and(|named| {
                file.metadata().is_ok_and(|open| (open.dev(), open.ino()) == (named.dev(), named.ino()))
            });
            if !is_same {
                return Ok(None);
            }
        }
        Ok(Some(Self(files)))
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// Reads at most `limit` bytes of a segment. Sectors that the disk cannot read are zeros, so
    /// that their checksums are wrong.
    pub(super) fn read(&self, number: u32, limit: u64) -> io::Result<Vec<u8>> {
        let (file, length) = self.0.get(&number).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; usize::try_from(limit.min(*length)).map_err(io::Error::other)?];
        for (n, step) in bytes.chunks_mut(COPY_STEP).enumerate() {
            let begin = (n * COPY_STEP) as u64;
            match file.read_exact_at(step, begin) {
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => read_sectors(file, step, begin),
                // it was truncated: a failed write was undone
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
                    bytes.truncate(length);
                    file.read_exact_at(&mut bytes, 0)?;
                    break;
                }
                read => read?,
            }
        }
        Ok(bytes)
    }

    /// True if the bytes after the good end of the newest segment were a write in progress: they
    /// are a record soon, or are truncated.
    fn is_completed(&self, newest: Extent) -> bool {
        let Some((file, _)) = self.0.get(&newest.number) else { return false };
        let begun = Instant::now();
        loop {
            if is_record(file, newest.end).unwrap_or(false) {
                return true;
            }
            if begun.elapsed() > MAX_WRITE_TIME {
                return false;
            }
            std::thread::sleep(MAX_WRITE_TIME / 20);
        }
    }
}

/// Reads the sectors that the disk can read.
fn read_sectors(file: &File, bytes: &mut [u8], begin: u64) {
    for (n, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        if file.read_exact_at(sector, begin + (n * SECTOR) as u64).is_err() {
            sector.fill(0);
        }
    }
}

/// True if a record begins at `end`, or the file ends there.
fn is_record(file: &File, end: u32) -> io::Result<bool> {
    if file.metadata()?.len() <= u64::from(end) {
        return Ok(true);
    }
    let mut begin = [0; SEGMENT_HEADER_BYTES];
    file.read_exact_at(&mut begin, 0)?;
    let Ok(SegmentHeader { salt, .. }) = SegmentHeader::decode(&begin) else { return Ok(false) };
    let mut head = [0; RECORD_HEADER_BYTES];
    file.read_exact_at(&mut head, end.into())?;
    let Some(head) = RecordHeader::read(salt, &head) else { return Ok(false) };
    let mut payload = vec![0; head.length as usize];
    file.read_exact_at(&mut payload, u64::from(end) + RECORD_HEADER_BYTES as u64)?;
    Ok(head.fits(salt, &payload))
}

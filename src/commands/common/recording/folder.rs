//! The folder of a recording: its segments in order, a lock for its one writer, and the removal of
//! old segments.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mqueue::proto::TopicName;
use nix::fcntl::{Flock, FlockArg};

use super::segment_reader::{FoundBlocks, SegmentReader};
use super::segment_writer::{SegmentWriter, sync_folder};
use super::{RecordingError, index::TimeRange};

/// The ending of a segment's file.
const EXTENSION: &str = "mqrec";
/// The file that the writer holds a lock on.
const LOCK_FILE: &str = "lock";

/// A segment's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// A recording that is being written.
#[derive(Debug)]
pub(crate) struct RecordingFolder {
    path: PathBuf,
    stream: TopicName,
    next: u64,
    _lock: Flock<File>,
}

/// Lists the segments of a folder, the oldest first.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn segments(folder: &Path) -> Result<Vec<SegmentFile>, RecordingError> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder).map_err(RecordingError::io(folder))? {
        let path = entry.map_err(RecordingError::io(folder))?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(number_of);
        // a segment may be removed while the list is made
        if let (Some(number), Ok(metadata)) = (number, path.metadata()) {
            segments.push(SegmentFile { number, path, bytes: metadata.len() });
        }
    }
    segments.sort_by_key(|segment| segment.number);
    Ok(segments)
}

fn number_of(name: &str) -> Option<u64> {
    let (number, _) = name.strip_suffix(EXTENSION)?.strip_suffix('.')?.split_once('-')?;
    number.parse().ok()
}

fn name_of(number: u64, now: SystemTime) -> String {
    let time: String = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
    format!("{number:08}-{time}.{EXTENSION}")
}

impl RecordingFolder {
    /// Opens the folder for writing, creates it if it does not exist, and completes a segment that
    /// a killed program left; returns what was found in it.
    ///
    /// # Errors
    /// Another program writes to it, it has another stream, or it cannot be used.
    pub(crate) fn open(path: &Path, stream: &TopicName) -> Result<(Self, Option<FoundBlocks>), RecordingError> {
        fs::create_dir_all(path).map_err(RecordingError::io(path))?;
        let lock = path.join(LOCK_FILE);
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&lock);
        let file = options.map_err(RecordingError::io(&lock))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let lock = locked.map_err(|_| RecordingError::Locked(path.to_owned()))?;
        let segments = segments(path)?;
        let mut completed = None;
        if let Some(last) = segments.last() {
            completed = complete_last(&last.path, path, stream)?;
        }
        let next = segments.last().map_or(1, |last| last.number + 1);
        Ok((Self { path: path.to_owned(), stream: stream.clone(), next, _lock: lock }, completed))
    }

    /// Begins the next segment.
    pub(crate) fn begin(&mut self, now: SystemTime) -> Result<SegmentWriter, RecordingError> {
        let path = self.path.join(name_of(self.next, now));
        let begun = SegmentWriter::create(path.clone(), &self.stream).map_err(|error| {
            // a full disk may have taken the name and nothing else
            let _ = fs::remove_file(&path);
            RecordingError::io(&path)(error)
        })?;
        self.next += 1;
        Ok(begun)
    }

    /// Removes the oldest segments while all together have more than `most` bytes; those in use by
    /// `current` stay. Returns how many were removed.
    pub(crate) fn keep_bytes(&self, most: u64, current: Option<&Path>) -> Result<usize, RecordingError> {
        let segments = segments(&self.path)?;
        let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
        self.remove_oldest(segments, current, |segment| {
            let is_too_much = total > most;
            total -= segment.bytes;
            is_too_much
        })
    }

    /// Removes the oldest segments whose messages were all published before `time`; those in use by
    /// `current` stay. Returns how many were removed.
    pub(crate) fn keep_since(&self, time: i64, current: Option<&Path>) -> Result<usize, RecordingError> {
        self.remove_oldest(segments(&self.path)?, current, |segment| {
            let summary = SegmentReader::open(&segment.path).ok().and_then(|reader| reader.summary());
            summary.is_some_and(|(TimeRange { last, .. }, _)| last < time)
        })
    }

    fn remove_oldest(
        &self,
        segments: Vec<SegmentFile>,
        current: Option<&Path>,
        mut is_old: impl FnMut(&SegmentFile) -> bool,
    ) -> Result<usize, RecordingError> {
        let mut removed = 0;
        for segment in segments {
            if Some(&*segment.path) == current || !is_old(&segment) {
                break;
            }
            fs::remove_file(&segment.path).map_err(RecordingError::io(&segment.path))?;
            removed += 1;
        }
        Ok(removed)
    }
}

/// Completes the last segment of a folder if it is unfinished.
fn complete_last(last: &Path, folder: &Path, stream: &TopicName) -> Result<Option<FoundBlocks>, RecordingError> {
    let reader = match SegmentReader::open(last) {
        Ok(reader) => reader,
        Err(error @ RecordingError::NoSegment(_)) => {
            let length = last.metadata().map_or(0, |metadata| metadata.len());
            return set_aside(last, length, &error).map(|()| None).map_err(RecordingError::io(last));
        }
        Err(error) => return Err(error),
    };
    if reader.stream() != stream {
        let (found, wanted) = (reader.stream().clone(), stream.clone());
        return Err(RecordingError::OtherStream { path: folder.to_owned(), found, wanted });
    }
    if reader.is_finished() { Ok(None) } else { reader.complete().map(Some) }
}

/// Removes a file without headers that is too short for any block; renames a longer one.
fn set_aside(path: &Path, length: u64, error: &RecordingError) -> io::Result<()> {
    if length <= super::segment_header::BOTH_HEADERS as u64 {
        // its writer was killed before the first message
        fs::remove_file(path)?;
    } else {
        let aside = path.with_extension("damaged");
        tracing::warn!("{error}; it is renamed to {}", aside.display());
        fs::rename(path, aside)?;
    }
    sync_folder(path)
}

//! The target of records: one file, which several consumers may share, or the rotated files of a
//! folder.
//!
//! ```text
//!  one file:  lock ▶ still at its path? ▶ repair the end ▶ append, sync ▶ unlock
//!  folder:    file still there, and not due? ─┬ yes ▶ repair the end ▶ append, sync
//!                                             └ no ▶ unlock; lock the newest free file that is
//!                                                    not due, or a new one (O_EXCL)
//! ```
//!
//! The locks are advisory (flock), and hold across machines as far as the file system supports
//! that.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::unistd::{AccessFlags, access};

use super::Rotation;
use super::names::TimedNames;
use super::record_writer::RecordWriter;
use crate::proto::Message;

/// The target of records.
pub(super) enum FileTarget {
    Path(SharedFile),
    Folder(RotatedFiles),
}

impl FileTarget {
    /// Checks what is known before the first message, and creates missing folders.
    pub(super) fn open(path: PathBuf, rotation: Option<Rotation>, writer: &RecordWriter) -> io::Result<Self> {
        Ok(match rotation {
            None => {
                let open = OpenFile::new(open_or_create(&path, writer)?);
                Self::Path(SharedFile { path, open: Some(open) })
            }
            Some(rotation) => {
                if !path.is_dir() {
                    fs::create_dir_all(&path).map_err(|error| match error.kind() {
                        ErrorKind::AlreadyExists => io::Error::other("it is a file, and rotated files need a folder"),
                        _ => error,
                    })?;
                    sync_parent(&path)?;
                }
                access(&path, AccessFlags::W_OK | AccessFlags::X_OK)?;
                Self::Folder(RotatedFiles { path, rotation, current: None })
            }
        })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Path(target) => &target.path,
            Self::Folder(target) => &target.path,
        }
    }

    /// Closes the file, so that the next write opens it again.
    pub(super) fn close(&mut self) {
        match self {
            Self::Path(target) => target.open = None,
            Self::Folder(target) => target.current = None,
        }
    }

    /// Appends at least one of these messages, all to the same file; returns their number. After an
    /// error none is in the file.
    pub(super) fn append(
        &mut self,
        writer: &mut RecordWriter,
        messages: &[Message],
        now: SystemTime,
    ) -> io::Result<usize> {
        match self {
            Self::Path(target) => target.append(writer, messages),
            Self::Folder(target) => target.append(writer, messages, now),
        }
    }
}

/// An open file.
struct OpenFile {
    file: File,
    /// The end of the complete records after the last write here.
    whole: u64,
}

impl OpenFile {
    fn new(file: File) -> Self {
        Self { file, whole: 0 }
    }

    fn append(&mut self, writer: &mut RecordWriter, messages: &[Message], limit: u64) -> io::Result<usize> {
        let end = writer.repair_end(&self.file, self.whole)?;
        let (count, whole) = writer.append(&self.file, end, messages, limit.saturating_sub(end))?;
        self.whole = whole;
        Ok(count)
    }
}

/// One file that consumers share: locked for each batch.
pub(super) struct SharedFile {
    path: PathBuf,
    /// `None` after an error, which reopening the file may cure.
    open: Option<OpenFile>,
}

impl SharedFile {
    fn append(&mut self, writer: &mut RecordWriter, messages: &[Message]) -> io::Result<usize> {
        let mut open = self.locked(writer)?;
        let appended = open.append(writer, messages, u64::MAX);
        let unlocked = open.file.unlock();
        let count = appended.and_then(|count| unlocked.map(|()| count))?;
        self.open = Some(open);
        Ok(count)
    }

    /// Returns the locked file, which is the one at the path: a write to a deleted file is lost,
    /// and a write to one that was moved away comes late.
    fn locked(&mut self, writer: &RecordWriter) -> io::Result<OpenFile> {
        loop {
            let open = match self.open.take() {
                Some(open) => open,
                None => OpenFile::new(open_or_create(&self.path, writer)?),
            };
            open.file.lock()?;
            if is_at(&self.path, &open.file)? {
                return Ok(open);
            }
        }
    }
}

/// The rotated files of a folder; the current one is locked while it is in use.
pub(super) struct RotatedFiles {
    path: PathBuf,
    rotation: Rotation,
    current: Option<CurrentFile>,
}

struct CurrentFile {
    open: OpenFile,
    path: PathBuf,
    names: TimedNames,
    revision: u32,
    since: SystemTime,
}

impl RotatedFiles {
    fn append(&mut self, writer: &mut RecordWriter, messages: &[Message], now: SystemTime) -> io::Result<usize> {
        let limit = self.rotation.size.unwrap_or(u64::MAX);
        let current = self.current(writer, now)?;
        current.open.append(writer, messages, limit)
    }

    /// Returns the file for the next write.
    fn current(&mut self, writer: &RecordWriter, now: SystemTime) -> io::Result<&mut CurrentFile> {
        let names = self.rotation.names.at(now).ok_or_else(|| io::Error::other("invalid --datetime-format"))?;
        let mut left = None;
        if let Some(CurrentFile { open, path, names: before, revision, since }) = &self.current {
            let is_due = self.rotation.is_due(open.whole, age(*since, now));
            if *before == names && is_due {
                left = Some(*revision);
            }
            if *before != names || is_due || !is_at(path, &open.file)? {
                // closing the file releases its lock
                self.current = None;
            }
        }
        if self.current.is_none() {
            self.current = Some(self.next(writer, names, left, now)?);
        }
        Ok(self.current.as_mut().expect("it was set"))
    }

    /// Opens the newest file of these names, unless it was left because it was due, or creates a
    /// new one.
    fn next(
        &self,
        writer: &RecordWriter,
        names: TimedNames,
        left: Option<u32>,
        now: SystemTime,
    ) -> io::Result<CurrentFile> {
        let newest = self.newest(&names)?.max(left);
        if let Some(newest) = newest.filter(|newest| Some(*newest) != left) {
            let path = self.path.join(names.of(newest));
            if let Some((open, since)) = self.take_over(&path, writer, now)? {
                return Ok(CurrentFile { open, path, names, revision: newest, since });
            }
        }
        let mut revision = newest.map_or(0, |newest| newest.saturating_add(1));
        loop {
            if revision > 0 && !names.have_revisions() {
                let name = names.of(0);
                return Err(io::Error::other(format!("{name} is in use or full: put <REV> in --filename-format")));
            }
            let path = self.path.join(names.of(revision));
            match writer.options().create_new(true).open(&path) {
                // another consumer may have been faster to lock it
                Ok(file) if has_lock(&file)? && is_at(&path, &file)? => {
                    sync_parent(&path)?;
                    tracing::debug!("writing to {}", path.display());
                    return Ok(CurrentFile { open: OpenFile::new(file), path, names, revision, since: now });
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            revision = revision.checked_add(1).ok_or_else(|| io::Error::other("no revision is left"))?;
        }
    }

    /// Returns the largest existing revision.
    fn newest(&self, names: &TimedNames) -> io::Result<Option<u32>> {
        let mut newest = None;
        for entry in fs::read_dir(&self.path)? {
            newest = newest.max(entry?.file_name().to_str().and_then(|name| names.revision_of(name)));
        }
        Ok(newest)
    }

    /// Takes over a file that a consumer left, with its creation time; `None` if it is in use, due,
    /// or not ours.
    fn take_over(
        &self,
        path: &Path,
        writer: &RecordWriter,
        now: SystemTime,
    ) -> io::Result<Option<(OpenFile, SystemTime)>> {
        let file = match writer.options().open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || !has_lock(&file)? || !is_at(path, &file)? {
            return Ok(None);
        }
        let whole = match writer.repair_end(&file, 0) {
            Ok(whole) => whole,
            Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(None),
            Err(error) => return Err(error),
        };
        // without a creation time the file counts as old
        let since = metadata.created().unwrap_or(SystemTime::UNIX_EPOCH);
        let is_due = self.rotation.is_due(whole, age(since, now));
        Ok((!is_due).then_some((OpenFile { file, whole }, since)))
    }
}

fn age(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

fn has_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Returns true if this open file is the one at the path.
fn is_at(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a file for appending. The folder of a new file is synced: otherwise a power cut may remove
/// the file with all its lines.
fn open_or_create(path: &Path, writer: &RecordWriter) -> io::Result<File> {
    let mut options = writer.options();
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        opened => return opened,
    }
    let file = options.create(true).truncate(false).open(path)?;
    sync_parent(path)?;
    Ok(file)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match fs::canonicalize(path)?.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::handler::PrintOutput;
    use crate::handler::file::FileNameFormats;
    use crate::handler::line_format::LineFormat;
    use crate::handler::testing::{message, options};

    /// A consumer's files and its writer.
    struct Consumer {
        target: FileTarget,
        writer: RecordWriter,
    }

    impl Consumer {
        fn new(folder: &Path, filename: &str, size: Option<u64>, interval: Option<u64>) -> Self {
            let options = options();
            let names = FileNameFormats { filename, datetime: "%H", suffix: "" };
            let rotation = Rotation::new(names, &options.stream, size, interval.map(Duration::from_secs)).unwrap();
            let format = LineFormat::new(PrintOutput::Body, options.stream, options.group);
            let writer = RecordWriter { format, gzip: None, buffer: Vec::new() };
            Self { target: FileTarget::open(folder.join("new/folder"), Some(rotation), &writer).unwrap(), writer }
        }

        fn write(&mut self, bodies: &str, now: SystemTime) -> io::Result<()> {
            let mut messages: Vec<Message> = bodies.split(' ').map(|body| message(body.to_owned())).collect();
            while !messages.is_empty() {
                let count = self.target.append(&mut self.writer, &messages, now)?;
                assert!(count > 0);
                messages.drain(..count);
            }
            Ok(())
        }
    }

    /// Returns the names and contents of the files.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder.join("new/folder")).unwrap().map(|entry| entry.unwrap());
        let all: BTreeMap<String, String> = entries
            .map(|entry| {
                let text = fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text.replace('\n', " "))
            })
            .collect();
        all.into_iter().collect()
    }

    fn are(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn files_rotate_by_size_within_a_batch_and_the_last_is_continued_after_a_restart() {
        let (folder, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let consumer = || Consumer::new(folder.path(), "a<REV>", Some(6), None);
        consumer().write("11 22 33 44444444 55", now).unwrap();
        assert_eq!(
            files(folder.path()),
            are(&[("a-000000", "11 22 "), ("a-000001", "33 44444444 "), ("a-000002", "55 ")])
        );
        consumer().write("66 77", now).unwrap();
        assert_eq!(files(folder.path())[2..], are(&[("a-000002", "55 66 "), ("a-000003", "77 ")]));
    }

    #[test]
    fn files_rotate_by_age_and_by_the_time_in_their_name() {
        let (folder, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let new = || Consumer::new(folder.path(), "a<REV>", None, Some(100));
        let mut consumer = new();
        consumer.write("1", at(0)).unwrap();
        consumer.write("2", at(99)).unwrap();
        consumer.write("3", at(100)).unwrap();
        consumer.write("4", at(199)).unwrap();
        drop(consumer);
        new().write("5", at(1000)).unwrap();
        assert_eq!(files(folder.path()), are(&[("a-000000", "1 2 "), ("a-000001", "3 4 "), ("a-000002", "5 ")]));

        let (folder, hour) =
            (tempfile::tempdir().unwrap(), |hour: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(3600 * hour));
        let mut consumer = Consumer::new(folder.path(), "a<REV>.<DATETIME>", None, None);
        for (body, at) in [("1", hour(5)), ("2", hour(6) - Duration::from_secs(1)), ("3", hour(6)), ("4", hour(5))] {
            consumer.write(body, at).unwrap();
        }
        assert_eq!(files(folder.path()), are(&[("a.05", "1 2 4 "), ("a.06", "3 ")]));
    }

    #[test]
    fn two_consumers_never_write_to_the_same_file() {
        let (folder, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let new = || Consumer::new(folder.path(), "a<REV>", Some(4), None);
        let (mut one, mut two) = (new(), new());
        for _ in 0..2 {
            one.write("1", now).unwrap();
            two.write("2", now).unwrap();
        }
        one.write("1", now).unwrap();
        assert_eq!(files(folder.path()), are(&[("a-000000", "1 1 "), ("a-000001", "2 2 "), ("a-000002", "1 ")]));
        drop((one, two));
        new().write("3", now).unwrap();
        assert_eq!(files(folder.path())[2..], are(&[("a-000002", "1 3 ")]));

        let new = || Consumer::new(folder.path(), "b", None, None);
        let mut one = new();
        one.write("1", now).unwrap();
        let error = new().write("2", now).unwrap_err();
        assert_eq!(error.to_string(), "b is in use or full: put <REV> in --filename-format");
        drop(one);
        new().write("3", now).unwrap();
        assert_eq!(files(folder.path())[3..], are(&[("b", "1 3 ")]));
    }

    #[test]
    fn a_moved_rotated_file_is_replaced() {
        let (folder, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let mut consumer = Consumer::new(folder.path(), "a<REV>", Some(100), None);
        consumer.write("1", now).unwrap();
        let path = |name: &str| folder.path().join("new/folder").join(name);
        fs::rename(path("a-000000"), path("taken")).unwrap();
        consumer.write("2", now).unwrap();
        assert_eq!(files(folder.path()), are(&[("a-000000", "2 "), ("taken", "1 ")]));
    }
}

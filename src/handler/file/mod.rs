//! `file:PATH`: one line a message at the end of a file, on the disk before the message leaves the queue.
//!
//! ```text
//!  lock ▶ end an unfinished line ▶ write the batch ▶ fdatasync ▶ unlock ▶ Done
//!                                    └─── error ────────┴▶ truncate back ▶ unlock ▶ Retry
//! ```
//!
//! The lock is advisory (flock), so several consumers may share a file, on several machines as far as the file system
//! passes locks on. The file is opened again after SIGHUP (logrotate), after an error, and when it was deleted.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::proto::Message;

use super::lane::Lane;
use super::line::add_body;
use super::{Handler, HandlerError, Verdict};
use crate::reason::why;

/// The most messages that share a write and a sync.
const BATCH: usize = 1024;
/// How much is gathered for one write, in bytes; kept from batch to batch.
const RUN: usize = 1024 * 1024;

/// Appends bodies as lines to a file. A message is `Done` once the disk says that its line is safe; of a batch either all
/// lines are appended or none.
#[derive(Debug)]
pub struct FileHandler {
    lane: Lane<Batch, Vec<Verdict>>,
    hangups: Mutex<Signal>,
}

/// What is appended together.
struct Batch {
    messages: Vec<Message>,
    /// SIGHUP came: what was opened may have been moved away.
    reopen: bool,
}

impl FileHandler {
    /// Opens the file to append to it, or creates it, and listens for SIGHUP from now on. Fails if it cannot be opened, or
    /// outside a tokio runtime.
    pub fn open(path: &Path) -> Result<Self, HandlerError> {
        // Without a runtime `signal` panics.
        Handle::try_current().map_err(|error| HandlerError::System(io::Error::other(error)))?;
        let hangups = signal(SignalKind::hangup()).map_err(HandlerError::System)?;
        let file = open(path).map_err(|source| HandlerError::File { path: path.to_owned(), source })?;
        let mut appender = Appender { path: path.to_owned(), file: Some(file), buffer: Vec::new() };
        let lane = Lane::start("file", move |batch| appender.append(batch)).map_err(HandlerError::System)?;
        Ok(Self { lane, hangups: Mutex::new(hangups) })
    }

    /// True if SIGHUP came since the last call.
    fn hung_up(&self) -> bool {
        let mut hangups = self.hangups.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        hangups.recv().now_or_never().is_some()
    }
}

impl Handler for FileHandler {
    async fn handle(&self, message: Message) -> Verdict {
        let verdict = self.handle_batch(vec![message]).await.pop();
        verdict.expect("a batch of one has one verdict")
    }

    fn batch_size(&self) -> usize {
        BATCH
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let count = messages.len();
        let verdicts = self.lane.run(Batch { messages, reopen: self.hung_up() }).await;
        verdicts.unwrap_or_else(|| vec![Verdict::retry("the thread that appends has panicked"); count])
    }
}

/// The blocking half: owns the open file.
struct Appender {
    path: PathBuf,
    /// `None` after an error, which may be cured by opening the file again.
    file: Option<File>,
    buffer: Vec<u8>,
}

impl Appender {
    /// Appends a batch, and says the same of each of its messages.
    fn append(&mut self, batch: Batch) -> Vec<Verdict> {
        if batch.reopen {
            self.file = None;
        }
        let verdict = match self.try_append(&batch.messages) {
            Ok(file) => {
                self.file = Some(file);
                Verdict::Done(None)
            }
            Err(error) => Verdict::retry(format!("cannot append to {:?}: {}", self.path, why(&error))),
        };
        vec![verdict; batch.messages.len()]
    }

    /// Appends all lines or none, and gives the file back if nothing is wrong with it.
    fn try_append(&mut self, messages: &[Message]) -> io::Result<File> {
        let file = self.lock()?;
        let buffer = &mut self.buffer;
        let result = all_or_nothing(&file, |file| write_lines(file, messages, buffer));
        let unlocked = file.unlock();
        result.and(unlocked).map(|()| file)
    }

    /// The open file, locked, and not one that was deleted: what is written there is lost.
    fn lock(&mut self) -> io::Result<File> {
        loop {
            let file = match self.file.take() {
                Some(file) => file,
                None => open(&self.path)?,
            };
            file.lock()?;
            if file.metadata()?.nlink() > 0 {
                return Ok(file);
            }
        }
    }
}

/// Opens a file to append to it. A new file's folder is synced: else a power cut may take the file with all its lines.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).append(true);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        opened => return opened,
    }
    let file = options.create(true).open(path)?;
    if let Some(folder) = fs::canonicalize(path)?.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

/// Lets `write` append to a locked file and syncs it; after an error the file is as long as before.
fn all_or_nothing(file: &File, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let before = file.metadata()?;
    if !before.is_file() {
        // A device or a pipe has no length and no disk.
        return write(file);
    }
    let result = end_unfinished_line(file, before.len()).and_then(|()| write(file)).and_then(|()| file.sync_data());
    if result.is_err() {
        // If this fails as well, the line that is left unfinished is ended by the next batch.
        let _ = file.set_len(before.len());
    }
    result
}

/// Writes a line feed if the file does not end with one: a consumer was killed while it wrote, and the message whose line is
/// half there comes again.
fn end_unfinished_line(mut file: &File, length: u64) -> io::Result<()> {
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last == [b'\n'] { Ok(()) } else { file.write_all(b"\n") }
}

/// Writes the messages' bodies, each with a line feed, in one write unless they are huge.
fn write_lines(mut file: &File, messages: &[Message], buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    buffer.shrink_to(2 * RUN);
    for message in messages {
        add_body(message, b'\n', buffer);
        if buffer.len() >= RUN {
            file.write_all(buffer)?;
            buffer.clear();
        }
    }
    file.write_all(buffer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::signal::{Signal as UnixSignal, raise};
    use tempfile::TempDir;

    use super::*;
    use crate::handler::testing::message;

    const DONE: Verdict = Verdict::Done(None);

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        (folder, path)
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[tokio::test]
    async fn batches_follow_what_is_already_there() {
        let (_folder, path) = folder();
        fs::write(&path, "old\n").unwrap();
        let handler = FileHandler::open(&path).unwrap();
        assert_eq!(handler.handle_batch(vec![message("a"), message("b")]).await, [DONE, DONE]);
        assert_eq!(handler.handle(message("c")).await, DONE);
        assert_eq!(read(&path), "old\na\nb\nc\n");
    }

    #[tokio::test]
    async fn sighup_opens_the_path_again() {
        let (_folder, path) = folder();
        let rotated = path.with_extension("1");
        let handler = FileHandler::open(&path).unwrap();
        handler.handle(message("a")).await;
        fs::rename(&path, &rotated).unwrap();
        handler.handle(message("b")).await;
        assert_eq!(read(&rotated), "a\nb\n");

        raise(UnixSignal::SIGHUP).unwrap();
        // Each turn lets the runtime take the signal in.
        while !path.exists() {
            tokio::task::yield_now().await;
            assert_eq!(handler.handle(message("c")).await, DONE);
        }
        assert_eq!(read(&path), "c\n");
    }

    #[tokio::test]
    async fn a_deleted_file_is_made_again() {
        let (_folder, path) = folder();
        let handler = FileHandler::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(handler.handle(message("a")).await, DONE);
        assert_eq!(read(&path), "a\n");
    }

    #[tokio::test]
    async fn a_full_disk_is_a_retry_for_all_until_there_is_space() {
        let (folder, path) = folder();
        symlink("/dev/full", &path).unwrap();
        let handler = FileHandler::open(&path).unwrap();
        let reason = Verdict::retry(format!("cannot append to {path:?}: no space left on device"));
        assert_eq!(handler.handle_batch(vec![message("a"), message("b")]).await, [reason.clone(), reason]);

        fs::remove_file(&path).unwrap();
        symlink(folder.path().join("disk"), &path).unwrap();
        assert_eq!(handler.handle(message("a")).await, DONE);
        assert_eq!(read(&path), "a\n");
    }

    #[test]
    fn what_fails_half_way_leaves_the_file_as_it_was() {
        let (_folder, path) = folder();
        fs::write(&path, "old\n").unwrap();
        let result = all_or_nothing(&open(&path).unwrap(), |mut file| {
            file.write_all(b"new\nha")?;
            Err(ErrorKind::StorageFull.into())
        });
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(read(&path), "old\n");
    }

    #[tokio::test]
    async fn the_half_line_of_a_killed_consumer_is_ended() {
        let (_folder, path) = folder();
        let handler = FileHandler::open(&path).unwrap();
        handler.handle(message("a")).await;
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"ha").unwrap();
        handler.handle(message("b")).await;
        assert_eq!(read(&path), "a\nha\nb\n");
    }

    #[tokio::test]
    async fn a_batch_waits_for_another_consumers_lock() {
        let (_folder, path) = folder();
        let handler = FileHandler::open(&path).unwrap();
        let other = open(&path).unwrap();
        other.lock().unwrap();
        let appending = tokio::spawn(async move { handler.handle(message("b")).await });
        tokio::task::yield_now().await;
        (&other).write_all(b"a\n").unwrap();
        assert!(!appending.is_finished());
        other.unlock().unwrap();
        assert_eq!(appending.await.unwrap(), DONE);
        assert_eq!(read(&path), "a\nb\n");
    }

    #[tokio::test]
    async fn two_consumers_interleave_whole_lines() {
        let (_folder, path) = folder();
        let handlers = [FileHandler::open(&path).unwrap(), FileHandler::open(&path).unwrap()];
        let batch = |byte: u8| vec![message(vec![byte; 10_000]); 200];
        let (a, b) = tokio::join!(handlers[0].handle_batch(batch(b'a')), handlers[1].handle_batch(batch(b'b')));
        assert!(a.iter().chain(&b).all(|verdict| *verdict == DONE));
        let text = read(&path);
        assert_eq!(text.lines().count(), 400);
        assert!(text.lines().all(|line| line == "a".repeat(10_000) || line == "b".repeat(10_000)));
    }
}

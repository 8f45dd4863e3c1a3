//! `file:PATH`: appends messages to a file, synced to the disk before they leave the queue.
//!
//! ```text
//!  lock ▶ repair the end ▶ write the batch ▶ fdatasync ▶ unlock ▶ Done
//!                         └─── error ────────┴▶ truncate back ▶ unlock ▶ Retry
//! ```
//!
//! A file is reopened after SIGHUP (logrotate), after an error, and when it was deleted or moved
//! away. With a [`Rotation`] the path is a folder of files that are written in turn.

mod gzip;
mod names;
mod record_writer;
mod rotation;
mod target;

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::proto::Message;

pub use self::names::{InvalidNames, RotatedNames};
use self::record_writer::RecordWriter;
pub use self::rotation::{FileNameFormats, Rotation};
use self::target::FileTarget;
use super::blocking_thread::BlockingThread;
use super::line_format::LineFormat;
use super::{Handler, HandlerError, HandlerOptions, PrintOutput, Verdict};
use crate::io_error::describe;

/// The maximum number of messages that share a write and a sync.
const MAX_BATCH: usize = 1024;

/// The options of `file`.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// The output format of a message.
    pub output: PrintOutput,
    /// The gzip level (1 to 9), if files are compressed.
    pub gzip: Option<u32>,
    /// The rotation, if there is more than one file.
    pub rotation: Option<Rotation>,
}

/// Appends messages to a file. A message is `Done` once it is synced to the disk; the part of a
/// batch in one file is there completely or not at all.
#[derive(Debug)]
pub struct FileHandler {
    thread: BlockingThread<FileBatch, Vec<Verdict>>,
    hangups: Mutex<Signal>,
}

/// Messages that are appended together.
struct FileBatch {
    messages: Vec<Message>,
    /// SIGHUP was received: the open file may have been moved away.
    reopen: bool,
}

impl FileHandler {
    /// Opens or creates the file, or the folder of rotated files, and listens for SIGHUP from now
    /// on. Fails if the file is not available, or outside a tokio runtime.
    pub fn new(path: &Path, options: &HandlerOptions) -> Result<Self, HandlerError> {
        // `signal` panics without a runtime.
        Handle::try_current().map_err(|error| HandlerError::System(io::Error::other(error)))?;
        let hangups = signal(SignalKind::hangup()).map_err(HandlerError::System)?;
        let FileOptions { output, gzip, rotation } = options.file.clone();
        let format = LineFormat::new(output, options.stream.clone(), options.group.clone());
        let writer = RecordWriter { format, gzip, buffer: Vec::new() };
        let target = FileTarget::open(path.to_owned(), rotation, &writer);
        let target = target.map_err(|source| HandlerError::File { path: path.to_owned(), source })?;
        let mut appender = Appender { target, writer };
        let thread =
            BlockingThread::start("file", move |batch| appender.append(&batch)).map_err(HandlerError::System)?;
        Ok(Self { thread, hangups: Mutex::new(hangups) })
    }

    /// Returns true if SIGHUP was received since the last call.
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
        MAX_BATCH
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let count = messages.len();
        let verdicts = self.thread.run(FileBatch { messages, reopen: self.hung_up() }).await;
        verdicts.unwrap_or_else(|| vec![Verdict::retry("the thread that appends has panicked"); count])
    }
}

/// The blocking half, which owns the open file.
struct Appender {
    target: FileTarget,
    writer: RecordWriter,
}

impl Appender {
    /// Appends a batch, to one file or, as files become full, to several: messages in one file are
    /// done, whatever happens to the rest.
    fn append(&mut self, FileBatch { messages, reopen }: &FileBatch) -> Vec<Verdict> {
        if *reopen {
            self.target.close();
        }
        let mut verdicts = Vec::with_capacity(messages.len());
        while verdicts.len() < messages.len() {
            match self.target.append(&mut self.writer, &messages[verdicts.len()..], SystemTime::now()) {
                Ok(count) => verdicts.resize(verdicts.len() + count, Verdict::Done(None)),
                Err(error) => {
                    self.target.close();
                    let why = format!("cannot append to {:?}: {}", self.target.path(), describe(&error));
                    verdicts.resize(messages.len(), Verdict::retry(why));
                }
            }
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::fs::{FileExt, symlink};
    use std::path::PathBuf;

    use flate2::read::MultiGzDecoder;
    use nix::sys::signal::{Signal as UnixSignal, raise};
    use tempfile::TempDir;

    use super::*;
    use crate::handler::testing::{message, options};

    const DONE: Verdict = Verdict::Done(None);

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        (folder, path)
    }

    fn handler_of(path: &Path) -> Result<FileHandler, HandlerError> {
        FileHandler::new(path, &options())
    }

    fn writing_as(output: PrintOutput, gzip: Option<u32>) -> RecordWriter {
        let options = options();
        RecordWriter { format: LineFormat::new(output, options.stream, options.group), gzip, buffer: Vec::new() }
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[tokio::test]
    async fn batches_are_appended_to_existing_content() {
        let (_folder, path) = folder();
        fs::write(&path, "old\n").unwrap();
        let handler = handler_of(&path).unwrap();
        assert_eq!(handler.handle_batch(vec![message("a"), message("b")]).await, [DONE, DONE]);
        assert_eq!(handler.handle(message("c")).await, DONE);
        assert_eq!(read(&path), "old\na\nb\nc\n");
    }

    #[tokio::test]
    async fn moved_files_are_not_written_any_more() {
        let (_folder, path) = folder();
        let handler = handler_of(&path).unwrap();
        handler.handle(message("a")).await;
        fs::rename(&path, path.with_extension("1")).unwrap();
        handler.handle(message("b")).await;
        assert_eq!((read(&path.with_extension("1")).as_str(), read(&path).as_str()), ("a\n", "b\n"));
    }

    #[tokio::test]
    async fn sighup_reopens_the_path() {
        let (_folder, path) = folder();
        let handler = handler_of(&path).unwrap();
        handler.handle(message("a")).await;
        assert!(!handler.hung_up());
        raise(UnixSignal::SIGHUP).unwrap();
        // each yield lets the runtime receive the signal
        while !handler.hung_up() {
            tokio::task::yield_now().await;
        }
        let verdicts = handler.thread.run(FileBatch { messages: vec![message("b")], reopen: true }).await;
        assert_eq!((verdicts, read(&path).as_str()), (Some(vec![DONE]), "a\nb\n"));
    }

    #[tokio::test]
    async fn deleted_files_are_created_again() {
        let (_folder, path) = folder();
        let handler = handler_of(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(handler.handle(message("a")).await, DONE);
        assert_eq!(read(&path), "a\n");
    }

    #[tokio::test]
    async fn a_full_disk_is_a_retry_until_there_is_space() {
        let (folder, path) = folder();
        symlink("/dev/full", &path).unwrap();
        let handler = handler_of(&path).unwrap();
        let reason = Verdict::retry(format!("cannot append to {path:?}: no space left on device"));
        assert_eq!(handler.handle_batch(vec![message("a"), message("b")]).await, [reason.clone(), reason]);

        fs::remove_file(&path).unwrap();
        symlink(folder.path().join("disk"), &path).unwrap();
        assert_eq!(handler.handle(message("a")).await, DONE);
        assert_eq!(read(&path), "a\n");
    }

    #[test]
    fn failed_appends_leave_the_file_unchanged() {
        let (_folder, path) = folder();
        for gzip in [None, Some(6)] {
            let mut writer = writing_as(PrintOutput::Body, gzip);
            let file = writer.options().create(true).open(&path).unwrap();
            let end = writer.append(&file, 0, &[message("old")], u64::MAX).unwrap().1;
            let old = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let error = writer.append(&file, end, &[message("new")], u64::MAX).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "nobody would find it");
            let mut left = vec![0; old.len()];
            file.read_exact_at(&mut left, 0).unwrap();
            assert_eq!((file.metadata().unwrap().len(), left), (end, old));
        }
    }

    #[test]
    fn incomplete_records_are_removed_where_they_are_recognizable() {
        let line = |text: &str| format!("{{\"stream\":\"foo\"{text}");
        let cases = [
            (PrintOutput::Body, "a\nha".to_owned(), "a\nha\n".to_owned()),
            (PrintOutput::Null, "a\0h\na".to_owned(), "a\0".to_owned()),
            (PrintOutput::Null, "ha".to_owned(), "ha\0".to_owned()),
            (PrintOutput::Json, "a\n".to_owned() + &line(",\"body\":\"ha"), "a\n".to_owned()),
            (PrintOutput::Json, line(""), String::new()),
            (PrintOutput::Json, "a\n{\"st".to_owned(), "a\n".to_owned()),
            (PrintOutput::Json, "a\nha".to_owned(), "a\nha\n".to_owned()),
            (
                PrintOutput::Json,
                "a\n".to_owned() + &"x".repeat(3_000_000),
                "a\n".to_owned() + &"x".repeat(3_000_000) + "\n",
            ),
            (PrintOutput::Null, "a\0".to_owned() + &"x".repeat(3_000_000), "a\0".to_owned()),
        ];
        for (output, before, after) in cases {
            let (_folder, path) = folder();
            fs::write(&path, &before).unwrap();
            let writer = writing_as(output, None);
            let end = writer.repair_end(&writer.options().open(&path).unwrap(), 0).unwrap();
            assert!(read(&path) == after && end == after.len() as u64, "{output}: {before:.40}");
        }
    }

    #[tokio::test]
    async fn consumers_share_a_gzip_file_and_remove_incomplete_members() {
        let (_folder, path) = folder();
        let options = HandlerOptions { file: FileOptions { gzip: Some(1), ..FileOptions::default() }, ..options() };
        let handlers = [FileHandler::new(&path, &options).unwrap(), FileHandler::new(&path, &options).unwrap()];
        for round in 0..10 {
            let bodies = ["a", "b", "c"].map(|body| message(format!("{body}{round}")));
            assert_eq!(handlers[round % 2].handle_batch(bodies.to_vec()).await, [DONE, DONE, DONE]);
            let member = fs::read(&path).unwrap();
            // the beginning of a member that another, killed consumer was writing
            File::options()
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(&member[..member.len().min(20 + round)])
                .unwrap();
        }
        handlers[0].handle(message("last")).await;
        let mut text = String::new();
        MultiGzDecoder::new(File::open(&path).unwrap()).read_to_string(&mut text).unwrap();
        let expected: Vec<String> =
            (0..10).flat_map(|round| ["a", "b", "c"].map(|body| format!("{body}{round}"))).collect();
        assert_eq!(text, expected.join("\n") + "\nlast\n");

        fs::write(&path, "not ours\n").unwrap();
        let Verdict::Retry { why, .. } = handlers[1].handle(message("a")).await else { panic!("it was written") };
        assert!(why.contains("mqueue did not write it with --gzip"), "{why}");
        assert_eq!(read(&path), "not ours\n");
    }

    #[tokio::test]
    async fn the_partial_line_of_a_killed_consumer_is_terminated() {
        let (_folder, path) = folder();
        let handler = handler_of(&path).unwrap();
        handler.handle(message("a")).await;
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"ha").unwrap();
        handler.handle(message("b")).await;
        assert_eq!(read(&path), "a\nha\nb\n");
    }

    #[tokio::test]
    async fn a_batch_waits_for_another_consumers_lock() {
        let (_folder, path) = folder();
        let handler = handler_of(&path).unwrap();
        let other = File::options().append(true).open(&path).unwrap();
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
        let handlers = [handler_of(&path).unwrap(), handler_of(&path).unwrap()];
        let batch = |byte: u8| vec![message(vec![byte; 10_000]); 200];
        let (a, b) = tokio::join!(handlers[0].handle_batch(batch(b'a')), handlers[1].handle_batch(batch(b'b')));
        assert!(a.iter().chain(&b).all(|verdict| *verdict == DONE));
        let text = read(&path);
        assert_eq!(text.lines().count(), 400);
        assert!(text.lines().all(|line| line == "a".repeat(10_000) || line == "b".repeat(10_000)));
    }
}

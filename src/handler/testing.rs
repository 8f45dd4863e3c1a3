//! Helpers of the handlers' tests.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::proto::{ChannelName, Message, MessageId, TopicName};

use super::{FileOptions, HandlerOptions, PrintOutput};

/// Creates a message at its second attempt.
pub(super) fn message(body: impl Into<Bytes>) -> Message {
    Message {
        timestamp: 1_700_000_000_123_456_789,
        attempts: 2,
        id: MessageId(*b"0123456789abcdef"),
        body: body.into(),
    }
}

/// Creates options: stream `foo`, group `1`, plain bodies, a timeout of 30 s.
pub(super) fn options() -> HandlerOptions {
    HandlerOptions {
        connect: Default::default(),
        stream: TopicName::new("foo").unwrap(),
        group: ChannelName::new("1").unwrap(),
        output: PrintOutput::Body,
        file: FileOptions::default(),
        timeout: Duration::from_secs(30),
        stop: CancellationToken::new(),
        capture_output: false,
        nsqd: vec!["127.0.0.1:4150".parse().unwrap()],
        withheld: Vec::new(),
    }
}

/// A named pipe: a command reports to the test through `exec 3>{path}`, and the pipe's end tells
/// that all of the command's processes have ended.
pub(super) struct TestPipe {
    _folder: TempDir,
    path: PathBuf,
}

impl TestPipe {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tale");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        Self { _folder: folder, path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a script that writes to the pipe as descriptor 3, beginning with `up`.
    pub(super) fn script(&self, script: &str) -> String {
        format!("exec 3>{} 2>/dev/null; {script}", self.path.display())
    }

    /// Waits for the line `up`.
    pub(super) async fn wait_until_up(&self) -> BufReader<File> {
        let path = self.path.clone();
        let begun = spawn_blocking(move || {
            let (mut reader, mut line) = (BufReader::new(File::open(path).unwrap()), String::new());
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "up\n");
            reader
        });
        begun.await.unwrap()
    }
}

/// Returns the rest of the text, once all writers have ended.
pub(super) fn rest(mut reader: BufReader<File>) -> JoinHandle<String> {
    spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    })
}

//! What the handlers' tests share.

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

/// A message at its second attempt.
pub(super) fn message(body: impl Into<Bytes>) -> Message {
    Message {
        timestamp: 1_700_000_000_123_456_789,
        attempts: 2,
        id: MessageId(*b"0123456789abcdef"),
        body: body.into(),
    }
}

/// Stream `foo`, group `1`, bodies as they are, half a minute.
pub(super) fn options() -> HandlerOptions {
    HandlerOptions {
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

/// A pipe with a name: a command's `exec 3>{path}` tells the test what it does, and the pipe's end that all of its
/// processes have ended.
pub(super) struct Tale {
    _folder: TempDir,
    path: PathBuf,
}

impl Tale {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tale");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        Self { _folder: folder, path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A script that writes `up` to its third descriptor once it is set up, and what else there is to tell.
    pub(super) fn told_by(&self, script: &str) -> String {
        format!("exec 3>{} 2>/dev/null; {script}", self.path.display())
    }

    /// Waits for the first line.
    pub(super) async fn begin(&self) -> BufReader<File> {
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

/// The rest of a tale, once all who tell it have ended.
pub(super) fn rest(mut reader: BufReader<File>) -> JoinHandle<String> {
    spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    })
}

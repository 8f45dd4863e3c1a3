//! Captures a command's standard output for the next hop.

use std::fs::File;
use std::future;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;

use super::CAPTURE_LIMIT;

/// The maximum size of a pipe unless root raises it (/proc/sys/fs/pipe-max-size), in bytes.
const MAX_PIPE_SIZE: u64 = 1024 * 1024;

/// The size of one read, in bytes.
const READ_SIZE: usize = 8 * 1024;

/// Collects a command's output while it runs, up to [`CAPTURE_LIMIT`].
#[derive(Debug)]
pub(super) struct Capture {
    pipe: ChildStdout,
    bytes: Vec<u8>,
}

impl Capture {
    /// Creates an empty capture.
    pub(super) fn new(pipe: ChildStdout) -> Self {
        Self { pipe, bytes: Vec::new() }
    }

    /// Collects output, and returns only when it exceeds the limit. Cancel-safe.
    pub(super) async fn overflow(&mut self) {
        while self.bytes.len() <= CAPTURE_LIMIT {
            self.bytes.reserve(READ_SIZE);
            // An error occurs again in `finish`.
            if !matches!(self.pipe.read_buf(&mut self.bytes).await, Ok(1..)) {
                return future::pending().await;
            }
        }
    }

    /// Returns the output of a command that has ended. All of it is in the pipe by now, so this
    /// does not wait for the pipe's end: a background child of the command may hold it open
    /// forever.
    pub(super) fn finish(mut self) -> io::Result<Bytes> {
        read_rest(&self.pipe, &mut self.bytes)?;
        Ok(self.bytes.into())
    }
}

/// Reads the current content of a pipe without waiting for more.
pub(super) fn read_rest(pipe: &ChildStdout, into: &mut Vec<u8>) -> io::Result<()> {
    let pipe = File::from(pipe.as_fd().try_clone_to_owned()?);
    // Tokio has made the pipe non-blocking.
    match pipe.take(MAX_PIPE_SIZE).read_to_end(into) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

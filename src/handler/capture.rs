//! What a command writes to its standard output, kept for the next hop.

use std::fs::File;
use std::future;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;

use super::CAPTURE_LIMIT;

/// The most that a pipe holds unless root says otherwise (/proc/sys/fs/pipe-max-size), in bytes.
const PIPE: u64 = 1024 * 1024;

/// Room for one read, in bytes.
const READ: usize = 8 * 1024;

/// Gathers a command's output while it runs, up to [`CAPTURE_LIMIT`].
#[derive(Debug)]
pub(super) struct Capture {
    pipe: ChildStdout,
    bytes: Vec<u8>,
}

impl Capture {
    /// Nothing gathered yet.
    pub(super) fn new(pipe: ChildStdout) -> Self {
        Self { pipe, bytes: Vec::new() }
    }

    /// Gathers, and ends only when there is more than the limit. Cancel-safe.
    pub(super) async fn overflow(&mut self) {
        while self.bytes.len() <= CAPTURE_LIMIT {
            self.bytes.reserve(READ);
            // An error shows again in `finish`.
            if !matches!(self.pipe.read_buf(&mut self.bytes).await, Ok(1..)) {
                return future::pending().await;
            }
        }
    }

    /// All that a command that has ended wrote. It stands in the pipe by now, so this does not wait for the pipe's end: a
    /// child that the command left behind may hold it open, and go on writing, for ever.
    pub(super) fn finish(mut self) -> io::Result<Bytes> {
        read_rest(&self.pipe, &mut self.bytes)?;
        Ok(self.bytes.into())
    }
}

/// Reads what stands in a pipe, and waits for no more.
pub(super) fn read_rest(pipe: &ChildStdout, into: &mut Vec<u8>) -> io::Result<()> {
    let pipe = File::from(pipe.as_fd().try_clone_to_owned()?);
    // Tokio has made the pipe non-blocking.
    match pipe.take(PIPE).read_to_end(into) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

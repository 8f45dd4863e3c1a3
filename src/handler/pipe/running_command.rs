//! One run of a command: its process, its pending input, and its output.
//!
//! Reads and writes run concurrently, so that a command may write before it reads, and neither side
//! holds more than one long line, or [`WRITE_AHEAD`] bytes of short ones.

use std::collections::VecDeque;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::handler::CAPTURE_LIMIT;
use crate::handler::capture::read_rest;
use crate::handler::orphan_guard::OrphanGuard;
use crate::handler::process_group::{GRACE, ProcessGroup};

/// The limit of pending input below which lines are added, in bytes.
const WRITE_AHEAD: usize = 64 * 1024;
/// The size of one read, in bytes: the capacity of a pipe.
const READ_SIZE: usize = 64 * 1024;
/// The time for a command to exit after it closed its input or output: usually it is about to.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// A running command.
#[derive(Debug)]
pub(super) struct RunningCommand {
    child: Child,
    group: ProcessGroup,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Pending input, and the length of its written part.
    out: Vec<u8>,
    out_taken: usize,
    /// The total of written input, in bytes.
    taken: u64,
    /// For each line without an answer: the total of written input at its end.
    unanswered: VecDeque<u64>,
    said: BytesMut,
    /// The length of the part of `said` that has no line end.
    scanned: usize,
    answer_count: u64,
}

/// An event of a running command.
#[derive(Debug)]
pub(super) enum CommandEvent {
    /// The command read input.
    Took,
    /// The command wrote output.
    Said,
    /// The command closed its input or output.
    Closed,
    /// The command exited.
    Exited(io::Result<ExitStatus>),
}

impl RunningCommand {
    /// Starts a command in a process group of its own.
    pub(super) fn start(command: &mut Command, guard: &OrphanGuard) -> io::Result<Self> {
        guard.start();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn()?;
        let group = ProcessGroup::led_by(&child, guard);
        Ok(Self {
            group,
            stdin: child.stdin.take().expect("it is piped"),
            stdout: child.stdout.take().expect("it is piped"),
            child,
            out: Vec::new(),
            out_taken: 0,
            taken: 0,
            unanswered: VecDeque::new(),
            said: BytesMut::new(),
            scanned: 0,
            answer_count: 0,
        })
    }

    /// Returns true if one more line can be written ahead.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < WRITE_AHEAD
    }

    /// Adds a line to the pending input; `line` appends itself and its end.
    pub(super) fn write_line(&mut self, line: impl FnOnce(&mut Vec<u8>)) {
        line(&mut self.out);
        self.unanswered.push_back(self.taken + (self.out.len() - self.out_taken) as u64);
    }

    /// Returns the number of lines without an answer.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Returns the number of answers so far.
    pub(super) fn answer_count(&self) -> u64 {
        self.answer_count
    }

    /// Returns true if the command can have read the first line without an answer.
    pub(super) fn has_read_next(&self) -> bool {
        self.unanswered.front().is_some_and(|end| *end <= self.taken)
    }

    /// Waits for the next event. Cancel-safe.
    pub(super) async fn next_event(&mut self) -> CommandEvent {
        let Self { child, stdin, stdout, out, out_taken, said, .. } = self;
        said.reserve(READ_SIZE);
        let written = tokio::select! {
            biased;
            read = stdout.read_buf(said) => return if matches!(read, Ok(1..)) { CommandEvent::Said } else { CommandEvent::Closed },
            written = stdin.write(&out[*out_taken..]), if !out.is_empty() => written,
            status = child.wait() => return CommandEvent::Exited(status),
        };
        let Ok(count @ 1..) = written else { return CommandEvent::Closed };
        self.taken += count as u64;
        self.out_taken += count;
        if self.out_taken == self.out.len() {
            self.out.clear();
            self.out.shrink_to(4 * WRITE_AHEAD);
            self.out_taken = 0;
        }
        CommandEvent::Took
    }

    /// Returns the next line of output, without its end.
    pub(super) fn line(&mut self) -> Option<Bytes> {
        let Some(at) = memchr::memchr(b'\n', &self.said[self.scanned..]) else {
            self.scanned = self.said.len();
            return None;
        };
        let mut line = self.said.split_to(self.scanned + at + 1).freeze();
        line.truncate(line.len() - 1);
        self.scanned = 0;
        Some(line)
    }

    /// Returns the output after the last complete line.
    pub(super) fn partial_line(&self) -> &[u8] {
        &self.said
    }

    /// Returns true if the incomplete line exceeds the limit.
    pub(super) fn line_is_too_long(&self) -> bool {
        self.said.len() > CAPTURE_LIMIT
    }

    /// Records that the first line has its answer.
    pub(super) fn count_answer(&mut self) {
        self.unanswered.pop_front();
        self.answer_count += 1;
    }

    /// Waits a moment for the exit status.
    pub(super) async fn exit(&mut self) -> Option<io::Result<ExitStatus>> {
        timeout(EXIT_TIMEOUT, self.child.wait()).await.ok()
    }

    /// Reads the remaining output of a command that has exited.
    pub(super) fn read_rest(&mut self) {
        let mut rest = Vec::new();
        // Output read before an error counts.
        let _ = read_rest(&self.stdout, &mut rest);
        self.said.extend_from_slice(&rest);
    }

    /// Terminates the command and its group.
    pub(super) async fn end(mut self) {
        self.group.terminate(&mut self.child, GRACE).await;
    }

    /// Closes the command's input, waits for it to exit, and terminates it if it does not.
    pub(super) async fn close(self) {
        let Self { mut child, mut group, stdin, mut stdout, .. } = self;
        drop(stdin);
        let deaf = async {
            let _ = copy(&mut stdout, &mut sink()).await;
            std::future::pending().await
        };
        let ended = tokio::select! {
            ended = timeout(GRACE, child.wait()) => ended.is_ok(),
            () = deaf => unreachable!("it never ends"),
        };
        if ended {
            group.release();
        } else {
            group.terminate(&mut child, GRACE).await;
        }
    }
}

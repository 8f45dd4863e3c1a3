//! One run of a command: its process, what is on the way to it, and what it said.
//!
//! Reads and writes go on side by side, so that a command that writes before it reads blocks nobody, and neither side holds more
//! than one long line, or [`AHEAD`] bytes of short ones.

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

/// Lines are made when less than this waits to be written, in bytes.
const AHEAD: usize = 64 * 1024;
/// Room for one read, in bytes: what a pipe holds.
const READ: usize = 64 * 1024;
/// How long a command that closed its input or output has to end: mostly it is ending just then.
const MOMENT: Duration = Duration::from_secs(1);

/// A command that runs.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    group: ProcessGroup,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Lines for it, and how much of them it has.
    out: Vec<u8>,
    out_taken: usize,
    /// All that it has taken, in bytes.
    taken: u64,
    /// For each question without an answer: what it has taken when it has the whole of it.
    asked: VecDeque<u64>,
    said: BytesMut,
    /// How much of `said` has no line end in it.
    scanned: usize,
    answers: u64,
}

/// What a running command did.
#[derive(Debug)]
pub(super) enum Turn {
    /// It took some of its input.
    Took,
    /// It said something.
    Said,
    /// It closed its input or its output.
    Closed,
    /// It ended.
    Exited(io::Result<ExitStatus>),
}

impl Program {
    /// Starts a command, in a process group of its own.
    pub(super) fn start(command: &mut Command, guard: &OrphanGuard) -> io::Result<Self> {
        guard.stand_by();
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
            asked: VecDeque::new(),
            said: BytesMut::new(),
            scanned: 0,
            answers: 0,
        })
    }

    /// True if one more line can be written ahead.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < AHEAD
    }

    /// Has `line` written, which adds itself and its end.
    pub(super) fn ask(&mut self, line: impl FnOnce(&mut Vec<u8>)) {
        line(&mut self.out);
        self.asked.push_back(self.taken + (self.out.len() - self.out_taken) as u64);
    }

    /// How many questions have no answer yet.
    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    /// How many answers it gave.
    pub(super) fn answers(&self) -> u64 {
        self.answers
    }

    /// True if the first question without an answer is one that it can have read.
    pub(super) fn knows_the_question(&self) -> bool {
        self.asked.front().is_some_and(|end| *end <= self.taken)
    }

    /// Waits until it takes or says something, or ends. Cancel-safe.
    pub(super) async fn turn(&mut self) -> Turn {
        let Self { child, stdin, stdout, out, out_taken, said, .. } = self;
        said.reserve(READ);
        let written = tokio::select! {
            biased;
            read = stdout.read_buf(said) => return if matches!(read, Ok(1..)) { Turn::Said } else { Turn::Closed },
            written = stdin.write(&out[*out_taken..]), if !out.is_empty() => written,
            status = child.wait() => return Turn::Exited(status),
        };
        let Ok(count @ 1..) = written else { return Turn::Closed };
        self.taken += count as u64;
        self.out_taken += count;
        if self.out_taken == self.out.len() {
            self.out.clear();
            self.out.shrink_to(4 * AHEAD);
            self.out_taken = 0;
        }
        Turn::Took
    }

    /// The next line that it said, without its end.
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

    /// What it said behind its last line.
    pub(super) fn begun_line(&self) -> &[u8] {
        &self.said
    }

    /// True if it said more than can be a line.
    pub(super) fn says_too_much(&self) -> bool {
        self.said.len() > CAPTURE_LIMIT
    }

    /// The first question has its answer.
    pub(super) fn answered(&mut self) {
        self.asked.pop_front();
        self.answers += 1;
    }

    /// How it ended, if it does so within a moment.
    pub(super) async fn exit(&mut self) -> Option<io::Result<ExitStatus>> {
        timeout(MOMENT, self.child.wait()).await.ok()
    }

    /// Reads what one that has ended still said.
    pub(super) fn read_rest(&mut self) {
        let mut rest = Vec::new();
        // What was read before an error counts.
        let _ = read_rest(&self.stdout, &mut rest);
        self.said.extend_from_slice(&rest);
    }

    /// Ends it and its group.
    pub(super) async fn end(mut self) {
        self.group.terminate(&mut self.child, GRACE).await;
    }

    /// Closes its input, lets it end by itself, and ends it if it does not.
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
            group.leave();
        } else {
            group.terminate(&mut child, GRACE).await;
        }
    }
}

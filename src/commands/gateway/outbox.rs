//! A worker's outbox: lines that wait until its connection takes them, and the response that
//! streams them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::task::AtomicWaker;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::access::Caller;
use super::worker_guard::WorkerGuard;
use crate::commands::common::job::JobLine;

/// Limit on unread bytes: a worker beyond it gets no more jobs until it has read them.
const MAX_UNREAD_BYTES: usize = 256 * 1024;

/// The lines to write to one worker.
#[derive(Debug)]
pub(super) struct Outbox {
    /// The worker's name.
    pub(super) name: String,
    /// The caller that takes the jobs.
    pub(super) caller: Caller,
    /// Closes the worker's connection when cancelled.
    cut: CancellationToken,
    lines: Mutex<OutboxBuffer>,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct OutboxBuffer {
    text: Vec<u8>,
    jobs: u32,
    ended: bool,
}

/// The lines taken from an outbox.
#[derive(Debug)]
pub(super) struct OutboxChunk {
    pub(super) text: Vec<u8>,
    /// No more lines will come.
    pub(super) ended: bool,
    /// The unread bytes were over the limit, so the worker got no new jobs.
    pub(super) was_blocked: bool,
}

impl Outbox {
    pub(super) fn new(name: String, caller: Caller, cut: CancellationToken) -> Arc<Self> {
        Arc::new(Self { name, caller, cut, lines: Mutex::default(), reader: AtomicWaker::new() })
    }

    /// Adds a job. Returns true if the limit on unread bytes is reached.
    pub(super) fn add(&self, job: &JobLine<'_>) -> bool {
        let mut lines = self.lines();
        job.write(&mut lines.text);
        lines.jobs += 1;
        let blocked = lines.text.len() >= MAX_UNREAD_BYTES;
        drop(lines);
        self.reader.wake();
        blocked
    }

    /// Ends the response after the lines that are there.
    pub(super) fn end(&self) {
        self.lines().ended = true;
        self.reader.wake();
    }

    /// Closes the connection; unread lines are lost.
    pub(super) fn cut(&self) {
        self.end();
        self.cut.cancel();
    }

    /// Takes all lines that are there.
    pub(super) fn take(&self) -> OutboxChunk {
        let mut lines = self.lines();
        let text = std::mem::take(&mut lines.text);
        lines.jobs = 0;
        OutboxChunk { was_blocked: text.len() >= MAX_UNREAD_BYTES, text, ended: lines.ended }
    }

    /// Waits until `jobs` jobs are there, or the outbox ended. Cancel-safe; for one caller at a
    /// time.
    pub(super) async fn wait_for(&self, jobs: u32) {
        std::future::poll_fn(|context| {
            self.reader.register(context.waker());
            let lines = self.lines();
            if lines.jobs >= jobs || lines.ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn lines(&self) -> MutexGuard<'_, OutboxBuffer> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a worker's response: jobs as they come, and an empty line as a heartbeat.
#[derive(Debug)]
pub(super) struct JobStream {
    guard: WorkerGuard,
    heartbeat: Duration,
    heartbeat_timer: Pin<Box<Sleep>>,
}

impl JobStream {
    pub(super) fn new(guard: WorkerGuard, heartbeat: Duration) -> Self {
        Self { guard, heartbeat, heartbeat_timer: Box::pin(sleep(heartbeat)) }
    }

    fn reset_heartbeat_timer(&mut self) {
        let next = Instant::now() + self.heartbeat;
        self.heartbeat_timer.as_mut().reset(next);
    }
}

impl Stream for JobStream {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.guard.outbox.reader.register(context.waker());
        let taken = self.guard.outbox.take();
        if taken.was_blocked {
            self.guard.unblock();
        }
        if !taken.text.is_empty() {
            self.reset_heartbeat_timer();
            return Poll::Ready(Some(Ok(taken.text.into())));
        }
        if taken.ended {
            return Poll::Ready(None);
        }
        std::task::ready!(self.heartbeat_timer.as_mut().poll(context));
        self.reset_heartbeat_timer();
        Poll::Ready(Some(Ok(Bytes::from_static(b"\n"))))
    }
}

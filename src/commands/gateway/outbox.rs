//! The way to a worker: lines that wait until its connection takes them, and the stream that its response is.

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

use super::stay::Stay;
use crate::commands::common::job::JobLine;

/// A worker that has left so many bytes unread gets no more jobs until it has read them.
const CLOGGED: usize = 256 * 1024;

/// What is to be written to one worker.
#[derive(Debug)]
pub(super) struct Outbox {
    /// What the worker is called.
    pub(super) name: String,
    /// Cuts the worker's connection.
    cut: CancellationToken,
    lines: Mutex<Lines>,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    jobs: u32,
    ended: bool,
}

/// What was taken from an outbox.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) text: Vec<u8>,
    /// No more will come.
    pub(super) ended: bool,
    /// There was so much that the worker got nothing new.
    pub(super) was_clogged: bool,
}

impl Outbox {
    pub(super) fn new(name: String, cut: CancellationToken) -> Arc<Self> {
        Arc::new(Self { name, cut, lines: Mutex::default(), reader: AtomicWaker::new() })
    }

    /// Adds a job. True if nothing more should be added before it is read.
    pub(super) fn add(&self, job: &JobLine<'_>) -> bool {
        let mut lines = self.lines();
        job.write(&mut lines.text);
        lines.jobs += 1;
        let clogged = lines.text.len() >= CLOGGED;
        drop(lines);
        self.reader.wake();
        clogged
    }

    /// No more will come: the response ends after what is there.
    pub(super) fn end(&self) {
        self.lines().ended = true;
        self.reader.wake();
    }

    /// No more will come, and what is there is not wanted: the connection is cut.
    pub(super) fn cut(&self) {
        self.end();
        self.cut.cancel();
    }

    /// Takes what is there.
    pub(super) fn take(&self) -> Taken {
        let mut lines = self.lines();
        let text = std::mem::take(&mut lines.text);
        lines.jobs = 0;
        Taken { was_clogged: text.len() >= CLOGGED, text, ended: lines.ended }
    }

    /// Waits until so many jobs are there, or no more will come. Cancel-safe; for one caller.
    pub(super) async fn wait_for(&self, jobs: u32) {
        std::future::poll_fn(|context| {
            self.reader.register(context.waker());
            let lines = self.lines();
            if lines.jobs >= jobs || lines.ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a worker's response: jobs as they come, and an empty line where there was none for a while.
#[derive(Debug)]
pub(super) struct Feed {
    stay: Stay,
    heartbeat: Duration,
    beat: Pin<Box<Sleep>>,
}

impl Feed {
    pub(super) fn new(stay: Stay, heartbeat: Duration) -> Self {
        Self { stay, heartbeat, beat: Box::pin(sleep(heartbeat)) }
    }

    fn put_beat_off(&mut self) {
        let next = Instant::now() + self.heartbeat;
        self.beat.as_mut().reset(next);
    }
}

impl Stream for Feed {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stay.outbox.reader.register(context.waker());
        let taken = self.stay.outbox.take();
        if taken.was_clogged {
            self.stay.reads_again();
        }
        if !taken.text.is_empty() {
            self.put_beat_off();
            return Poll::Ready(Some(Ok(taken.text.into())));
        }
        if taken.ended {
            return Poll::Ready(None);
        }
        std::task::ready!(self.beat.as_mut().poll(context));
        self.put_beat_off();
        Poll::Ready(Some(Ok(Bytes::from_static(b"\n"))))
    }
}

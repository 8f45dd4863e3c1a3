//! Lines on standard output, written by a thread of their own, so that a slow reader delays only
//! the lines.

use std::io::{self, Write};

use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Limit on the reports that wait to be written.
const MAX_REPORTS: usize = 16;
/// Bytes written together, which the last line may exceed.
const MAX_WRITE: usize = 64 * 1024;

/// The reaction of the thread to a failed write.
#[derive(Debug)]
pub(crate) enum OnWriteError {
    /// The thread goes on with the next lines.
    Continue,
    /// The thread ends, and cancels the token.
    Cancel(CancellationToken),
}

/// The thread.
#[derive(Debug)]
pub(crate) struct StdoutThread {
    lines: StdoutLines,
    written: oneshot::Receiver<io::Result<()>>,
}

/// Sender of lines to the thread. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct StdoutLines(Sender<Queued>);

/// An entry of the thread's queue.
#[derive(Debug)]
enum Queued {
    Line(String),
    End,
}

impl StdoutThread {
    /// Starts the thread, with a queue of at most `queue_len` lines.
    pub(crate) fn start(queue_len: usize, on_error: OnWriteError) -> io::Result<Self> {
        let (lines, queue) = channel(queue_len);
        let (result, written) = oneshot::channel();
        std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
            let _ = result.send(write(queue, &on_error));
        })?;
        Ok(Self { lines: StdoutLines(lines), written })
    }

    /// Starts the thread for reports, which goes on after a failed write: a report must not stop
    /// the work.
    pub(crate) fn for_reports() -> io::Result<Self> {
        Self::start(MAX_REPORTS, OnWriteError::Continue)
    }

    /// Returns another sender of lines.
    pub(crate) fn lines(&self) -> StdoutLines {
        self.lines.clone()
    }

    /// Queues the last line, and waits until it is written.
    ///
    /// # Errors
    /// Fails if the last write failed.
    pub(crate) async fn end(self, last: impl Into<String>) -> io::Result<()> {
        self.lines.line(last).await;
        let _ = self.lines.0.send(Queued::End).await;
        self.written.await.unwrap_or(Ok(()))
    }
}

impl StdoutLines {
    /// Queues a line; waits while the queue is full.
    pub(crate) async fn line(&self, line: impl Into<String>) {
        // fails only if the thread has ended, and `StdoutThread::end` returns why
        let _ = self.0.send(Queued::Line(line.into())).await;
    }

    /// Queues a line, or drops it if the queue is full.
    pub(crate) fn line_if_room(&self, line: String) {
        if self.0.try_send(Queued::Line(line)).is_err() {
            tracing::debug!("a line was dropped: standard output is not read");
        }
    }
}

/// Formats a report as a line of JSON.
pub(crate) fn json_line(report: &impl Serialize) -> String {
    serde_json::to_string(report).expect("texts and numbers are JSON")
}

/// Writes lines until the end is queued or all senders are dropped; returns the result of the last
/// write.
fn write(mut queue: Receiver<Queued>, on_error: &OnWriteError) -> io::Result<()> {
    let mut written = Ok(());
    let mut next = queue.blocking_recv();
    while let Some(Queued::Line(line)) = next {
        let mut text = line + "\n";
        next = None;
        while text.len() < MAX_WRITE {
            match queue.try_recv() {
                Ok(Queued::Line(line)) => text.extend([&line, "\n"]),
                Ok(Queued::End) => {
                    next = Some(Queued::End);
                    break;
                }
                Err(_) => break,
            }
        }
        let mut out = io::stdout().lock();
        written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        drop(out);
        if let (Err(_), OnWriteError::Cancel(token)) = (&written, on_error) {
            token.cancel();
            return written;
        }
        next = next.or_else(|| queue.blocking_recv());
    }
    written
}

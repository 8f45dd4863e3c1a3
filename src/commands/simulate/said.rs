//! Lines on stdout, written by a thread of their own. Lines about chunks are never dropped: a slow
//! reader slows the run, and a reader that goes away ends it.

use std::io::{self, BufWriter, Write};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Limit on the lines that wait to be written.
const AHEAD: usize = 10_000;

/// The output, and its writer thread's result.
#[derive(Debug)]
pub(super) struct Said {
    voice: Voice,
    written: oneshot::Receiver<io::Result<()>>,
}

/// Sender of lines. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Voice(Sender<String>);

impl Said {
    /// Starts the thread, which cancels `unread` when a write fails.
    pub(super) fn start(unread: CancellationToken) -> io::Result<Self> {
        let (lines, waiting) = channel(AHEAD);
        let (end, written) = oneshot::channel();
        std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
            let result = write(waiting);
            if result.is_err() {
                unread.cancel();
            }
            let _ = end.send(result);
        })?;
        Ok(Self { voice: Voice(lines), written })
    }

    /// Returns another sender of lines.
    pub(super) fn voice(&self) -> Voice {
        self.voice.clone()
    }

    /// Queues a line; waits while the queue is full.
    pub(super) async fn line(&self, line: impl Into<String>) {
        self.voice.line(line.into()).await;
    }

    /// Queues a line, or drops it if the queue is full.
    pub(super) fn line_if_read(&self, line: String) {
        let _ = self.voice.0.try_send(line);
    }

    /// Waits, once all senders are dropped, until everything is written. Fails if a write failed; a closed pipe is no failure.
    pub(super) async fn end(self) -> io::Result<()> {
        drop(self.voice);
        match self.written.await {
            Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

impl Voice {
    pub(super) async fn line(&self, line: String) {
        // an error means that stdout is closed, and the run is already ending
        let _ = self.0.send(line).await;
    }
}

fn write(mut lines: Receiver<String>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    while let Some(line) = lines.blocking_recv() {
        writeln!(out, "{line}")?;
        while let Ok(line) = lines.try_recv() {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
    }
    out.flush()
}

//! Lines on stdout, from a thread of their own. None of the chunks' is left out: who reads too slowly slows the run, and who stops reading
//! ends it.

use std::io::{self, BufWriter, Write};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Lines that may wait to be written.
const AHEAD: usize = 10_000;

/// The way to stdout.
#[derive(Debug)]
pub(super) struct Said {
    voice: Voice,
    written: oneshot::Receiver<io::Result<()>>,
}

/// Who says lines.
#[derive(Debug, Clone)]
pub(super) struct Voice(Sender<String>);

impl Said {
    /// Starts the thread, which cancels `unread` when nobody takes the lines any more.
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

    /// Somebody who says lines, too.
    pub(super) fn voice(&self) -> Voice {
        self.voice.clone()
    }

    /// Has a line written, as soon as there is room for it.
    pub(super) async fn line(&self, line: impl Into<String>) {
        self.voice.line(line.into()).await;
    }

    /// Has a line written, unless many wait already.
    pub(super) fn line_if_read(&self, line: String) {
        let _ = self.voice.0.try_send(line);
    }

    /// Waits until all is written, when all voices are gone. Fails if it could not be; that nobody wanted to read it is no failure.
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
        // an error: nobody reads, and the run is ending for it
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

//! Lines on stdout, from a thread of their own. None is left out: who reads too slowly slows the run, and who stops reading ends it.

use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

/// Lines that may wait to be written.
const AHEAD: usize = 10_000;

/// The way to stdout.
#[derive(Debug)]
pub(super) struct Said {
    lines: SyncSender<String>,
    writer: JoinHandle<io::Result<()>>,
}

impl Said {
    /// Starts the thread, which cancels `unread` when nobody takes the lines any more.
    pub(super) fn start(unread: CancellationToken) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(AHEAD);
        let writer = std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
            let written = write(&waiting);
            if written.is_err() {
                unread.cancel();
            }
            written
        })?;
        Ok(Self { lines, writer })
    }

    /// Somebody who says lines, too.
    pub(super) fn voice(&self) -> Voice {
        Voice(self.lines.clone())
    }

    /// Has a line written.
    pub(super) fn line(&self, line: impl Into<String>) {
        // an error: nobody reads, and the run is ending for it
        let _ = self.lines.send(line.into());
    }

    /// Waits until all is written. Fails if it could not be; that nobody wanted to read it is no failure.
    pub(super) fn end(self) -> io::Result<()> {
        drop(self.lines);
        match self.writer.join().expect("writing does not panic") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}

/// See [`Said::voice`].
#[derive(Debug, Clone)]
pub(super) struct Voice(SyncSender<String>);

impl Voice {
    pub(super) fn line(&self, line: String) {
        let _ = self.0.send(line);
    }
}

fn write(lines: &Receiver<String>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    while let Ok(line) = lines.recv() {
        writeln!(out, "{line}")?;
        loop {
            match lines.try_recv() {
                Ok(line) => writeln!(out, "{line}")?,
                Err(TryRecvError::Empty) => break out.flush()?,
                Err(TryRecvError::Disconnected) => return out.flush(),
            }
        }
    }
    out.flush()
}

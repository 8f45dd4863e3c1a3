//! JSON lines on stdout, written by a thread of their own: a slow reader delays nothing, and gets fewer lines.

use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::Serialize;

/// Limit on the lines that wait to be written.
const QUEUE_LEN: usize = 16;

/// Sender of lines to stdout. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct JsonLines {
    waiting: SyncSender<String>,
    writer: Arc<Mutex<Option<JoinHandle<io::Result<()>>>>>,
}

impl JsonLines {
    /// Starts the writer thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (waiting, lines) = sync_channel::<String>(QUEUE_LEN);
        let writer = std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
            // an empty line marks the end
            let mut written = Ok(());
            for line in lines.into_iter().take_while(|line| !line.is_empty()) {
                // a failed write does not stop the work: `end` reports a failure of the last line
                let mut out = io::stdout().lock();
                written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
            }
            written
        })?;
        Ok(Self { waiting, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// Queues a line, or drops it if the queue is full.
    pub(crate) fn say(&self, line: &impl Serialize) {
        match self.waiting.try_send(text(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => tracing::debug!("nobody reads the report"),
        }
    }

    /// Queues the last line, and waits until it is written.
    ///
    /// # Errors
    /// Fails if the last line could not be written.
    pub(crate) fn end(self, line: &impl Serialize) -> io::Result<()> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = self.waiting.send(text(line));
        let _ = self.waiting.send(String::new());
        writer.and_then(|writer| writer.join().ok()).unwrap_or(Ok(()))
    }
}

fn text(line: &impl Serialize) -> String {
    let mut text = serde_json::to_string(line).expect("texts and numbers are JSON");
    text.push('\n');
    text
}

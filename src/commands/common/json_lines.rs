//! Lines of JSON on stdout, from a thread of their own: who reads them slowly holds nothing up, and gets fewer.

use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::Serialize;

/// Lines that may wait to be written.
const AHEAD: usize = 16;

/// The way to stdout. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    waiting: SyncSender<String>,
    writer: Arc<Mutex<Option<JoinHandle<io::Result<()>>>>>,
}

impl Lines {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (waiting, lines) = sync_channel::<String>(AHEAD);
        let writer = std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
            // an empty one is the end
            let mut written = Ok(());
            for line in lines.into_iter().take_while(|line| !line.is_empty()) {
                // a line that cannot be written is no reason to stop the work: the end tells of it
                let mut out = io::stdout().lock();
                written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
            }
            written
        })?;
        Ok(Self { waiting, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// Has a line written, unless many wait already.
    pub(crate) fn say(&self, line: &impl Serialize) {
        match self.waiting.try_send(text(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => tracing::debug!("nobody reads the report"),
        }
    }

    /// Has the last line written, and waits until it is.
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

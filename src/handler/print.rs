//! `print`: one line per message on standard output.
//!
//! ```text
//!  worker ── Vec<Message> ──▶ thread: format the batch ──▶ write(2) ──▶ reader
//!         ◀── Vec<Verdict> ──         Done up to the last complete line
//! ```
//!
//! When the reader goes away (`… | head`), unwritten messages are released, not failed, and `stop`
//! is cancelled: a broken pipe is success.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use crate::proto::Message;

use super::blocking_thread::BlockingThread;
use super::line_format::LineFormat;
use super::printer::Printer;
use super::{Handler, HandlerError, HandlerOptions, Verdict};

/// The maximum number of messages that are formatted and written together.
const MAX_BATCH: usize = 1024;

/// The output format of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrintOutput {
    /// One JSON object per line: stream, group, id, timestamp (ns since 1970), attempts, body. A
    /// body that is not UTF-8 is base64, followed by `"encoding":"base64"`.
    Json,
    /// The unchanged body and a line feed.
    #[default]
    Body,
    /// The unchanged body and a NUL byte, for `xargs -0`.
    Null,
}

/// The error of an unknown output format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown output {0:?}: use json, body or null")]
pub struct InvalidOutput(String);

impl FromStr for PrintOutput {
    type Err = InvalidOutput;

    fn from_str(text: &str) -> Result<Self, InvalidOutput> {
        match text {
            "json" => Ok(Self::Json),
            "body" => Ok(Self::Body),
            "null" => Ok(Self::Null),
            _ => Err(InvalidOutput(text.to_owned())),
        }
    }
}

impl fmt::Display for PrintOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Body => "body",
            Self::Null => "null",
        })
    }
}

/// Writes messages as lines, a batch at a time, on a thread of its own. A message is `Done` once
/// the system has taken its whole line. Use one per process: two would interleave partial lines.
#[derive(Debug)]
pub struct PrintHandler {
    thread: BlockingThread<Vec<Message>, Vec<Verdict>>,
}

impl PrintHandler {
    /// Creates a handler that writes to standard output. Fails if that is closed.
    pub fn new(options: &HandlerOptions) -> Result<Self, HandlerError> {
        // The raw descriptor: std's Stdout would look for line ends in every batch and buffer the
        // rest.
        let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(HandlerError::Stdout)?;
        Self::to(stdout, options)
    }

    /// Creates a handler that writes to `out`: a file, a pipe, a terminal or a socket, blocking or
    /// not.
    pub fn to(out: impl Into<OwnedFd>, options: &HandlerOptions) -> Result<Self, HandlerError> {
        let format = LineFormat::new(options.output, options.stream.clone(), options.group.clone());
        let mut printer = Printer::new(File::from(out.into()), format, options.stop.clone());
        let thread = BlockingThread::start("print", move |messages: Vec<Message>| printer.print(&messages));
        Ok(Self { thread: thread.map_err(HandlerError::System)? })
    }
}

impl Handler for PrintHandler {
    async fn handle(&self, message: Message) -> Verdict {
        let verdict = self.handle_batch(vec![message]).await.pop();
        verdict.expect("a batch of one has one verdict")
    }

    fn batch_size(&self) -> usize {
        MAX_BATCH
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let count = messages.len();
        let verdicts = self.thread.run(messages).await;
        verdicts.unwrap_or_else(|| vec![Verdict::retry("the thread that prints has panicked"); count])
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use super::*;
    use crate::handler::testing::{message, options};

    #[test]
    fn output_formats_round_trip() {
        for output in [PrintOutput::Json, PrintOutput::Body, PrintOutput::Null] {
            assert_eq!(output.to_string().parse(), Ok(output));
        }
        let error = "xml".parse::<PrintOutput>().unwrap_err();
        assert_eq!(error.to_string(), r#"unknown output "xml": use json, body or null"#);
    }

    #[tokio::test]
    async fn batches_are_done_once_their_lines_are_written_in_order() {
        let (mut reader, writer) = io::pipe().unwrap();
        let handler = PrintHandler::to(writer, &options()).unwrap();
        let verdicts = handler.handle_batch(vec![message("a"), message("b")]).await;
        assert_eq!(verdicts, [Verdict::Done(None), Verdict::Done(None)]);
        assert_eq!(handler.handle(message("c")).await, Verdict::Done(None));
        drop(handler);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a\nb\nc\n");
    }

    #[tokio::test]
    async fn slow_readers_do_not_block_the_runtime() {
        let (mut reader, writer) = io::pipe().unwrap();
        let handler = PrintHandler::to(writer, &options()).unwrap();
        // Far more than a pipe holds, so the batch waits for the reader.
        let batch = vec![message(vec![b'x'; 1 << 20]); 4];
        let printing = tokio::spawn(async move { handler.handle_batch(batch).await });
        // This test's runtime has one thread: timers run only if the write blocks another thread.
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!printing.is_finished());
        let reading = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes.len())
        });
        assert_eq!(printing.await.unwrap(), vec![Verdict::Done(None); 4]);
        assert_eq!(reading.await.unwrap().unwrap(), 4 * ((1 << 20) + 1));
    }
}

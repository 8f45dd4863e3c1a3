//! `pipe:COMMAND`: a long-running command. A message is a line on its standard input, and the
//! verdict a line on its output.
//!
//! ```text
//!  handle ──▶ supervisor ── {"stream":…,"id":…,"attempts":1,"body":"…"} ──▶ command
//!         ◀── Verdict ◀──── ok │ ok TEXT │ retry [DELAY] [REASON] │ drop [REASON] ──
//! ```
//!
//! An answer may begin with `id=ID `, the id of its message. After the first such answer the
//! command has to give the id each time: then a line that the command, or a library in it, prints
//! by mistake acknowledges no message. Any other line ends the run.
//!
//! Verdicts have the order of the messages. The input lines are those of `print --output json`, and
//! may be written long before they are read: as many as messages are handled concurrently.
//!
//! A run ends if the command exits, violates the protocol, or takes too long for a message: that
//! message is retried later, and those behind it go to a new run. They may be handled twice, but
//! are not blamed: one message that kills the command does not use up the attempts of the hundred
//! behind it.

mod answer;
mod running_command;
mod supervisor;
#[cfg(test)]
mod tests;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::supervisor::Supervisor;
use super::command_line::CommandLine;
use super::{Handler, HandlerError, HandlerOptions, Verdict};
use crate::proto::Message;

/// A message and the channel for its verdict. Dropped without a verdict, it was not tried.
#[derive(Debug)]
struct PipeJob {
    message: Message,
    verdict: oneshot::Sender<Verdict>,
}

/// Handles many messages with one run of a command. [`close`](Handler::close) waits for the
/// command's end; after a mere drop, the command has time to end while the runtime lives, and is
/// then killed with its process group.
#[derive(Debug)]
pub struct PipeHandler {
    /// Unbounded, as the caller holds each of its messages anyway.
    jobs: mpsc::UnboundedSender<PipeJob>,
    closing: CancellationToken,
    supervisor: TaskTracker,
}

impl PipeHandler {
    /// The number of messages that is worth handling concurrently, so that the command need not
    /// wait for the next one. With a slow command, fewer leave more to other consumers.
    pub const MAX_CONCURRENT: u32 = 100;

    /// Creates a handler that runs `command`, found as in `exec`, from the first message on. Needs
    /// a tokio runtime. Fails if the program does not exist, as far as that is known without a
    /// shell.
    pub fn new(command: &str, options: &HandlerOptions) -> Result<Self, HandlerError> {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (closing, tracker) = (CancellationToken::new(), TaskTracker::new());
        let command = CommandLine::find(command)?.without(&options.withheld);
        let supervisor = Supervisor::new(command, options, inbox, closing.clone());
        tracker.spawn(supervisor.run());
        Ok(Self { jobs, closing, supervisor: tracker })
    }
}

impl Handler for PipeHandler {
    async fn handle(&self, message: Message) -> Verdict {
        let (verdict, answer) = oneshot::channel();
        match self.jobs.send(PipeJob { message, verdict }) {
            Ok(()) => answer.await.unwrap_or(Verdict::Release),
            Err(_) => Verdict::retry("the handler is closed"),
        }
    }

    /// Closes the command's input and waits for its end; terminates it if it takes too long.
    async fn close(&self) {
        self.closing.cancel();
        self.supervisor.close();
        self.supervisor.wait().await;
    }
}

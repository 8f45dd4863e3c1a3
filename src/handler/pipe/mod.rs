//! `pipe:COMMAND`: a command that stays: a message is a line on its standard input, and the verdict a line on its output.
//!
//! ```text
//!  handle ──▶ keeper ── {"stream":…,"id":…,"attempts":1,"body":"…"} ──▶ command
//!         ◀── Verdict ◀── ok │ ok TEXT │ retry [DELAY] [REASON] │ drop [REASON] ──
//! ```
//!
//! An answer may begin with `id=ID `, the id of its message. A command that has done so once must always: then a line that
//! it, or a library in it, prints by mistake acknowledges no message. A line that answers nothing ends the run.
//!
//! Verdicts come in the order of the messages. The lines are those of `print --output json`, and may be written long before
//! their turn comes: as many as are handled at once.
//!
//! A command that ends, answers something else, or takes too long for a message is over: that message comes again later, and
//! those behind it go to a new run of the command. They may then be worked on twice, but nobody blames them: one message that
//! kills the command does not use up the attempts of the hundred behind it.

mod answer;
mod keeper;
mod program;
#[cfg(test)]
mod tests;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::keeper::Keeper;
use super::command_line::CommandLine;
use super::{Handler, HandlerError, HandlerOptions, Verdict};
use crate::proto::Message;

/// A message and whoever waits for its verdict. Dropped, it was not tried.
#[derive(Debug)]
struct Job {
    message: Message,
    verdict: oneshot::Sender<Verdict>,
}

/// Has a command handle messages, one run for many. [`close`](Handler::close) waits for the command's end; where it is only dropped, the
/// command has its time to end for as long as the runtime lives, and is killed with its process group then.
#[derive(Debug)]
pub struct PipeHandler {
    /// Unbounded, for each of its messages is one that the caller has in hand.
    jobs: mpsc::UnboundedSender<Job>,
    closing: CancellationToken,
    keeper: TaskTracker,
}

impl PipeHandler {
    /// How many messages are worth handling at once, so that the command need not wait for the next one. With a slow command, fewer
    /// leave more to other consumers.
    pub const AT_ONCE: u32 = 100;

    /// A handler that runs `command`, found as `exec` finds it, from the first message on. Needs a tokio runtime. Fails if the program
    /// does not exist, as far as that can be seen without a shell.
    pub fn new(command: &str, options: &HandlerOptions) -> Result<Self, HandlerError> {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (closing, tracker) = (CancellationToken::new(), TaskTracker::new());
        let keeper =
            Keeper::new(CommandLine::find(command)?.without(&options.withheld), options, inbox, closing.clone());
        tracker.spawn(keeper.run());
        Ok(Self { jobs, closing, keeper: tracker })
    }
}

impl Handler for PipeHandler {
    async fn handle(&self, message: Message) -> Verdict {
        let (verdict, answer) = oneshot::channel();
        match self.jobs.send(Job { message, verdict }) {
            Ok(()) => answer.await.unwrap_or(Verdict::Release),
            Err(_) => Verdict::retry("the command is kept running no more"),
        }
    }

    /// Closes the command's input, and waits for its end: if it takes its time, it is made to.
    async fn close(&self) {
        self.closing.cancel();
        self.keeper.close();
        self.keeper.wait().await;
    }
}

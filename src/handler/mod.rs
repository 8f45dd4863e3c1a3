//! Message handling: the [`Handler`], its [`Verdict`], and the built-in handlers.
//!
//! A handler sees messages and returns verdicts. It never touches the connection: the worker
//! answers nsqd, exactly once per message, after the verdict.
//!
//! ```text
//!  --handler print | exec:CMD | pipe:CMD | http://… | unix:PATH | forward:STREAM | file:PATH | sleep:20ms..50ms
//!                 └── HandlerSpec ──▶ AnyHandler: one enum, no dynamic dispatch
//! ```

#[cfg(feature = "handlers")]
mod blocking_thread;
#[cfg(feature = "handlers")]
mod builtin;
#[cfg(feature = "handlers")]
mod capture;
#[cfg(feature = "handlers")]
mod child_environment;
#[cfg(feature = "handlers")]
mod command_line;
#[cfg(feature = "handlers")]
mod exec;
#[cfg(feature = "handlers")]
mod file;
#[cfg(feature = "handlers")]
mod forward;
#[cfg(feature = "handlers")]
mod http;
#[cfg(feature = "handlers")]
mod line_format;
#[cfg(feature = "handlers")]
mod memory_file;
#[cfg(feature = "handlers")]
mod orphan_guard;
mod panic;
#[cfg(feature = "handlers")]
mod pipe;
#[cfg(feature = "handlers")]
mod print;
#[cfg(feature = "handlers")]
mod printer;
#[cfg(feature = "handlers")]
mod process_group;
#[cfg(feature = "handlers")]
mod schema;
#[cfg(feature = "handlers")]
mod sleep;
#[cfg(feature = "handlers")]
mod spec;
#[cfg(test)]
mod testing;
#[cfg(feature = "handlers")]
mod unix;

#[cfg(feature = "handlers")]
pub use builtin::{BuiltinHandler, HandlerError, HandlerOptions};
#[cfg(feature = "handlers")]
pub use exec::ExecHandler;
#[cfg(feature = "handlers")]
pub use file::{FileHandler, FileNameFormats, FileOptions, InvalidNames, RotatedNames, Rotation};
#[cfg(feature = "handlers")]
pub use forward::ForwardHandler;
#[cfg(feature = "handlers")]
pub use http::HttpHandler;
pub(crate) use panic::handle_catching_panics;
#[cfg(feature = "handlers")]
pub use pipe::PipeHandler;
#[cfg(feature = "handlers")]
pub use print::{InvalidOutput, PrintHandler, PrintOutput};
#[cfg(feature = "handlers")]
pub use schema::{InvalidSchema, Schema};
#[cfg(feature = "handlers")]
pub use sleep::SleepHandler;
#[cfg(feature = "handlers")]
pub use spec::{HandlerSpec, HttpUrl, InvalidSpec, SleepRange};
#[cfg(feature = "handlers")]
pub use unix::UnixHandler;

use std::time::Duration;

use bytes::Bytes;

use crate::proto::Message;

/// The maximum output of a command, or response to a POST, that is kept for a next hop, in bytes.
#[cfg(feature = "handlers")]
const CAPTURE_LIMIT: usize = 64 * 1024 * 1024;
/// The maximum delay that a command or a server may ask for.
#[cfg(feature = "handlers")]
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// The result of handling a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The work is done and stored: the message leaves the queue. The bytes go to the next hop, if
    /// there is one.
    Done(Option<Bytes>),
    /// The work failed and may succeed later: the message is requeued for `after`, or for the
    /// worker's own delay. It counts as an attempt and as a failure.
    Retry {
        /// The delay, if the handler knows better than the worker.
        after: Option<Duration>,
        /// The reason, in one line.
        why: String,
    },
    /// The message can never be handled: it becomes a dead letter immediately.
    Drop {
        /// The reason, in one line.
        why: String,
    },
    /// The message could not be tried, and is not to blame: the address of the work is wrong, or
    /// its server is unreachable. The message is requeued for `after`, or for the worker's own
    /// delay, without using up an attempt. It counts as a failure for the consumer's backoff.
    Unavailable {
        /// The delay, if the handler knows better than the worker.
        after: Option<Duration>,
        /// The reason, in one line.
        why: String,
    },
    /// The message was sent to a server that did not acknowledge it, and may have been processed
    /// there. A worker treats this as [`Verdict::Retry`]: the message may be what stopped the
    /// server. A stage waits until its next hop is available again.
    Unanswered {
        /// The delay, if the handler knows better than the worker.
        after: Option<Duration>,
        /// The reason, in one line.
        why: String,
    },
    /// The message was not tried and nothing failed: it is requeued immediately.
    Release,
}

impl Verdict {
    /// Creates a [`Done`](Self::Done) without bytes for a next hop.
    pub fn done() -> Self {
        Self::Done(None)
    }

    /// Creates a retry after the worker's own delay.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::Retry { after: None, why: why.into() }
    }

    /// Creates an [`Unavailable`](Self::Unavailable) with the worker's own delay.
    #[cfg(feature = "handlers")]
    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable { after: None, why: why.into() }
    }

    /// Creates an [`Unanswered`](Self::Unanswered) with the worker's own delay.
    #[cfg(feature = "handlers")]
    pub(crate) fn unanswered(why: impl Into<String>) -> Self {
        Self::Unanswered { after: None, why: why.into() }
    }

    /// Creates a drop for this reason.
    pub fn drop(why: impl Into<String>) -> Self {
        Self::Drop { why: why.into() }
    }
}

/// Handles messages. An async closure `|message: Message| async { … }` is a handler, too.
///
/// The future of [`handle`](Self::handle) may be dropped at any await (a second Ctrl-C): the
/// message is then requeued. A panic counts as [`Verdict::Retry`].
pub trait Handler: Send + Sync + 'static {
    /// Handles one message and returns its verdict.
    fn handle(&self, message: Message) -> impl Future<Output = Verdict> + Send;

    /// Returns the maximum number of messages for one call of [`handle_batch`](Self::handle_batch).
    /// Above 1 the worker passes the waiting messages in one call, and makes one call at a time.
    fn batch_size(&self) -> usize {
        1
    }

    /// Handles messages that arrived together; returns one verdict per message, in their order.
    /// Worth implementing if a batch costs little more than a message (one write, one fsync).
    fn handle_batch(&self, messages: Vec<Message>) -> impl Future<Output = Vec<Verdict>> + Send {
        async {
            let mut verdicts = Vec::with_capacity(messages.len());
            for message in messages {
                verdicts.push(self.handle(message).await);
            }
            verdicts
        }
    }

    /// Closes what the handler keeps between messages, once no more come. Without this call,
    /// dropping the handler ends it immediately.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

impl<F, Fut> Handler for F
where
    F: Fn(Message) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Verdict> + Send,
{
    fn handle(&self, message: Message) -> impl Future<Output = Verdict> + Send {
        self(message)
    }
}

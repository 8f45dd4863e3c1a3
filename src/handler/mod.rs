//! What is done with a message: the [`Handler`], its [`Verdict`], and the handlers that every command offers.
//!
//! A handler sees messages and says what became of them. It never touches the connection: the worker answers nsqd,
//! exactly once for each message, after the verdict.
//!
//! ```text
//!  --handler print | exec:CMD | pipe:CMD | http://… | unix:PATH | forward:STREAM | file:PATH | sleep:20ms..50ms
//!                 └── HandlerSpec ──▶ AnyHandler: one enum, no second dispatch
//! ```

#[cfg(feature = "handlers")]
mod any;
#[cfg(feature = "handlers")]
mod away;
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
mod lane;
#[cfg(feature = "handlers")]
mod line;
#[cfg(feature = "handlers")]
mod memory_file;
#[cfg(feature = "handlers")]
mod orphan_guard;
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
pub use any::{AnyHandler, HandlerError, HandlerOptions};
#[cfg(feature = "handlers")]
pub use away::Away;
#[cfg(feature = "handlers")]
pub use exec::ExecHandler;
#[cfg(feature = "handlers")]
pub use file::{FileHandler, FileNames, FileOptions, InvalidNames, Names, Rotation};
#[cfg(feature = "handlers")]
pub use forward::ForwardHandler;
#[cfg(feature = "handlers")]
pub use http::HttpHandler;
#[cfg(feature = "handlers")]
pub use line::json_text;
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

/// The longest output of a command, or answer to a POST, that is kept for a next hop, in bytes: more is no message.
#[cfg(feature = "handlers")]
const CAPTURE_LIMIT: usize = 64 * 1024 * 1024;
/// The longest delay that is believed when a command or a server asks for one.
#[cfg(feature = "handlers")]
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// The result of handling a message, which determines the worker's answer to nsqd.
///
/// # Examples
/// ```
/// use mqueue::handler::Verdict;
///
/// fn check(body: &[u8]) -> Verdict {
///     match body {
///         [] => Verdict::drop("empty message"), // a dead letter
///         [b'{', ..] => Verdict::Done(None),
///         _ => Verdict::retry("not JSON yet"), // retried after a delay
///     }
/// }
/// assert_eq!(check(b"{}"), Verdict::Done(None));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The work is done and safe: the message leaves the queue. The bytes are what goes to the next hop, if there is one.
    Done(Option<Bytes>),
    /// The work failed and may succeed later: the message comes again, after `after` or the worker's own delay. It counts
    /// as an attempt and as a failure.
    Retry {
        /// How long to wait, where the handler knows better than the worker.
        after: Option<Duration>,
        /// The reason, for people: one line.
        why: String,
    },
    /// The message can never be handled: it goes to the dead letters at once.
    Drop {
        /// The reason, for people: one line.
        why: String,
    },
    /// The message could not be tried, and is not to blame: the way to the work is wrong, or whoever does it is away. It comes again, after
    /// `after` or the worker's own delay, without having used up an attempt, and counts as a failure for the consumer's backoff.
    Unavailable {
        /// How long to wait, where the handler knows better than the worker.
        after: Option<Duration>,
        /// The reason, for people: one line.
        why: String,
    },
    /// The message was not tried: it goes back at once, and nobody failed.
    Release,
}

impl Verdict {
    /// A retry after the worker's own delay.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::Retry { after: None, why: why.into() }
    }

    /// A drop for this reason.
    pub fn drop(why: impl Into<String>) -> Self {
        Self::Drop { why: why.into() }
    }
}

/// A handler of messages. An async closure `|message: Message| async { … }` is a handler, too.
///
/// A worker drops the future of [`handle`](Self::handle) when the program must end at once (a
/// second Ctrl-C); the message is then requeued. A panic counts as [`Verdict::Retry`].
///
/// # Examples
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// use mqueue::handler::{Handler, Verdict};
/// use mqueue::proto::Message;
///
/// #[derive(Default)]
/// struct Sum(AtomicUsize);
///
/// impl Handler for Sum {
///     async fn handle(&self, message: Message) -> Verdict {
///         self.0.fetch_add(message.body.len(), Ordering::Relaxed);
///         Verdict::Done(None)
///     }
/// }
/// ```
///
/// # Cancel safety
/// [`handle`](Self::handle) and [`handle_batch`](Self::handle_batch) may be dropped at any await: a
/// handler must not rely on reaching its end.
///
/// The future of [`handle`](Self::handle) may be dropped at any await (a second Ctrl-C): the message is then given back to
/// the queue. A panic counts as [`Verdict::Retry`].
pub trait Handler: Send + Sync + 'static {
    /// Does the work for one message and says what became of it.
    fn handle(&self, message: Message) -> impl Future<Output = Verdict> + Send;

    /// How many messages one call of [`handle_batch`](Self::handle_batch) takes at the most. Above 1 the worker gives what has
    /// gathered in one call, one call after the other.
    fn batch_size(&self) -> usize {
        1
    }

    /// Handles messages that arrived together: one verdict a message, in their order. Worth writing where a batch costs
    /// little more than a message (one write, one fsync).
    fn handle_batch(&self, messages: Vec<Message>) -> impl Future<Output = Vec<Verdict>> + Send {
        async {
            let mut verdicts = Vec::with_capacity(messages.len());
            for message in messages {
                verdicts.push(self.handle(message).await);
            }
            verdicts
        }
    }

    /// Ends what the handler keeps from message to message, once no more come. Without it, dropping the handler ends that at once.
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

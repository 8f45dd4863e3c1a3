//! `mqueue consumer`.

use std::time::Duration;

use clap::ValueEnum;

use crate::commands::common::broker_args;
use crate::commands::common::client_args;
use crate::commands::common::exit_args::ExitArgs;
use crate::commands::common::failure_args::FailureArgs;
use crate::commands::common::file_args::FileArgs;
use crate::commands::common::metrics::listen_args::ListenArgs;
use crate::commands::common::values::duration;
use crate::commands::common::values::whole;
use mqueue::handler::HandlerSpec;
use mqueue::proto::{ChannelName, TopicName};

/// Consume a stream as a group, and handle each message
///
/// Every group receives every message of a stream; the consumers of a group share them. A message
/// leaves the queue only when its handler is done with it.
///
/// Exit code: 0; 1 if standard output is lost; 2 for invalid flags or settings; 5 if no message was
/// done and some failed; 69 if no nsqd could be reached for the whole --timeout; 130 after a second
/// Ctrl-C.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Stream to consume (NSQ: topic)
    #[arg(long, visible_alias = "topic", env = "STREAM", value_name = "NAME")]
    pub stream: TopicName,

    /// Group to consume as (NSQ: channel)
    #[arg(long, visible_alias = "channel", env = "GROUP", value_name = "NAME")]
    pub group: ChannelName,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub exit: ExitArgs,

    /// Create the stream and the group on every nsqd, take no message, and exit; retry: repeat
    /// until that succeeds [default without a value: once]
    ///
    /// A group receives the messages published after it was created, so create it before its first
    /// consumer sleeps. The socket units and `make systemd-socket-activate-consumer` do so when
    /// they start.
    #[arg(long, value_enum, value_name = "once|retry", num_args = 0..=1, require_equals = true, default_missing_value = "once")]
    pub create: Option<CreateTries>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub handling: HandlerArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub files: FileArgs,

    /// Handlers that run at once; for pipe, messages that its command may hold. No effect on print,
    /// file, unix and forward, which take messages in batches [default: the number of CPUs, 100 for
    /// pipe]
    #[arg(long, help_heading = "Tuning", env = "MQUEUE_CONCURRENCY", value_name = "N", value_parser = whole::<u32>(1..=100_000))]
    pub concurrency: Option<u32>,

    /// Messages in flight at once, over all nsqds [default: 1000 for print, file, unix and forward,
    /// otherwise --concurrency]
    #[arg(long, help_heading = "Tuning", env = "MQUEUE_MAX_IN_FLIGHT", value_name = "N", value_parser = whole::<u32>(1..))]
    pub max_in_flight: Option<u32>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub tuning: ConsumerTuning,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub metrics: ListenArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: client_args::Args,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// The number of attempts to create the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CreateTries {
    /// Once; fails if an nsqd is unreachable
    Once,
    /// Until every nsqd has the group
    Retry,
}

/// The work for each message.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Handler")]
pub(crate) struct HandlerArgs {
    /// Handler of each message: print, exec:CMD, pipe:CMD, http://…, https://…, file:PATH,
    /// unix:PATH, forward:STREAM, sleep:20ms..50ms
    ///
    /// print           write the message to stdout
    /// exec:CMD        run a command for each message, with the body on stdin and MQUEUE_STREAM,
    ///                 MQUEUE_GROUP, MQUEUE_ID, MQUEUE_ATTEMPTS and MQUEUE_TIMESTAMP in the
    ///                 environment; exit code 0: done, 65: dead letter, any other: retry
    /// pipe:CMD        run one command for all messages: each message is a line of JSON on its
    ///                 stdin (as print writes it), each verdict a line on its stdout, in order:
    ///                 ok, retry, retry 30s REASON, drop or drop REASON
    /// http://…        POST the body, also to https://…; 2xx: done; 408, 429, 5xx, no answer:
    ///                 retry (Retry-After counts); other 4xx: dead letter; 401, 403 or 404 for
    ///                 every message: a wrong URL, which uses up no tries
    /// file:PATH       append to a file and sync it, or to files in a folder (see below)
    /// unix:PATH       write a line to a stream socket, whose answer is OK
    /// forward:STREAM  publish to another stream
    #[arg(long, env = "MQUEUE_HANDLER", value_name = "HANDLER", default_value = "print", verbatim_doc_comment)]
    pub handler: HandlerSpec,

    /// Format of print and file: json (with id and attempts), body (and a newline) or null (the
    /// body and a NUL byte) [default: json for print, body for file]
    #[arg(long, env = "MQUEUE_OUTPUT", value_enum)]
    pub output: Option<MessageOutput>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub failing: FailureArgs,
}

/// Settings of the consumer's connection and its exit.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Tuning")]
pub(crate) struct ConsumerTuning {
    /// Message timeout to ask nsqd for; a message is touched while its handler runs [default:
    /// nsqd's, 60s]
    #[arg(long, env = "MQUEUE_MSG_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub msg_timeout: Option<Duration>,

    /// Longest pause after failures in a row; 0: no pauses
    #[arg(long, env = "MQUEUE_MAX_BACKOFF", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub max_backoff: Duration,

    /// Time between queries of nsqlookupd
    #[arg(long, env = "MQUEUE_LOOKUPD_POLL_INTERVAL", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub lookupd_poll_interval: Duration,

    /// Time for running handlers after Ctrl-C or SIGTERM; a second signal ends them at once
    #[arg(long, env = "MQUEUE_GRACE", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub grace: Duration,
}

/// The format of print and file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MessageOutput {
    /// One JSON object a line
    Json,
    /// The body and a newline
    Body,
    /// The body and a NUL byte
    Null,
}

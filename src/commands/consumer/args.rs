//! `mqueue consumer`.

use std::time::Duration;

use clap::ValueEnum;

use crate::commands::common::broker_args;
use crate::commands::common::client_args;
use crate::commands::common::failure_args::FailureArgs;
use crate::commands::common::file_args::FileArgs;
use crate::commands::common::values::duration;
use crate::commands::common::values::whole;
use mqueue::handler::HandlerSpec;
use mqueue::proto::{ChannelName, TopicName};

/// Consume a stream as a group, and handle each message.
///
/// Every group of a stream gets all of its messages; consumers of the same group share them. A message leaves the queue only when
/// its handler is done with it.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The stream (NSQ's topic)
    #[arg(long, visible_alias = "topic", env = "STREAM", value_name = "NAME")]
    pub stream: TopicName,

    /// The group (NSQ's channel)
    #[arg(long, visible_alias = "channel", env = "GROUP", value_name = "NAME")]
    pub group: ChannelName,

    /// Exit when nothing came and nothing was in flight for this long: seconds, or 30s, 5m [default: never]
    #[arg(long, env = "TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,

    /// Exit when this many messages have left the queue; take no more than that [default: no limit]
    #[arg(long, env = "COUNT", value_name = "N", value_parser = whole::<u64>(1..))]
    pub count: Option<u64>,

    /// Messages in flight at once, on all nsqds together [default: 1000 for print, file, unix and forward, else
    /// --concurrency]
    #[arg(long, env = "MAX_IN_FLIGHT", value_name = "N", value_parser = whole::<u32>(1..))]
    pub max_in_flight: Option<u32>,

    /// Handlers running at once; print, file, unix and forward always take what has come as one, and for pipe these are
    /// the messages that its command has at hand [default: the number of CPUs, 100 for pipe]
    #[arg(long, env = "CONCURRENCY", value_name = "N", value_parser = whole::<u32>(1..=100_000))]
    pub concurrency: Option<u32>,

    /// Create the stream and the group on every nsqd, without taking a message, and exit; retry: keep trying until it is done
    /// [default without a value: once]
    ///
    /// A group gets the messages that are published after it was created, so create it before its first consumer sleeps.
    /// The units' sockets and `make systemd-socket-activate-consumer` do so when they start.
    #[arg(long, value_enum, value_name = "once|retry", num_args = 0..=1, require_equals = true, default_missing_value = "once")]
    pub create: Option<CreateTries>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub handling: HandlerArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub files: FileArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub tuning: ConsumerTuning,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: client_args::Args,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// How often creating the group is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CreateTries {
    /// Once; fails if an nsqd cannot be reached.
    Once,
    /// Until every nsqd has the group.
    Retry,
}

/// What is done with a message.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Handling")]
pub(crate) struct HandlerArgs {
    /// What is done with a message: print, exec:CMD, pipe:CMD, http://… or https://…, unix:PATH, forward:STREAM, file:PATH, sleep:20ms..50ms
    ///
    /// exec:CMD gets the body on stdin and MQUEUE_STREAM, MQUEUE_GROUP, MQUEUE_ID,
    /// MQUEUE_ATTEMPTS, MQUEUE_TIMESTAMP in its environment; exit 0: done, 65: dead letter, 75
    /// or any other: again later. pipe:CMD is started once and stays: each message is a line of
    /// JSON on its stdin (as print has it), and its verdict a line on its stdout, in order: ok,
    /// retry (or retry 30s) or drop, and behind those two a reason. http:// gets a POST; 2xx:
    /// done, 408, 429, 5xx or no answer: again later (Retry-After is heeded), other 4xx: dead
    /// letter; but 401, 403 or 404 to every message is a wrong URL: no tries are used up.
    /// file:PATH appends and syncs, and PATH is a folder where files take turns (see below).
    /// unix:PATH writes a line to a stream socket, whose answer is OK; forward:STREAM publishes to
    /// another stream.
    #[arg(long, env = "HANDLER", value_name = "HANDLER", default_value = "print", verbatim_doc_comment)]
    pub handler: HandlerSpec,

    /// What print and file write: JSON with the message's id and attempts, the body and a newline, or the body and a NUL [default:
    /// json for print, body for file]
    #[arg(long, env = "OUTPUT", value_enum)]
    pub output: Option<MessageOutput>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub failing: FailureArgs,
}

/// How the consumer behaves.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Tuning")]
pub(crate) struct ConsumerTuning {
    /// How long nsqd waits for a message's answer; a message is kept alive for as long as its handler runs [default: nsqd's, 60s]
    #[arg(long, env = "MSG_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub msg_timeout: Option<Duration>,

    /// The longest pause when messages fail one after the other; 0: no pauses
    #[arg(long, env = "MAX_BACKOFF", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub max_backoff: Duration,

    /// How often nsqlookupd is asked
    #[arg(long, env = "LOOKUPD_POLL_INTERVAL", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub lookupd_poll_interval: Duration,

    /// After Ctrl-C or SIGTERM, how long running handlers may take to finish; a second signal ends them at once
    #[arg(long, env = "GRACE", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub grace: Duration,
}

/// What print and file write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MessageOutput {
    /// One JSON object a line.
    Json,
    /// The body and a newline.
    Body,
    /// The body and a NUL byte.
    Null,
}

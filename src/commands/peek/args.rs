//! `mqueue peek`.

use crate::commands::common::body_pattern::BodyPattern;
use crate::commands::common::broker_args;
use crate::commands::common::message_lines::MessageFormatArgs;
use crate::commands::common::values::whole;
use mqueue::cluster::QueueTarget;

/// Show messages in a queue, and leave them there
///
/// No attempt is counted, no order changes, and no consumer notices. Of a group: its messages that
/// wait, then those in flight, then deferred ones. Of a stream: messages that no group has yet. Only
/// `mqueue broker` can show them; on nsqd, `mqueue tail` shows new messages.
///
/// Exit code: 0, also if there are no messages; 1 if an nsqd did not answer or cannot show messages,
/// or if the stream or group does not exist; 69 if no nsqd answered.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Group of a stream, or stream (NSQ: topic, channel)
    #[arg(value_name = "STREAM[/GROUP]")]
    pub target: QueueTarget,

    /// Show messages that wait in the queue, the next one first [default: all states]
    #[arg(long)]
    pub waiting: bool,

    /// Show messages in flight, the first to time out first [default: all states]
    #[arg(long)]
    pub in_flight: bool,

    /// Show deferred messages, the first to be due first [default: all states]
    #[arg(long)]
    pub deferred: bool,

    /// Only messages whose body matches this regular expression [default: all]
    #[arg(long, value_name = "REGEX")]
    pub grep: Option<BodyPattern>,

    /// Show at most this many messages
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10, value_parser = whole::<u64>(1..))]
    pub count: u64,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub format: MessageFormatArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

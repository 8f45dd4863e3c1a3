//! `mqueue tail`.

use crate::commands::common::body_pattern::BodyPattern;
use crate::commands::common::broker_args;
use crate::commands::common::message_lines::MessageFormatArgs;
use crate::commands::common::values::whole;
use mqueue::proto::TopicName;

/// Show new messages of a stream, as they are published
///
/// By an ephemeral group of its own, which ends with this command: other groups receive every
/// message as before. Asks first if the stream has no group, because its messages wait for the first
/// one, and would go to this one. If standard output is slow, messages are dropped beyond those that
/// an ephemeral group holds (10,000 on each nsqd by default).
///
/// Exit code: 0; 1 if the stream does not exist; 2 if there is no terminal for the question and
/// --yes is missing; 69 if no nsqd can be reached.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Stream to show (NSQ: topic)
    #[arg(value_name = "STREAM")]
    pub stream: TopicName,

    /// Only messages whose body matches this regular expression [default: all]
    #[arg(long, value_name = "REGEX")]
    pub grep: Option<BodyPattern>,

    /// Exit after this many messages were shown [default: no limit]
    #[arg(long, short = 'n', value_name = "N", value_parser = whole::<u64>(1..))]
    pub count: Option<u64>,

    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub format: MessageFormatArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

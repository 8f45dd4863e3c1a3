//! `mqueue errors`.

use crate::commands::common::broker_args;
use crate::commands::common::values::whole;
use mqueue::proto::{ChannelName, TopicName};

/// Look at the dead letters of a stream: list them, take them out, put them back, or throw them away.
///
/// Without an action they are listed, and stay; each listing counts as a delivery. An action says how many there are, and asks before it begins.
/// Whatever stops it, a letter leaves the queue only when it was printed, published or dropped: at worst it is there twice. Exit
/// status: 0; 1 if something could not be done; 2 if nobody is there to be asked and --yes is missing; 130 if it was interrupted.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("action"))]
pub(crate) struct Args {
    /// The stream (NSQ's topic) whose messages were given up
    #[arg(long, visible_alias = "topic", env = "STREAM", value_name = "NAME")]
    pub stream: TopicName,

    /// Where its dead letters are [default: the stream's name and .dead]
    #[arg(long, env = "MQUEUE_DEAD_LETTER", value_name = "NAME")]
    pub dead_letter: Option<TopicName>,

    /// The group that keeps them for this command; it is made by the first look
    #[arg(long, value_name = "NAME", default_value = "errors")]
    pub group: ChannelName,

    /// Print them, a body a line, and remove them
    #[arg(long, group = "action")]
    pub get: bool,

    /// Give them back to the stream, each to the group that gave it up and to no other
    ///
    /// mqueue's broker can do that. nsqd gives every message to all groups of a stream: where there are several (ephemeral ones do not
    /// count) the messages go to a stream STREAM.GROUP.….retry with this group alone, which `mqueue consumer`, `stage` and `gateway` read, too, if
    /// they know nsqd's HTTP address. --to-all-groups publishes to the stream itself.
    #[arg(long, group = "action")]
    pub redrive: bool,

    /// Redrive to all groups of the stream: those that had handled a message get it again
    #[arg(long, requires = "redrive")]
    pub to_all_groups: bool,

    /// Redrive to all groups of this stream instead, also letters that name another stream or a group that is not there
    #[arg(long, value_name = "NAME", requires = "redrive", conflicts_with = "to_all_groups")]
    pub to: Option<TopicName>,

    /// Remove them
    #[arg(long, group = "action")]
    pub drop: bool,

    /// Only those with this text in their body, their reason or their group's name
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// At most so many a second
    #[arg(long, value_name = "N", requires = "redrive", value_parser = whole::<u32>(1..))]
    pub rate: Option<u32>,

    /// Show what an action would do, and do nothing
    #[arg(long, requires = "action")]
    pub dry_run: bool,

    /// Do not ask
    #[arg(long, short, requires = "action")]
    pub yes: bool,

    /// List at most so many (up to 2000)
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = whole::<u32>(1..=2000))]
    pub limit: u32,

    /// List as JSON, a line a letter
    #[arg(long, conflicts_with = "action")]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

//! `mqueue errors`.

use crate::commands::common::broker_args;
use crate::commands::common::store_args::StoreArgs;
use crate::commands::common::values::whole;
use mqueue::proto::{ChannelName, TopicName};

/// List, redrive, print or drop the dead letters of a stream
///
/// Without an action they are listed, and stay; each listing counts as a delivery. An action says
/// how many there are, and asks before it begins. An interrupted action loses none: a dead letter
/// leaves the queue only when it was printed, published or dropped, and at worst it is there twice.
/// With `--store redis` they are the entries of --redis-error-queue.
///
/// Exit code: 0; 1 if something could not be done; 2 if there is no terminal for the question and
/// --yes is missing; 130 if interrupted.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("action"))]
pub(crate) struct Args {
    /// Stream whose messages were given up (NSQ: topic)
    #[arg(long, visible_alias = "topic", env = "STREAM", value_name = "NAME", required_unless_present = "store")]
    pub stream: Option<TopicName>,

    /// Stream of the dead letters [default: STREAM.dead]
    #[arg(long, env = "MQUEUE_DEAD_LETTER", value_name = "NAME")]
    pub dead_letter: Option<TopicName>,

    /// Group that keeps dead letters for this command; the first listing creates it
    #[arg(long, value_name = "NAME", default_value = "errors")]
    pub group: ChannelName,

    /// Print them, one body a line, and remove them
    #[arg(long, group = "action")]
    pub get: bool,

    /// Publish them again, each to the one group that gave it up
    ///
    /// `mqueue broker` can publish to one group. nsqd gives every message to all groups of a
    /// stream: where there are several (ephemeral ones do not count), the messages go to a stream
    /// STREAM.GROUP.….retry with this group alone, which `mqueue consumer`, `stage` and `gateway`
    /// read, too, if they know nsqd's HTTP address. --to-all-groups publishes to the stream itself.
    #[arg(long, group = "action")]
    pub redrive: bool,

    /// Redrive to all groups of the stream; groups that had handled a message receive it again
    /// [default: false]
    #[arg(long, requires = "redrive")]
    pub to_all_groups: bool,

    /// Redrive to all groups of this stream instead, including dead letters that name another
    /// stream or a missing group
    #[arg(long, value_name = "NAME", requires = "redrive", conflicts_with = "to_all_groups")]
    pub to: Option<TopicName>,

    /// Remove them
    #[arg(long, group = "action")]
    pub drop: bool,

    /// Only dead letters with this text in their body, their reason or their group's name [default:
    /// all]
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Redrive at most this many a second [default: no limit]
    #[arg(long, value_name = "N", requires = "redrive", value_parser = whole::<u32>(1..))]
    pub rate: Option<u32>,

    /// Print what an action would do, and do nothing
    #[arg(long, requires = "action")]
    pub dry_run: bool,

    /// Do not ask for confirmation
    #[arg(long, short, requires = "action")]
    pub yes: bool,

    /// List at most this many (up to 2000)
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = whole::<u32>(1..=2000))]
    pub limit: u32,

    /// List as JSON, one dead letter a line
    #[arg(long, conflicts_with = "action")]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

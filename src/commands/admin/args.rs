//! `mqueue create`, `pause`, `unpause`, `empty` and `delete`.

use mqueue::cluster::QueueTarget;

use crate::commands::common::broker_args;

/// The flags of all actions.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct ActionArgs {
    /// Stream, or group of a stream; repeatable (NSQ: topic, channel)
    #[arg(value_name = "STREAM[/GROUP]", required = true)]
    pub targets: Vec<QueueTarget>,

    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,

    /// Print one JSON document for each stream or group [default: false]
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// Create streams and groups
///
/// On every nsqd, and in every nsqlookupd. A group receives what is published from now on; the
/// first group of a stream also receives the messages that waited for it. What exists already
/// stays as it is.
///
/// Exit code: 0; 1 if something could not be done; 69 if no nsqd answered.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub action: ActionArgs,
}

/// Pause streams and groups
///
/// A paused stream delivers nothing to its groups, a paused group nothing to its consumers. On
/// every nsqd that has it. Messages can still be published, and wait. Messages in flight stay
/// with their consumers.
///
/// Exit code: 0; 1 if something could not be done; 69 if no nsqd answered.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub action: ActionArgs,
}

/// Unpause streams and groups: delivery resumes
///
/// On every nsqd that has it.
///
/// Exit code: 0; 1 if something could not be done; 69 if no nsqd answered.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct UnpauseArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub action: ActionArgs,
}

/// Discard the messages of streams and groups
///
/// On every nsqd that has it. Of a group: waiting, in flight and deferred messages. Of a stream:
/// only messages that no group has yet. Asks before it begins, if there are any.
///
/// Exit code: 0; 1 if something could not be done; 2 if there is no terminal for the question and
/// --yes is missing; 69 if no nsqd answered.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct EmptyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub action: ActionArgs,
}

/// Delete streams and groups with all their messages
///
/// On every nsqd that has it, and in every nsqlookupd. Consumers that are connected are
/// disconnected, and create it again when they come back. Asks before it begins.
///
/// Exit code: 0; 1 if something could not be done; 2 if there is no terminal for the question and
/// --yes is missing; 69 if no nsqd answered.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub action: ActionArgs,
}

//! `mqueue context`.

use crate::commands::common::broker_args;
use crate::commands::common::context::ContextName;

/// Keep addresses and settings of clusters under names
///
/// A command that names no address uses the current context; `--context NAME`, or MQUEUE_CONTEXT,
/// uses another one. A flag beats its environment variable, a variable beats the context, and the
/// context beats the default; the addresses of nsqd and nsqlookupd count as one setting. `bench`,
/// `pipeline` and `simulate` use a context only if it is named.
///
/// Contexts are in mqueue/contexts.toml in $XDG_CONFIG_HOME or ~/.config.
///
/// Exit code: 0; 1 if the file cannot be written; 2 if there is no such context.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The action.
    #[command(subcommand)]
    pub action: ContextAction,
}

/// The actions on contexts.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ContextAction {
    /// Add a context, or replace it; the first one becomes the current one
    Add(Box<AddArgs>),
    /// Make a context the current one
    Use {
        /// Name of the context
        #[arg(value_name = "NAME", required_unless_present = "none")]
        name: Option<ContextName>,

        /// Use no context from now on [default: false]
        #[arg(long, conflicts_with = "name")]
        none: bool,
    },
    /// List the contexts, the current one with a star
    Ls,
    /// Remove a context
    Rm {
        /// Name of the context
        #[arg(value_name = "NAME")]
        name: ContextName,
    },
}

/// The settings of a context.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// Name of the context: letters, digits, '.', '_' and '-'
    #[arg(value_name = "NAME")]
    pub name: ContextName,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

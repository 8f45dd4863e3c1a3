//! `mqueue top`.

use std::time::Duration;

use crate::commands::common::values::duration;
use crate::commands::common::{broker_args, socket_args};

/// Watch streams and groups live, and act on them with a key
///
/// A full-screen view of all nsqds that is drawn again at each --interval. Sorts, filters, shows
/// the clients of a group; pauses, empties, wakes and redrives after a question. `?` lists the
/// keys.
///
/// --once prints a single view as plain text, --json the same numbers as JSON, for scripts.
///
/// Exit code: 0; 1 with --once if an nsqd or nsqlookupd did not answer; 2 if there is no terminal;
/// 69 if no nsqd answered at the start.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Show only streams and groups with this text in their name [default: all]
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Show streams of dead letters and of redriven messages, too [default: false]
    #[arg(long)]
    pub all: bool,

    /// Time between two looks at the nsqds, over which rates are measured
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub interval: Duration,

    /// Print one view as plain text after one interval, and end
    #[arg(long)]
    pub once: bool,

    /// Print a JSON document with all streams at each interval; with --once, a single one
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub sockets: socket_args::Args,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

//! `mqueue man`.

use std::path::PathBuf;

/// Show a manual page, or write all of them
///
/// Without a command it is mqueue(1), the program; `concepts` is mqueue(7), the words of this
/// program and of NSQ. On a terminal man(1) shows the page, otherwise its roff text is printed. The
/// text is that of --help.
///
/// Exit code: 0; 1 if a page cannot be written; 2 if there is no such command.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Command to show, also with its subcommand (`context add`), or concepts [default: the program]
    #[arg(value_name = "COMMAND", conflicts_with = "to")]
    pub command: Vec<String>,

    /// Write all pages into this folder, as NAME.1 and mqueue.7; created if missing
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}

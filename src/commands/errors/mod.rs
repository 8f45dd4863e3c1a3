//! `mqueue errors`: lists, prints, redrives or drops dead letters.
//!
//! ```text
//!  count ─▶ confirm ─▶ Letters (a consumer) ─┬─▶ list: requeued when all were shown
//!                                            ├─▶ get: printed, then FIN
//!                                            ├─▶ redrive: published by its route, then FIN
//!                                            └─▶ drop: FIN
//! ```

mod act;
pub(crate) mod args;
mod letters;
mod list;
mod parts;
mod routes;

use std::io::{self, Write};
use std::time::Duration;

use self::letters::{Letters, count};
use super::common::confirm;
use super::common::exit::{Exit, Failure};
use super::common::run_broker::BrokerAddresses;
use super::common::stdout;
use super::common::worker_flags::dead_letters;
use crate::commands::errors::args::Args;
use mqueue::shutdown::Shutdown;

/// How long letters in progress may take after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// An action on dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorsAction {
    Get,
    Redrive,
    Drop,
}

impl ErrorsAction {
    fn of(args: &Args) -> Option<Self> {
        let actions = [(args.get, Self::Get), (args.redrive, Self::Redrive), (args.drop, Self::Drop)];
        actions.into_iter().find_map(|(is_asked, action)| is_asked.then_some(action))
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Redrive => "redrive",
            Self::Drop => "drop",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Get => "printed and removed",
            Self::Redrive => "published again",
            Self::Drop => "dropped",
        }
    }
}

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    if args.get {
        stdout::check()?;
    }
    let stream = dead_letters(&args.stream, args.dead_letter.as_ref())?;
    if args.to.as_ref() == Some(&stream) {
        let line = format!("the letters are in {stream}, and would come back without their reasons: name another --to");
        return Err(Failure::new(Exit::Usage, line).into());
    }
    let brokers = BrokerAddresses::find(&args.broker).await?;
    if brokers.http.is_empty() {
        let line = "the letters cannot be counted without nsqd's HTTP address: name it with --nsqd-http-address";
        return Err(Failure::new(Exit::Usage, line).into());
    }
    let counted = count(&brokers.http, &stream, &args.group).await?;
    if let Some(others) = counted.elsewhere(&stream, &args.group) {
        tracing::warn!("{others}");
    }
    let (total, action) = (counted.letters, ErrorsAction::of(&args));
    if total == 0 {
        print_status(&format!("no dead letters of {} in {stream}", args.stream));
        return Ok(Exit::Success);
    }
    let acts = action.filter(|_| !args.dry_run);
    if let Some(action) = acts
        && !is_confirmed(action, &args, total)?
    {
        return Ok(Exit::Failure);
    }
    // after the question, which Ctrl-C answers
    let shutdown = Shutdown::on_signals(GRACE)?;
    let mut letters = Letters::connect(&brokers.tcp, &stream, &args, total).await?;
    match acts {
        None => list::run(&mut letters, &args, action, &brokers, total, &shutdown).await,
        Some(action) => act::run(&mut letters, action, &args, &brokers, &shutdown).await,
    }
}

/// Asks for confirmation on the terminal. Fails without a terminal, unless `--yes` was given.
fn is_confirmed(action: ErrorsAction, args: &Args, total: u64) -> Result<bool, Failure> {
    let filter = args.filter.as_ref().map_or(String::new(), |text| format!(" with {text:?} in them"));
    let what = format!("{} the dead letters of {}{filter}, of {total} in all", action.verb(), args.stream);
    confirm::is_confirmed(&what, args.yes)
}

/// Prints a status line to stderr.
fn print_status(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

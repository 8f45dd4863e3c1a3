//! `mqueue errors`: lists, prints, redrives or drops dead letters.
//!
//! ```text
//!  count ─▶ confirm ─▶ Letters (a consumer) ─┬─▶ list: requeued when all were shown
//!                                            ├─▶ get: printed, then FIN
//!                                            ├─▶ redrive: published by its route, then FIN
//!                                            └─▶ drop: FIN
//! ```

pub(crate) mod args;
mod list;
mod list_errors;

use std::io::{self, Write};
use std::time::Duration;

use super::common::confirm;
use super::common::dead_letters::letters::{Letters, MAX_IN_FLIGHT, count};
use super::common::dead_letters::routes::RedriveTarget;
use super::common::dead_letters::{LetterAction, LetterSelection, act};
use super::common::exit::{Exit, Failure};
use super::common::run_broker::BrokerAddresses;
use super::common::stdout;
use super::common::worker_flags::dead_letters;
use crate::commands::errors::args::Args;
use mqueue::proto::TopicName;
use mqueue::shutdown::Shutdown;

/// How long letters in progress may take after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// Returns the action that the flags ask for.
fn action_of(args: &Args) -> Option<LetterAction> {
    let actions =
        [(args.get, LetterAction::Get), (args.redrive, LetterAction::Redrive), (args.drop, LetterAction::Drop)];
    actions.into_iter().find_map(|(is_asked, action)| is_asked.then_some(action))
}

/// Returns the target that the flags ask for.
fn redrive_target(args: &Args) -> RedriveTarget {
    match &args.to {
        Some(stream) => RedriveTarget::Stream(stream.clone()),
        None if args.to_all_groups => RedriveTarget::AllGroups,
        None => RedriveTarget::OwnGroup,
    }
}

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    if args.get {
        stdout::check()?;
    }
    let named = args.stream.as_ref().map_or("a", TopicName::as_str);
    if let Some(server) = args.store.server(named, args.broker.tls_client())? {
        return list_errors::run(&args, server).await;
    }
    let usage = || Failure::new(Exit::Usage, "name the stream whose messages were given up with --stream");
    let of = &args.stream.clone().ok_or_else(usage)?;
    let stream = dead_letters(of, args.dead_letter.as_ref())?;
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
    let (total, action) = (counted.letters, action_of(&args));
    if total == 0 {
        print_status(&format!("no dead letters of {of} in {stream}"));
        return Ok(Exit::Success);
    }
    let acts = action.filter(|_| !args.dry_run);
    if let Some(action) = acts
        && !is_confirmed(action, &args, of, total)?
    {
        return Ok(Exit::Failure);
    }
    // after the question, which Ctrl-C answers
    let shutdown = Shutdown::on_signals(GRACE)?;
    let selection = LetterSelection {
        stream: of.clone(),
        dead_letters: stream,
        group: args.group.clone(),
        only: None,
        filter: args.filter.clone(),
        rate: args.rate,
        max_in_flight: MAX_IN_FLIGHT.max(args.limit),
    };
    let mut letters = Letters::connect(&brokers, &selection, total).await?;
    let Some(action) = acts else {
        return list::run(&mut letters, &args, of, action, &brokers, total, &shutdown).await;
    };
    let outcome = act::run(&mut letters, action, &selection, redrive_target(&args), &brokers, &shutdown).await?;
    print_status(&outcome.describe(action));
    match outcome.failure {
        Some(failure) => Err(Failure::new(Exit::Failure, failure).into()),
        None if outcome.left.is_some() => Ok(Exit::of_work(outcome.done, outcome.stayed())),
        None => Ok(Exit::Interrupted),
    }
}

/// Asks for confirmation on the terminal. Fails without a terminal, unless `--yes` was given.
fn is_confirmed(action: LetterAction, args: &Args, of: &TopicName, total: u64) -> Result<bool, Failure> {
    let filter = args.filter.as_ref().map_or(String::new(), |text| format!(" with {text:?} in them"));
    let what = format!("{} the dead letters of {of}{filter}, of {total} in all", action.verb());
    confirm::is_confirmed(&what, args.yes)
}

/// Prints a status line to stderr.
fn print_status(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

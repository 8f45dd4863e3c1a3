//! Listing: letters are shown, then requeued.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::{print_status, redrive_target};
use crate::commands::common::dead_letters::LetterAction;
use crate::commands::common::dead_letters::letters::{Letter, Letters};
use crate::commands::common::dead_letters::routes::{NotRedriven, Routes};
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::common::run_broker::BrokerAddresses;
use crate::commands::common::stdout;
use crate::commands::errors::args::Args;
use mqueue::plural;
use mqueue::proto::TopicName;
use mqueue::shutdown::Shutdown;
use mqueue::worker::{DeadLetter, Part};

/// Limit on the characters shown of a body, without `--json`.
pub(super) const MAX_SHOWN_CHARS: usize = 60;

/// A letter as JSON.
#[derive(Serialize)]
struct LetterLine<'a> {
    #[serde(flatten)]
    letter: Option<&'a DeadLetter>,
    /// The body as text; bytes that are not UTF-8 become U+FFFD.
    body: String,
}

/// Shows the letters, and requeues them. With `would`, also says what that action would do.
pub(super) async fn run(
    letters: &mut Letters,
    args: &Args,
    of: &TopicName,
    would: Option<LetterAction>,
    brokers: &BrokerAddresses,
    total: u64,
    shutdown: &Shutdown,
) -> anyhow::Result<Exit> {
    let mut held: Vec<Letter> = Vec::new();
    while held.len() < args.limit as usize {
        let more = tokio::select! {
            more = letters.next() => more,
            () = shutdown.draining.cancelled() => break,
        };
        if more.is_empty() {
            break;
        }
        held.extend(more);
    }
    if held.len() < args.limit as usize {
        held.extend(letters.incomplete());
    }
    let joined: usize = held.iter().map(|letter| letter.deliveries.len() - 1).sum();
    let total = total.saturating_sub(joined as u64);
    let total = plural::count(total, "letter");
    let plan = match would {
        Some(LetterAction::Redrive) => {
            Some(plan(&held[..held.len().min(args.limit as usize)], args, of, brokers).await)
        }
        Some(LetterAction::Get | LetterAction::Drop) | None => None,
    };
    let shown = show(&held[..held.len().min(args.limit as usize)], args.json);
    let count = held.len().min(args.limit as usize);
    held.into_iter().for_each(Letter::give_back);
    letters.end().await;
    match (would, plan.transpose()?) {
        (_, Some((goes, how))) => print_status(&format!("would redrive {goes} of {total}{how}")),
        (Some(action), None) => print_status(&format!("would {} {count} of {total}", action.verb())),
        (None, None) => print_status(&format!("{count} of {total}")),
    }
    stdout::ended(shown)?;
    Ok(Exit::Success)
}

/// Returns how many letters would be redriven, with a text that says where to, and which would
/// stay, and why.
async fn plan(
    letters: &[Letter],
    args: &Args,
    of: &TopicName,
    brokers: &BrokerAddresses,
) -> Result<(usize, String), Failure> {
    let mut routes = Routes::new(of, redrive_target(args), brokers)?;
    routes.refresh().await.map_err(|why| Failure::new(Exit::Unavailable, format!("cannot read the groups: {why}")))?;
    let (mut go, mut stay) = (BTreeMap::<String, usize>::new(), BTreeMap::<NotRedriven, u64>::new());
    for letter in letters {
        match routes.of(letter) {
            Ok(route) => *go.entry(route.to_string()).or_default() += 1,
            Err(why) => *stay.entry(why).or_default() += 1,
        }
    }
    let goes = go.values().sum();
    let go = go.iter().map(|(route, count)| format!("{count} to {route}"));
    let stay = stay.iter().map(|(why, count)| format!("{} and would stay", why.of(*count)));
    let parts: Vec<String> = go.chain(stay).collect();
    Ok((goes, if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) }))
}

fn show(letters: &[Letter], json: bool) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for letter in letters {
        let body = String::from_utf8_lossy(letter.body());
        if json {
            let line = LetterLine { letter: letter.letter.as_ref(), body: body.into_owned() };
            serde_json::to_writer(&mut out, &line)?;
            writeln!(out)?;
            continue;
        }
        let start: String = body.chars().take(MAX_SHOWN_CHARS).collect();
        let more = if start.len() < body.len() { "…" } else { "" };
        match &letter.letter {
            Some(DeadLetter { group, attempts, reason, died, part, .. }) => {
                let when = humantime::format_rfc3339_seconds(time(*died));
                let attempts = plural::count(*attempts, "attempt");
                let part =
                    part.map_or(String::new(), |Part { number, of }| format!(" (only part {number} of {of} is here)"));
                writeln!(out, "{when}  {}  group {group}, {attempts}, {reason}{part}: {:?}{more}", letter.id(), start)?;
            }
            None => writeln!(out, "{}  not a dead letter: {start:?}{more}", letter.id())?,
        }
    }
    out.flush()
}

fn time(nanos: i64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

//! `mqueue peek`: messages of a queue, without their delivery.
//!
//! ```text
//!  ClusterApis ─▶ mqueue's brokers that have the queue ─▶ a PeekReader each ─▶ --grep ─▶ lines
//!                 (nsqd cannot show messages)             page by page, all at once
//! ```

pub(crate) mod args;
mod peek_reader;
mod places;

use std::collections::BTreeSet;
use std::io;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use self::peek_reader::{FoundMessages, PeekReader};
use self::places::Places;
use super::common::exit::{Exit, Failure};
use super::common::message_lines::{MessageFormat, MessageLine, PeekedState};
use super::common::short_duration::short_duration;
use super::common::silent_brokers::silent_brokers;
use super::common::stdout;
use crate::commands::peek::args::Args;
use mqueue::client::{Nsqd, StatsFilter};
use mqueue::plural::count;
use mqueue::proto::{PeekState, PeekedMessage};

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let states = states(&args)?;
    stdout::check()?;
    let cluster = args.broker.cluster()?;
    let state = cluster.observe(&StatsFilter::default().with_topic(&args.target.stream)).await;
    let silent = silent_brokers(&state, "its messages are not shown")?;
    silent.iter().for_each(|line| tracing::warn!("{line}"));
    let places = Places::of(&state, &args.target)?;
    if let Some(line) = places.without_peek(&args.target) {
        match places.brokers.is_empty() {
            true => return Err(Failure::new(Exit::Failure, line).into()),
            false => tracing::warn!("{line}"),
        }
    }
    let is_complete = silent.is_empty() && places.nsqds.is_empty();
    let mut output =
        PeekOutput { args: &args, format: args.format.format(), left: args.count, with_nsqd: places.brokers.len() > 1 };
    let mut errors = BTreeSet::new();
    for state in states {
        match show(&places, state, &mut output).await {
            // each state's are mostly the same
            Ok(more) => more.into_iter().filter(|it| errors.insert(it.clone())).for_each(|it| tracing::error!("{it}")),
            Err(error) => return Ok(stdout::ended(Err(error)).map(|()| Exit::Success)?),
        }
    }
    if output.left == args.count && args.grep.is_none() && errors.is_empty() {
        places.explain_nothing(&args.target);
    }
    Ok(if is_complete && errors.is_empty() { Exit::Success } else { Exit::Failure })
}

/// Returns the states to show, in this order.
fn states(args: &Args) -> Result<Vec<PeekState>, Failure> {
    let asked = [
        (args.waiting, PeekState::Waiting),
        (args.in_flight, PeekState::InFlight),
        (args.deferred, PeekState::Deferred),
    ];
    let is_any = asked.iter().any(|(is_asked, _)| *is_asked);
    if args.target.group.is_some() {
        return Ok(asked.into_iter().filter(|(is_asked, _)| *is_asked || !is_any).map(|(_, state)| state).collect());
    }
    match is_any {
        true => {
            let line = format!(
                "--waiting, --in-flight and --deferred are states of a group: name it, as in {}/GROUP",
                args.target
            );
            Err(Failure::new(Exit::Usage, line))
        }
        false => Ok(vec![PeekState::Held]),
    }
}

/// Shows the messages in this state, of all brokers in turns; returns the errors of those that
/// failed.
///
/// # Errors
/// Fails if standard output cannot be written to.
async fn show(places: &Places<'_>, state: PeekState, output: &mut PeekOutput<'_>) -> io::Result<Vec<String>> {
    let mut failed = Vec::new();
    let next = |mut reader: PeekReader| async move {
        let found = reader.next().await;
        (reader, found)
    };
    let brokers = places.brokers.len();
    let reader = |nsqd: &Nsqd| PeekReader::new(nsqd.clone(), output.args, state, output.format, output.left, brokers);
    let mut readers: FuturesUnordered<_> = places.brokers.iter().map(|nsqd| next(reader(nsqd))).collect();
    while output.left > 0
        && let Some((reader, found)) = readers.next().await
    {
        match found {
            Ok(FoundMessages { messages, is_end }) => {
                output.print(reader.address(), messages)?;
                if !is_end {
                    readers.push(next(reader));
                }
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    Ok(failed)
}

/// The printed messages.
struct PeekOutput<'a> {
    args: &'a Args,
    format: MessageFormat,
    /// Messages that may still be printed.
    left: u64,
    /// True if lines of text say where the message is.
    with_nsqd: bool,
}

impl PeekOutput<'_> {
    fn print(&mut self, nsqd: &str, messages: Vec<PeekedMessage>) -> io::Result<()> {
        for message in messages {
            if self.left == 0 {
                return Ok(());
            }
            self.left -= 1;
            let mut line = Vec::new();
            self.format.add(&self.line(nsqd, &message), &mut line);
            // each at once: the next one that matches may be far away
            stdout::write(&line)?;
        }
        Ok(())
    }

    fn line<'a>(&'a self, nsqd: &'a str, message: &'a PeekedMessage) -> MessageLine<'a> {
        let target = &self.args.target;
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        MessageLine {
            stream: target.stream.as_str(),
            group: target.group.as_ref().map(|group| group.as_str()),
            id: &message.id,
            timestamp: message.timestamp,
            attempts: message.attempts,
            text: self.text(nsqd, message),
            body: &message.body,
            peeked: Some(PeekedState {
                nsqd,
                state: message.state.as_str(),
                age_ms: millis(message.age),
                due_in_ms: message.due_in.map(millis),
                client: message.client.as_ref(),
                size: message.size,
                error: message.error.as_deref(),
            }),
        }
    }

    /// Formats everything except the body.
    fn text(&self, nsqd: &str, message: &PeekedMessage) -> String {
        let state = message.state.as_str().replace('_', " ");
        let (age, attempts) = (short_duration(message.age), count(u64::from(message.attempts), "attempt"));
        let mut text = format!("{state:<9}  {age:>6}  {attempts:<10}  {}", message.id);
        if self.with_nsqd {
            text += &format!("  {nsqd}");
        }
        match (message.state, message.due_in) {
            (PeekState::InFlight, Some(left)) => {
                let to = message.client.as_ref().map_or("a client that is gone", |client| &client.hostname);
                text += &format!("  to {to}, times out in {}", short_duration(left));
            }
            (_, Some(left)) => text += &format!("  due in {}", short_duration(left)),
            (_, None) => {}
        }
        if let Some(error) = &message.error {
            text += &format!("  cannot be read: {error}");
        }
        text
    }
}

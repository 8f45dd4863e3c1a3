//! `mqueue replay`: publishes a recording's messages again, at their times.
//!
//! ```text
//!  segments ─▶ a thread: index, blocks, --from --until --grep ─▶ ReplayRun: waits until due ─▶ Publisher
//! ```

pub(crate) mod args;
mod mark;
mod pace;
mod replay_run;
mod selection;

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::time::{Duration, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use self::replay_run::{ReplayRun, ReplayTotals};
use self::selection::{OpenedRecording, ReplayPart, ReplaySelection};
use super::common::confirm::is_confirmed;
use super::common::exit::{Exit, Failure};
use super::common::recording::TimeRange;
use super::common::run_broker::BrokerAddresses;
use super::common::short_duration::short_duration;
use super::common::stdout;
use crate::commands::replay::args::{Args, ReplaySpeed, TimeOfDay};
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::plural::count;
use mqueue::proto::TopicName;
use mqueue::shutdown::Shutdown;

/// Time for unacknowledged messages after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let recording = OpenedRecording::open(&args.folder).map_err(|error| Failure::new(Exit::Failure, error))?;
    let selection = selection(&args)?;
    let stream = recording.stream.clone();
    let target = target(&args, &stream)?;
    if args.dry_run {
        return dry_run(&args, recording, selection, &target).await;
    }
    let expected = recording.expected(&selection);
    let what =
        format!("publish up to {} to {target} again, all of whose groups receive them", count(expected, "message"));
    if target == stream && !is_confirmed(&what, args.yes)? {
        return Ok(Exit::Failure);
    }
    // after the question, which Ctrl-C answers
    let shutdown = Shutdown::on_signals(GRACE)?;
    let brokers = BrokerAddresses::find(&args.broker).await?;
    let config = PublisherConfig::default().with_connect(args.broker.connect());
    let publisher = Publisher::connect(&brokers.tcp, config).await.map_err(|e| Failure::unavailable(&e))?;
    tracing::info!("replaying {stream} from {} to {target}", args.folder.display());
    let bar = bar(args.count.map_or(expected, |count| count.min(expected)));
    let mut run = ReplayRun::new(&args, publisher, stream, target, bar)?;
    let exit = tokio::select! {
        ended = run.publish(recording.read(selection)?, &shutdown.draining) => ended?,
        () = shutdown.now.cancelled() => Exit::Interrupted,
    };
    let totals = run.end();
    totals.log(&run.target);
    match exit {
        Exit::Success if totals.is_incomplete() => Ok(Exit::Failure),
        exit => Ok(exit),
    }
}

fn selection(args: &Args) -> Result<ReplaySelection, Failure> {
    let first = args.from.map_or(TimeRange::ALL.first, |TimeOfDay(time)| time);
    let last = args.until.map_or(TimeRange::ALL.last, |TimeOfDay(time)| time.saturating_sub(1));
    if first > last {
        return Err(Failure::new(Exit::Usage, "--from is not before --until: there is no time between them"));
    }
    Ok(ReplaySelection { times: TimeRange { first, last }, grep: args.grep.clone() })
}

fn target(args: &Args, stream: &TopicName) -> Result<TopicName, Failure> {
    match &args.to {
        Some(to) => Ok(to.clone()),
        None => TopicName::new(&format!("{stream}.replay"))
            .map_err(|error| Failure::new(Exit::Usage, format!("{error}: name a stream with --to"))),
    }
}

/// Reads everything that would be published, and prints its number, times and size.
async fn dry_run(
    args: &Args,
    recording: OpenedRecording,
    selection: ReplaySelection,
    target: &TopicName,
) -> anyhow::Result<Exit> {
    stdout::check()?;
    let (stream, segments) = (recording.stream.clone(), recording.segments.len() as u64);
    let disk: u64 = recording.segments.iter().map(|segment| segment.bytes).sum();
    let mut totals = ReplayTotals::default();
    count_all(args, recording.read(selection)?, &mut totals).await;
    let mut text = format!("{stream}: {}, {} on disk\n", count(segments, "segment"), indicatif::DecimalBytes(disk));
    let (selected, size) = (count(totals.published, "message"), indicatif::DecimalBytes(totals.bytes));
    let _ = match totals.times {
        Some(times) => {
            let took = Duration::from_nanos(u64::try_from(times.last.saturating_sub(times.first)).unwrap_or(0));
            let pace = match args.speed {
                ReplaySpeed::Max => "as fast as nsqd takes them".to_owned(),
                ReplaySpeed::Times(speed) => format!("within {} at {speed}x", short_duration(took.div_f64(speed))),
            };
            let (first, last) = (shown(times.first), shown(times.last));
            writeln!(text, "would publish {selected} ({size}) to {target}, of {first} to {last}, {pace}")
        }
        None => writeln!(text, "would publish nothing: no message is selected"),
    };
    stdout::print(&text)?;
    Ok(if totals.is_incomplete() { Exit::Failure } else { Exit::Success })
}

async fn count_all(args: &Args, mut parts: mpsc::Receiver<ReplayPart>, totals: &mut ReplayTotals) {
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0
        && let Some(part) = parts.recv().await
    {
        for message in totals.take(part).into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            totals.published(&message);
            left -= 1;
        }
    }
}

/// Returns a bar on a terminal.
fn bar(messages: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{wide_bar} {human_pos}/{human_len} {per_sec} {msg}";
    ProgressBar::new(messages).with_style(ProgressStyle::with_template(template).expect("a valid template"))
}

/// Formats a publish time.
fn shown(time: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_nanos(u64::try_from(time).unwrap_or(0));
    humantime::format_rfc3339_millis(time).to_string()
}

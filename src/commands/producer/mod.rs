//! `mqueue producer`: publishes generated events or its input, and prints a summary.
//!
//! ```text
//!  events ─┐ Source                                     Flights (several batches)
//!          ├────────▶ one by one │ on a schedule │ bulk ─────────▶ Lane ──▶ Publisher ══▶ nsqd
//!  reader ─┘ (a thread: reads, cuts into records)                   │
//!                                     Progress, Summary ◀── Tally ◀─┘ each message is acknowledged or failed
//! ```
//!
//! The reader has a thread; everything else, from sending to progress and asking for the limit, runs in one task.

pub(crate) mod args;
mod drive;
mod event;
mod flights;
mod lane;
mod limit;
mod plan;
mod progress;
mod reader;
mod source;
mod summary;
mod tally;
mod unpublished;

use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use self::drive::Run;
use self::event::Events;
use self::lane::Lane;
use self::limit::Limit;
use self::plan::{From, Pace, Plan};
use self::progress::Progress;
use self::source::{Input, Source};
use self::summary::Summary;
use self::tally::Tally;
use super::common::exit::{Exit, Failure};
use super::common::run_broker::Brokers;
use super::common::stdout;
use crate::commands::common::record_splitter::Records;
use crate::commands::producer::args::{Args, ReportFormat};
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let plan = Plan::new(&args)?;
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let (brokers, publisher) = tokio::select! {
        connected = connect(&args) => connected?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    let run = format!("{:08x}", fastrand::u32(..));
    let progress = Progress::of(&plan);
    if progress.talks() {
        let nsqds = brokers.tcp.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!("publishing to stream {} on {nsqds} (Ctrl-C ends it)", args.stream);
    }
    let tally = Rc::new(Tally::default());
    let lane = Lane {
        publisher: publisher.clone(),
        stream: args.stream.clone(),
        defer: args.pace.defer,
        limit: Limit::unknown(),
        tally: tally.clone(),
        hopeless: CancellationToken::new(),
    };
    let stop = shutdown.draining.child_token();
    let started = Instant::now();
    let work = Run {
        lane: &lane,
        left: Cell::new(plan.count.unwrap_or(u64::MAX)),
        stop: &stop,
        tell_each: matches!(progress, Progress::Each),
    };
    let exit = tokio::select! {
        biased;
        done = produce(&work, &plan, &run, brokers.tcp.len()) => done.map(|()| Exit::Success)?,
        () = shutdown.now.cancelled() => Exit::Interrupted,
        () = lane.hopeless.cancelled() => Exit::Failure,
        never = progress.watch(&tally) => match never {},
        never = lane.limit.ask(&brokers.http) => match never {},
        never = drive::stop_after(plan.duration, &stop) => match never {},
        never = tell_waiting(&shutdown.draining, &tally) => match never {},
    };
    tally.give_up();
    progress.end();
    let run = matches!(plan.from, From::Events { .. }).then_some(run);
    let scheduled = matches!(plan.pace, Pace::Rate(_));
    let resent = publisher.counts().resent;
    let summary = Summary::new(args.stream.to_string(), run, &tally.counts(), resent, started.elapsed(), scheduled);
    report(&summary, args.tuning.report())?;
    match exit {
        Exit::Success if !summary.is_success() => Ok(Exit::Failure),
        exit => Ok(exit),
    }
}

async fn connect(args: &Args) -> Result<(Brokers, Publisher), Failure> {
    let brokers = Brokers::find(&args.broker).await?;
    let (timeout, backend) = (args.tuning.publish_timeout, args.client.backend());
    let config = PublisherConfig::default().with_timeout(timeout).with_backend(backend);
    let publisher = Publisher::connect(&brokers.tcp, config).await.map_err(|e| Failure::unavailable(&e))?;
    Ok((brokers, publisher))
}

/// Sends all messages, and waits until they have settled.
async fn produce(work: &Run<'_>, plan: &Plan, run: &str, nsqds: usize) -> io::Result<()> {
    let source = source(plan, run, &work.lane.tally)?;
    match plan.pace {
        Pace::OneByOne(interval) => {
            join_all(source.split().into_iter().map(|source| work.one_by_one(source, interval))).await;
        }
        Pace::Rate(rate) => work.on_schedule(source, rate, plan.duration).await?,
        Pace::Bulk => work.in_bulk(source, nsqds).await,
    }
    Ok(())
}

fn source(plan: &Plan, run: &str, tally: &Rc<Tally>) -> io::Result<Source> {
    match &plan.from {
        From::Events { tasks, keys } => {
            let end = event::payload(*keys, &mut fastrand::Rng::new());
            Ok(Source::Events((1..=*tasks).map(|task| Events::new(run, task, end.clone())).collect()))
        }
        From::Files { paths, delimiter, max_record, .. } => {
            let pieces = reader::start(paths.clone(), Records::new(delimiter.clone(), *max_record))?;
            Ok(Source::Input(Input::new(pieces, tally.clone())))
        }
    }
}

/// Logs after the first signal how many messages are still in flight, if draining takes a while. Never returns; runs beside the work.
async fn tell_waiting(draining: &CancellationToken, tally: &Tally) -> Infallible {
    draining.cancelled().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    tracing::info!("waiting for {} to be acknowledged; again ends at once", count(tally.open(), "message"));
    std::future::pending().await
}

/// Writes the report in the requested format. A closed pipe is no error.
fn report(summary: &Summary, format: ReportFormat) -> anyhow::Result<()> {
    match format {
        ReportFormat::Text => {
            // an unread report does not make the run a failure
            let _ = writeln!(io::stderr(), "{summary}");
        }
        ReportFormat::Json => stdout::print(&format!("{}\n", serde_json::to_string(summary)?))?,
        ReportFormat::None => {}
    }
    Ok(())
}

//! `mqueue producer`: publishes generated events or its input, and prints a summary.
//!
//! ```text
//!  events ─┐ MessageSource                            InFlightBatches
//!          ├────────▶ one by one │ on a schedule │ bulk ─────▶ StreamPublisher ──▶ Publisher ══▶ nsqd
//!  reader ─┘ (a thread: reads, splits into records)             │
//!                     ProducerProgress, ProducerSummary ◀── ProducerStats: each message acknowledged or failed
//! ```
//!
//! The reader has a thread; everything else, from sending to progress and asking for the limit,
//! runs in one task.

pub(crate) mod args;
mod event;
mod in_flight;
mod max_message_size;
mod plan;
mod progress;
mod rate;
mod reader;
mod send_modes;
mod source;
mod stats;
mod stream_publisher;
mod summary;
mod unpublished;

use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use self::event::EventGenerator;
use self::max_message_size::MaxMessageSize;
use self::plan::{InputSource, ProducerPace, ProducerPlan};
use self::progress::ProducerProgress;
use self::send_modes::ProducerRun;
use self::source::{MessageSource, RecordInput};
use self::stats::ProducerStats;
use self::stream_publisher::StreamPublisher;
use self::summary::ProducerSummary;
use super::common::exit::{Exit, Failure};
use super::common::run_broker::BrokerAddresses;
use super::common::stdout;
use crate::commands::common::metrics::publish_meter::PublishMeter;
use crate::commands::common::record_splitter::RecordSplitter;
use crate::commands::producer::args::{Args, SummaryFormat};
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let plan = ProducerPlan::new(&args)?;
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let meter = args.metrics.wanted(|| PublishMeter::new(&args.stream));
    let _server = args.metrics.serve(meter.as_ref(), |meter| meter.pages(|_| ())).await?;
    let (brokers, publisher) = tokio::select! {
        connected = connect(&args) => connected?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    let run = format!("{:08x}", fastrand::u32(..));
    let progress = ProducerProgress::of(&plan);
    if progress.logs_start() {
        let nsqds = brokers.tcp.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!("publishing to stream {} on {nsqds} (Ctrl-C ends it)", args.stream);
    }
    meter.iter().for_each(|meter| meter.follow(publisher.clone()));
    let stats = Rc::new(ProducerStats::new(meter));
    let stream_publisher = stream_publisher(&args, publisher.clone(), stats.clone());
    let stop = shutdown.draining.child_token();
    let started = Instant::now();
    let work = ProducerRun {
        publisher: &stream_publisher,
        left: Cell::new(plan.count.unwrap_or(u64::MAX)),
        stop: &stop,
        log_each: matches!(progress, ProducerProgress::Each),
    };
    let exit = tokio::select! {
        biased;
        done = produce(&work, &plan, &run, brokers.tcp.len()) => done.map(|()| Exit::Success)?,
        () = shutdown.now.cancelled() => Exit::Interrupted,
        () = stream_publisher.refused_for_all.cancelled() => Exit::Failure,
        never = progress.watch(&stats) => match never {},
        never = stream_publisher.max_message_size.ask(&brokers.http) => match never {},
        never = send_modes::stop_after(plan.duration, &stop) => match never {},
        never = log_waiting(&shutdown.draining, &stats) => match never {},
    };
    stats.give_up();
    progress.end();
    let run = matches!(plan.from, InputSource::Events { .. }).then_some(run);
    let scheduled = matches!(plan.pace, ProducerPace::Rate(_));
    let resent = publisher.counts().resent;
    let summary =
        ProducerSummary::new(args.stream.to_string(), run, &stats.counts(), resent, started.elapsed(), scheduled);
    report(&summary, args.tuning.report())?;
    match exit {
        Exit::Success if !summary.is_success() => Ok(Exit::Failure),
        exit => Ok(exit),
    }
}

async fn connect(args: &Args) -> Result<(BrokerAddresses, Publisher), Failure> {
    let brokers = BrokerAddresses::find(&args.broker).await?;
    let (timeout, backend) = (args.tuning.publish_timeout, args.client.backend());
    let config =
        PublisherConfig::default().with_connect(args.broker.connect()).with_timeout(timeout).with_backend(backend);
    let publisher = Publisher::connect(&brokers.tcp, config).await.map_err(|e| Failure::unavailable(&e))?;
    Ok((brokers, publisher))
}

fn stream_publisher(args: &Args, publisher: Publisher, stats: Rc<ProducerStats>) -> StreamPublisher {
    StreamPublisher {
        publisher,
        stream: args.stream.clone(),
        defer: args.pace.defer,
        max_message_size: MaxMessageSize::unknown(),
        stats,
        refused_for_all: CancellationToken::new(),
    }
}

/// Sends all messages, and waits until they have settled.
async fn produce(work: &ProducerRun<'_>, plan: &ProducerPlan, run: &str, nsqds: usize) -> io::Result<()> {
    let source = source(plan, run, &work.publisher.stats)?;
    match plan.pace {
        ProducerPace::OneByOne(interval) => {
            join_all(source.split().into_iter().map(|source| work.one_by_one(source, interval))).await;
        }
        ProducerPace::Rate(rate) => work.at_rate(source, rate, plan.duration).await?,
        ProducerPace::Bulk => work.in_bulk(source, nsqds).await,
    }
    Ok(())
}

fn source(plan: &ProducerPlan, run: &str, stats: &Rc<ProducerStats>) -> io::Result<MessageSource> {
    match &plan.from {
        InputSource::Events { tasks, keys } => {
            let end = event::payload(*keys, &mut fastrand::Rng::new());
            Ok(MessageSource::Events((1..=*tasks).map(|task| EventGenerator::new(run, task, end.clone())).collect()))
        }
        InputSource::Files { paths, delimiter, max_record, .. } => {
            let pieces = reader::start(paths.clone(), RecordSplitter::new(delimiter.clone(), *max_record))?;
            Ok(MessageSource::Input(RecordInput::new(pieces, stats.clone())))
        }
    }
}

/// Logs after the first signal how many messages are still in flight, if draining takes a while.
/// Never returns; runs beside the work.
async fn log_waiting(draining: &CancellationToken, stats: &ProducerStats) -> Infallible {
    draining.cancelled().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    tracing::info!("waiting for {} to be acknowledged; a second signal ends at once", count(stats.open(), "message"));
    std::future::pending().await
}

/// Writes the report in the requested format. A closed pipe is no error.
fn report(summary: &ProducerSummary, format: SummaryFormat) -> anyhow::Result<()> {
    match format {
        SummaryFormat::Text => {
            // an unread report does not make the run a failure
            let _ = writeln!(io::stderr(), "{summary}");
        }
        SummaryFormat::Json => stdout::print(&format!("{}\n", serde_json::to_string(summary)?))?,
        SummaryFormat::None => {}
    }
    Ok(())
}

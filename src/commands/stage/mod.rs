//! `mqueue stage`: a consumer whose handler passes its results on to the next hop.
//!
//! ```text
//!  Consumer ─▶ Worker ─▶ Relay: fits the schema? ─▶ work ─▶ NextHop ── OK ──▶ Done ─▶ FIN
//!                          │ no                     │ fails   └ unreachable: waits, and tries again
//!                          └─▶ dead letter          └─▶ requeued
//! ```

pub(crate) mod args;
mod relay;
mod stats;

use std::sync::Arc;
use std::time::Instant;

use self::relay::Relay;
use self::stats::StageStats;
use super::common::exit::{Exit, Failure};
use super::common::next_hop::NextHop;
use super::common::run_broker::BrokerAddresses;
use super::common::service::{notify, notify_interval};
use super::common::stdout_thread::{StdoutLines, StdoutThread, json_line};
use crate::commands::common::metrics::group_meter::{self, GroupMeter};
use crate::commands::common::retry_stream;
use crate::commands::common::stdout;
use crate::commands::common::values::ReportFormat;
use crate::commands::common::worker_flags;
use crate::commands::stage::args::Args;
use mqueue::client::{Address, Consumer, ConsumerConfig};
use mqueue::handler::{Handler, HandlerOptions, HandlerSpec, PipeHandler};
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;
use mqueue::worker::{ProgressHook, Worker, WorkerConfig};

/// Max-in-flight of a relay that takes batches: a batch is ready when the one before is done.
const BATCH_IN_FLIGHT: u32 = 2000;
/// Default concurrency of the handler `sleep:`.
const SLEEP_CONCURRENCY: u32 = 100;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    check(&args)?;
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let stats = Arc::new(StageStats::new(&args));
    // a consumer asks the nsqlookupds by itself; a publisher needs the addresses
    let nsqd = match args.to.spec() {
        HandlerSpec::Forward(_) => BrokerAddresses::find(&args.broker).await?.tcp,
        _ => args.broker.nsqd(),
    };
    let relay = Arc::new(relay(&args, nsqd, &shutdown, stats.clone())?);
    let config = worker_config(&args)?;
    let meter = args.metrics.wanted(|| GroupMeter::new(&args.from, &args.group));
    let _server = args.metrics.serve(meter.as_ref(), GroupMeter::pages).await?;
    let started = Instant::now();
    let consumer = tokio::select! {
        connected = Consumer::connect(consumer_config(&args, &relay)) => connected.map_err(|e| Failure::unavailable(&e))?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    tracing::info!(stream = %args.from, group = %args.group, to = %args.to, "consuming");
    tokio::spawn(retry_stream::follow(consumer.control(), args.broker.clone(), args.from.clone(), args.group.clone()));
    let notifier = Notifier;
    notifier.ready();
    let output = (args.report() == ReportFormat::Json).then(StdoutThread::for_reports).transpose()?;
    let lines = output.as_ref().map(StdoutThread::lines);
    let control = consumer.control();
    let worker = Worker::new(consumer, relay.clone(), config)?
        .with_progress_hook(notify_interval(), pulse(stats.clone(), lines));
    let worker = group_meter::measured(worker, control, meter.as_deref());
    let (ended, tally) = worker.run(&shutdown).await;
    shutdown.unless_now(relay.close()).await;
    notifier.stopping();
    match output {
        Some(output) => stdout::ended(output.end(json_line(&stats.last(tally))).await)?,
        None => {
            tracing::info!(stream = %args.from, group = %args.group, "{}", stats.summary(tally, started.elapsed()))
        }
    }
    Ok(Exit::of_worker(ended, &tally)?)
}

/// Checks flags that contradict each other.
fn check(args: &Args) -> Result<(), Failure> {
    if args.report() == ReportFormat::Json && args.handler == Some(HandlerSpec::Print) {
        return Err(Failure::new(
            Exit::Usage,
            "--handler print and --report json both write to stdout: use one of them",
        ));
    }
    if args.handler == Some(HandlerSpec::Print) || *args.to.spec() == HandlerSpec::Print {
        stdout::check()?;
    }
    Ok(())
}

fn relay(args: &Args, nsqd: Vec<Address>, shutdown: &Shutdown, stats: Arc<StageStats>) -> Result<Relay, Failure> {
    let next_hop = worker_flags::handler_options(
        &args.from,
        &args.group,
        args.failing.handler_timeout,
        nsqd,
        args.broker.connect(),
        shutdown,
    );
    let work = HandlerOptions { capture_output: true, ..next_hop.clone() };
    let usage = |e| Failure::new(Exit::Usage, e);
    let work = args.handler.as_ref().map(|spec| spec.build(&work)).transpose().map_err(usage)?;
    let next = args.to.spec().build(&next_hop).map_err(usage)?;
    let next = NextHop::new(next, args.to.to_string(), shutdown.draining.clone());
    Ok(Relay { expect: args.expect.clone(), work, next, stats })
}

fn concurrency(args: &Args) -> u32 {
    let cpus = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    args.concurrency.unwrap_or_else(|| match args.handler {
        Some(HandlerSpec::Sleep(_)) => SLEEP_CONCURRENCY,
        Some(HandlerSpec::Pipe(_)) => PipeHandler::MAX_CONCURRENT,
        _ => cpus(),
    })
}

fn worker_config(args: &Args) -> Result<WorkerConfig, Failure> {
    let config = worker_flags::worker_config(&args.from, &args.failing, args.broker.connect())?;
    Ok(config.with_concurrency(concurrency(args) as usize).with_idle_timeout(args.timeout))
}

fn consumer_config(args: &Args, relay: &Relay) -> ConsumerConfig {
    let mut config = worker_flags::consumer_config(&args.from, &args.group, &args.broker, &args.tuning);
    config.flow.max_in_flight = if relay.batch_size() > 1 { BATCH_IN_FLIGHT } else { concurrency(args) };
    config
}

/// Makes the worker's hook that notifies systemd and writes a line of the report.
fn pulse(stats: Arc<StageStats>, lines: Option<StdoutLines>) -> ProgressHook {
    Box::new(move |snapshot| {
        notify(&stats.status(snapshot), snapshot.stopping);
        lines.iter().for_each(|lines| lines.line_if_room(json_line(&stats.now(snapshot))));
    })
}

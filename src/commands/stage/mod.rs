//! `mqueue stage`: a consumer whose handler passes what it made on to the next hop.
//!
//! ```text
//!  Consumer ─▶ Worker ─▶ Relay: fits the schema? ─▶ work ─▶ NextHop ── OK ──▶ Done ─▶ FIN
//!                          │ no                     │ fails   └ away: waits, and tries again
//!                          └─▶ dead letter          └─▶ again later
//! ```

pub(crate) mod args;
mod figures;
mod hop;
mod relay;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::figures::Figures;
use self::hop::NextHop;
use self::relay::Relay;
use super::common::exit::{Exit, Failure};
use super::common::json_lines::Lines;
use super::common::run_broker::Brokers;
use crate::commands::common::retry_stream;
use crate::commands::common::stdout;
use crate::commands::common::values::Report;
use crate::commands::common::worker_flags;
use crate::commands::stage::args::Args;
use mqueue::client::{Address, Consumer, ConsumerConfig};
use mqueue::handler::{FileOptions, Handler, HandlerOptions, HandlerSpec, PipeHandler, PrintOutput};
use mqueue::shutdown::Shutdown;
use mqueue::systemd::Notifier;
use mqueue::worker::{Pulse, Worker, WorkerConfig};

/// Messages in flight for a relay that takes batches: one batch under way, and more at hand when it is done.
const BATCH_IN_FLIGHT: u32 = 2000;
/// Messages that only sleep, at once, unless told otherwise.
const SLEEPERS: u32 = 100;
/// How often it says how it is doing.
const PULSE: Duration = Duration::from_secs(1);
/// How much longer a stopping stage asks systemd for, each time.
const MORE_TIME: Duration = Duration::from_secs(10);

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    check(&args)?;
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let figures = Arc::new(Figures::new(&args));
    // the consumer asks the nsqlookupds by itself, a publisher has to know
    let nsqd = match args.to.spec() {
        HandlerSpec::Forward(_) => Brokers::find(&args.broker).await?.tcp,
        _ => args.broker.nsqd(),
    };
    let relay = Arc::new(relay(&args, nsqd, &shutdown, figures.clone())?);
    let config = worker_config(&args)?;
    let started = Instant::now();
    let consumer = tokio::select! {
        connected = Consumer::connect(consumer_config(&args, &relay)) => connected.map_err(|e| Failure::unavailable(&e))?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    tracing::info!(stream = %args.from, group = %args.group, to = %args.to, "consuming");
    tokio::spawn(retry_stream::follow(consumer.control(), args.broker.clone(), args.from.clone(), args.group.clone()));
    let notifier = Notifier;
    notifier.ready();
    let lines = (args.report() == Report::Json).then(Lines::start).transpose()?;
    let every = notifier.watchdog_interval().map_or(PULSE, |within| PULSE.min(within / 3));
    let worker = Worker::new(consumer, relay.clone(), config)?.with_pulse(every, pulse(figures.clone(), lines.clone()));
    let (ended, tally) = worker.run(&shutdown).await;
    shutdown.unless_now(relay.close()).await;
    notifier.stopping();
    match lines {
        Some(lines) => stdout::ended(lines.end(&figures.last(tally)))?,
        None => {
            tracing::info!(stream = %args.from, group = %args.group, "{}", figures.summary(tally, started.elapsed()))
        }
    }
    Ok(Exit::of_worker(ended, &tally)?)
}

/// What can only be wrong together.
fn check(args: &Args) -> Result<(), Failure> {
    if args.report() == Report::Json && args.handler == Some(HandlerSpec::Print) {
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

fn relay(args: &Args, nsqd: Vec<Address>, shutdown: &Shutdown, figures: Arc<Figures>) -> Result<Relay, Failure> {
    let options = |capture_output| HandlerOptions {
        stream: args.from.clone(),
        group: args.group.clone(),
        output: PrintOutput::Json,
        file: FileOptions::default(),
        timeout: args.failing.handler_timeout,
        stop: shutdown.draining.clone(),
        capture_output,
        nsqd: nsqd.clone(),
    };
    let usage = |e| Failure::new(Exit::Usage, e);
    let work = args.handler.as_ref().map(|spec| spec.build(&options(true))).transpose().map_err(usage)?;
    let next = args.to.spec().build(&options(false)).map_err(usage)?;
    let next = NextHop::new(next, args.to.to_string(), shutdown.draining.clone());
    Ok(Relay { expect: args.expect.clone(), work, next, figures })
}

fn concurrency(args: &Args) -> u32 {
    let cpus = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    args.concurrency.unwrap_or_else(|| match args.handler {
        Some(HandlerSpec::Sleep(_)) => SLEEPERS,
        Some(HandlerSpec::Pipe(_)) => PipeHandler::MAX_CONCURRENT,
        _ => cpus(),
    })
}

fn worker_config(args: &Args) -> Result<WorkerConfig, Failure> {
    Ok(WorkerConfig {
        concurrency: concurrency(args) as usize,
        idle_timeout: args.timeout,
        ..worker_flags::worker_config(&args.from, &args.failing)?
    })
}

fn consumer_config(args: &Args, relay: &Relay) -> ConsumerConfig {
    let mut config = worker_flags::consumer_config(&args.from, &args.group, &args.broker, &args.tuning);
    config.flow.max_in_flight = if relay.batch_size() > 1 { BATCH_IN_FLIGHT } else { concurrency(args) };
    config
}

/// Tells systemd, and whoever reads the report, how it is doing.
fn pulse(figures: Arc<Figures>, lines: Option<Lines>) -> Pulse {
    let notifier = Notifier;
    Box::new(move |snapshot| {
        notifier.status(&figures.status(snapshot));
        notifier.watchdog();
        if snapshot.stopping {
            notifier.extend_timeout(MORE_TIME);
        }
        lines.iter().for_each(|lines| lines.say(&figures.now(snapshot)));
    })
}

//! `mqueue consumer`: connects, handles messages until there is a reason to end, and says what was done.
//!
//! ```text
//!  poke ─▶ take all pokes ─▶ subscribe ─▶ READY ─▶ work ─▶ idle ─▶ RDY 0, CLS, last messages ─▶ anything left?
//!                               ▲                                                      yes │  │ no
//!                               └──────────────────────────────────────────────────────────┘  └▶ STOPPING, exit 0
//! ```
//!
//! After STOPPING no poke is taken: one that comes later stays with systemd, and starts the consumer anew.

mod leftover;
mod service;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::service::Service;
use super::{Exit, Failure};
use crate::cli::consumer::{Args, Output};
use crate::client::{Consumer, ConsumerConfig};
use crate::handler::{AnyHandler, Handler, HandlerOptions, PrintOutput};
use crate::shutdown::Shutdown;
use crate::worker::{DeadLetter, Ended, Tally, Worker, WorkerConfig};

/// Messages in flight for handlers that take batches: enough that nsqd need never wait for the answers.
const BATCH_IN_FLIGHT: u32 = 1000;

/// Runs the command to its end.
pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let service = Service::start().await?;
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let handler = Arc::new(handler(&args, &shutdown)?);
    let config = worker_config(&args)?;
    let started = Instant::now();
    let (mut total, mut ended) = (Tally::default(), Ended::Idle);
    while ended == Ended::Idle {
        let connecting = Consumer::connect(consumer_config(&args, &handler));
        let consumer = tokio::select! {
            connected = connecting => connected.map_err(|e| Failure::unavailable(&e))?,
            () = shutdown.draining.cancelled() => return Ok(Exit::Success),
        };
        tracing::info!(stream = %args.stream, group = %args.group, "consuming");
        service.notifier.ready();
        let tally;
        (ended, tally) = work(&service, consumer, handler.clone(), config.clone(), &shutdown).await?;
        total += tally;
        // a poke or a message that came while leaving is work: back to it
        let poked = service.take_pokes().await > 0;
        let nsqd = args.broker.nsqd_http();
        if ended == Ended::Idle && !poked && !leftover::waits(&nsqd, &args.stream, &args.group).await {
            break;
        }
    }
    service.notifier.stopping();
    tracing::info!(stream = %args.stream, group = %args.group, "{}", summary(ended, total, started.elapsed()));
    match ended {
        Ended::Idle | Ended::Counted | Ended::Drained => Ok(Exit::Success),
        Ended::Now => Ok(Exit::Interrupted),
        Ended::Unreachable => {
            Err(Failure::new(Exit::Unavailable, "gave up: no nsqd could be reached for the whole timeout").into())
        }
    }
}

/// One subscription, from its first message to its last.
async fn work(
    service: &Service,
    consumer: Consumer,
    handler: Arc<AnyHandler>,
    config: WorkerConfig,
    shutdown: &Shutdown,
) -> anyhow::Result<(Ended, Tally)> {
    let mut worker = Worker::new(consumer, handler, config)?;
    if let Some((every, pulse)) = service.pulse() {
        worker = worker.with_pulse(every, pulse);
    }
    let nudge = worker.nudge();
    tokio::select! {
        done = worker.run(shutdown) => Ok(done),
        () = service.pass_pokes_on(nudge) => unreachable!("it never ends"),
    }
}

fn handler(args: &Args, shutdown: &Shutdown) -> Result<AnyHandler, Failure> {
    let output = match args.handling.output {
        Output::Json => PrintOutput::Json,
        Output::Body => PrintOutput::Body,
        Output::Null => PrintOutput::Null,
    };
    let options = HandlerOptions {
        stream: args.stream.clone(),
        group: args.group.clone(),
        output,
        timeout: args.handling.handler_timeout,
        stop: shutdown.draining.clone(),
        capture_output: false,
    };
    args.handling.handler.build(&options).map_err(|e| Failure::new(Exit::Usage, e))
}

fn concurrency(args: &Args) -> u32 {
    let cpus = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    args.concurrency.or(args.max_in_flight).unwrap_or_else(cpus)
}

fn worker_config(args: &Args) -> Result<WorkerConfig, Failure> {
    let dead_letters = match &args.handling.dead_letter {
        Some(stream) => stream.clone(),
        None => DeadLetter::stream_of(&args.stream).map_err(|e| {
            Failure::new(Exit::Usage, format!("{e}: name a stream for the dead letters with --dead-letter"))
        })?,
    };
    Ok(WorkerConfig {
        concurrency: concurrency(args) as usize,
        idle_timeout: args.timeout,
        count: args.count,
        max_attempts: args.handling.max_attempts,
        retry_delay: args.handling.retry_delay,
        dead_letters: Some(dead_letters),
        ..WorkerConfig::default()
    })
}

fn consumer_config(args: &Args, handler: &AnyHandler) -> ConsumerConfig {
    let mut config = ConsumerConfig::new(args.stream.clone(), args.group.clone());
    config.nsqd = args.broker.nsqd();
    config.lookupd = args.broker.lookupd_http_address.clone();
    config.lookupd_poll_interval = args.tuning.lookupd_poll_interval;
    let in_flight = if handler.batch_size() > 1 { BATCH_IN_FLIGHT } else { concurrency(args) };
    config.flow.max_in_flight = args.max_in_flight.unwrap_or(in_flight);
    config.flow.max_backoff = args.tuning.max_backoff;
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    config.connect.identify.msg_timeout = args.tuning.msg_timeout.map(millis);
    config
}

fn summary(ended: Ended, tally: Tally, took: Duration) -> String {
    let why = match ended {
        Ended::Idle => "idle",
        Ended::Counted => "count reached",
        Ended::Drained => "stopped",
        Ended::Now => "stopped at once",
        Ended::Unreachable => "no nsqd",
    };
    let Tally { done, retried, dead, released } = tally;
    let seconds = took.as_secs_f64();
    format!("{why}: {done} done, {retried} to retry, {dead} dead letters, {released} given back, in {seconds:.1} s")
}

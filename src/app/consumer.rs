//! `mqueue consumer`: connects, handles messages until there is a reason to end, and says what was done.

use std::time::{Duration, Instant};

use super::{Exit, Failure};
use crate::cli::consumer::{Args, Output};
use crate::client::{Consumer, ConsumerConfig, PublisherConfig};
use crate::handler::{AnyHandler, Handler, HandlerOptions, PrintOutput};
use crate::proto::TopicName;
use crate::shutdown::Shutdown;
use crate::worker::{Ended, Rules, Tally, Worker, WorkerConfig};

/// Messages in flight for handlers that take batches: enough that nsqd need never wait for the answers.
const BATCH_IN_FLIGHT: u32 = 1000;

/// Runs the command to its end.
pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let handler = handler(&args, &shutdown)?;
    let config = worker_config(&args, &handler)?;
    let connecting = Consumer::connect(consumer_config(&args, &config));
    let consumer = tokio::select! {
        connected = connecting => connected.map_err(|e| Failure::unavailable(&e))?,
        () = shutdown.draining.cancelled() => return Ok(Exit::Success),
    };
    tracing::info!("consuming stream {} as group {}", args.stream, args.group);
    let started = Instant::now();
    let (ended, tally) = Worker::new(handler, config).run(consumer, &shutdown).await;
    tracing::info!("{}", summary(ended, tally, started.elapsed()));
    match ended {
        Ended::Idle | Ended::Counted | Ended::Drained => Ok(Exit::Success),
        Ended::Now => Ok(Exit::Interrupted),
        Ended::Unreachable => {
            Err(Failure::new(Exit::Unavailable, "gave up: no nsqd could be reached for the whole timeout").into())
        }
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

fn worker_config(args: &Args, handler: &AnyHandler) -> Result<WorkerConfig, Failure> {
    let cpus = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let concurrency = args.concurrency.or(args.max_in_flight).unwrap_or_else(cpus);
    let in_flight = if handler.batch_size() > 1 { BATCH_IN_FLIGHT } else { concurrency };
    let publisher = PublisherConfig { timeout: Duration::from_secs(10), ..PublisherConfig::default() };
    let mut rules = Rules::new(args.stream.clone(), args.group.clone(), dead_letter(args)?, publisher);
    rules.max_attempts = args.handling.max_attempts;
    rules.retry_delay = args.handling.retry_delay;
    Ok(WorkerConfig {
        concurrency: concurrency as usize,
        max_in_flight: args.max_in_flight.unwrap_or(in_flight),
        idle_timeout: args.timeout,
        count: args.count,
        rules,
    })
}

fn dead_letter(args: &Args) -> Result<TopicName, Failure> {
    if let Some(name) = &args.handling.dead_letter {
        return Ok(name.clone());
    }
    let stem = args.stream.as_str().trim_end_matches("#ephemeral");
    TopicName::new(&format!("{stem}.dead")).map_err(|_| {
        let line = format!(
            "the stream for dead letters, {stem}.dead, would have too long a name: give one with --dead-letter"
        );
        Failure::new(Exit::Usage, line)
    })
}

fn consumer_config(args: &Args, worker: &WorkerConfig) -> ConsumerConfig {
    let mut config = ConsumerConfig::new(args.stream.clone(), args.group.clone());
    config.nsqd = args.broker.nsqd();
    config.lookupd = args.broker.lookupd_http_address.clone();
    config.lookupd_poll_interval = args.tuning.lookupd_poll_interval;
    config.flow.max_in_flight = worker.max_in_flight;
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

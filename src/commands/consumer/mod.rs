//! `mqueue consumer`: connects, handles messages until there is a reason to end, and prints a
//! summary.
//!
//! Module `lifecycle` decides on the steps; this module carries them out.

pub(crate) mod args;
mod create;
mod files;
pub(super) mod lifecycle;
mod pending_check;
mod service;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Notify;

use self::lifecycle::{LifecycleStep, PendingCheck, StepResult};
use self::pending_check::has_backlog;
use self::service::ConsumerService;
use super::common::exit::{Exit, Failure};
use crate::commands::common::metrics::group_meter::{self, GroupMeter};
use crate::commands::common::retry_stream;
use crate::commands::common::stdout;
use crate::commands::common::worker_flags;
use crate::commands::consumer::args::{Args, MessageOutput};
use mqueue::client::{Consumer, ConsumerConfig, GivenBack};
use mqueue::handler::{BuiltinHandler, Handler, HandlerOptions, HandlerSpec, PipeHandler, PrintOutput};
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;
use mqueue::worker::{StopReason, Worker, WorkerConfig, WorkerStats};

/// Max-in-flight of handlers that take batches: enough that nsqd need not wait for answers.
const BATCH_IN_FLIGHT: u32 = 1000;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    if let Some(tries) = args.create {
        return create::run(&args, tries).await;
    }
    let service = ConsumerService::start()?;
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let handler = Arc::new(handler(&args, &shutdown)?);
    let config = worker_config(&args)?;
    let meter = args.metrics.wanted(|| GroupMeter::new(&args.stream, &args.group));
    let _server = args.metrics.serve(meter.as_ref(), GroupMeter::pages).await?;
    let started = Instant::now();
    let mut consumer = RunningConsumer {
        args,
        service,
        shutdown,
        handler,
        config,
        meter,
        total: WorkerStats::default(),
        reset_idle: Arc::default(),
        given_back: GivenBack::default(),
    };
    let ended = consumer.run().await?;
    consumer.shutdown.unless_now(consumer.handler.close()).await;
    let Args { stream, group, .. } = &consumer.args;
    tracing::info!(%stream, %group, "{}", summary(ended, consumer.total, started.elapsed()));
    Ok(Exit::of_worker(ended, &consumer.total)?)
}

/// State of a running consumer: what its steps need, and the totals.
struct RunningConsumer {
    args: Args,
    service: ConsumerService,
    shutdown: Shutdown,
    handler: Arc<BuiltinHandler>,
    config: WorkerConfig,
    /// `None` if no metrics are served.
    meter: Option<Arc<GroupMeter>>,
    total: WorkerStats,
    /// Notified of every poke. A poke that arrives while the worker is leaving stays pending here.
    reset_idle: Arc<Notify>,
    /// Deliveries that earlier subscriptions requeued untried.
    given_back: GivenBack,
}

impl RunningConsumer {
    /// Runs the steps to the end; returns why the consumer ended.
    async fn run(&mut self) -> anyhow::Result<StopReason> {
        let mut step = LifecycleStep::FIRST;
        loop {
            let happened = match step {
                LifecycleStep::Subscribe => self.subscribe().await?,
                LifecycleStep::Work(consumer) => StepResult::Ended(self.work(consumer).await?),
                LifecycleStep::TakePokes => StepResult::Poked(self.take_late_pokes().await),
                LifecycleStep::LookAtStats => StepResult::Looked(self.check_pending().await),
                LifecycleStep::Stop(ended) => {
                    self.service.notifier.stopping();
                    return Ok(ended);
                }
            };
            step = happened.next();
        }
    }

    async fn subscribe(&self) -> Result<StepResult<Consumer>, Failure> {
        let mut config = consumer_config(&self.args, &self.handler);
        config.given_back = self.given_back.clone();
        let connecting = Consumer::connect(config);
        tokio::select! {
            connected = connecting => connected.map(StepResult::Subscribed).map_err(|e| Failure::unavailable(&e)),
            () = self.shutdown.draining.cancelled() => Ok(StepResult::Interrupted),
        }
    }

    /// Works on one subscription, from its first message to its last.
    async fn work(&mut self, consumer: Consumer) -> anyhow::Result<StopReason> {
        let Args { stream, group, broker, .. } = &self.args;
        tracing::info!(%stream, %group, "consuming");
        tokio::spawn(retry_stream::follow(consumer.control(), broker.clone(), stream.clone(), group.clone()));
        self.service.notifier.ready();
        let control = consumer.control();
        let worker = Worker::new(consumer, self.handler.clone(), self.config.clone())?;
        let mut worker = group_meter::measured(worker, control, self.meter.as_deref());
        if let Some((every, pulse)) = self.service.pulse() {
            worker = worker.with_progress_hook(every, pulse);
        }
        self.reset_idle = worker.reset_idle();
        let (ended, tally) = tokio::select! {
            done = worker.run(&self.shutdown) => done,
            () = self.service.pass_pokes_on(self.reset_idle.clone()) => unreachable!("it never ends"),
        };
        if tally.released > 0 {
            // a message that arrived while leaving was requeued: it counts as a poke
            self.reset_idle.notify_one();
        }
        self.total += tally;
        Ok(ended)
    }

    /// Takes the pokes that arrived while the worker was leaving, or later; messages that it
    /// requeued count as one poke.
    async fn take_late_pokes(&self) -> usize {
        let passed_on = self.reset_idle.notified().now_or_never().is_some();
        usize::from(passed_on) + self.service.take_pokes()
    }

    async fn check_pending(&self) -> PendingCheck {
        let Args { stream, group, broker, .. } = &self.args;
        let redriven = retry_stream::stream_of(stream, group);
        let waits = has_backlog(broker, stream, group).await || has_backlog(broker, &redriven, group).await;
        if waits { PendingCheck::Messages } else { PendingCheck::Nothing }
    }
}

fn handler(args: &Args, shutdown: &Shutdown) -> Result<BuiltinHandler, Failure> {
    if args.handling.handler == HandlerSpec::Print {
        stdout::check()?;
    }
    let output = args.handling.output.map(|output| match output {
        MessageOutput::Json => PrintOutput::Json,
        MessageOutput::Body => PrintOutput::Body,
        MessageOutput::Null => PrintOutput::Null,
    });
    let file = files::options(args, output)?;
    let timeout = args.handling.failing.handler_timeout;
    let options = worker_flags::handler_options(
        &args.stream,
        &args.group,
        timeout,
        args.broker.nsqd(),
        args.broker.connect(),
        shutdown,
    );
    let options = HandlerOptions { output: output.unwrap_or(PrintOutput::Json), file, ..options };
    args.handling.handler.build(&options).map_err(|e| Failure::new(Exit::Usage, e))
}

fn concurrency(args: &Args) -> u32 {
    let cpus = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    args.concurrency.or(args.max_in_flight).unwrap_or_else(|| match args.handling.handler {
        HandlerSpec::Pipe(_) => PipeHandler::MAX_CONCURRENT,
        _ => cpus(),
    })
}

fn worker_config(args: &Args) -> Result<WorkerConfig, Failure> {
    let config = worker_flags::worker_config(&args.stream, &args.handling.failing, args.broker.connect())?;
    let config = config.with_concurrency(concurrency(args) as usize);
    Ok(config.with_idle_timeout(args.exit.timeout).with_count(args.exit.count))
}

fn consumer_config(args: &Args, handler: &BuiltinHandler) -> ConsumerConfig {
    let mut config = worker_flags::consumer_config(&args.stream, &args.group, &args.broker, &args.tuning);
    let in_flight = if handler.batch_size() > 1 { BATCH_IN_FLIGHT } else { concurrency(args) };
    config.flow.max_in_flight = args.max_in_flight.unwrap_or(in_flight);
    config.backend = args.client.backend();
    config
}

fn summary(ended: StopReason, tally: WorkerStats, took: Duration) -> String {
    let why = match ended {
        StopReason::Idle => "idle",
        StopReason::Counted => "count reached",
        StopReason::Drained => "stopped",
        StopReason::Aborted => "stopped at once",
        StopReason::Unreachable => "no nsqd",
    };
    let WorkerStats { done, retried, dead, released } = tally;
    let (seconds, dead) = (took.as_secs_f64(), count(dead, "dead letter"));
    format!("{why}: {done} done, {retried} to retry, {dead}, {released} given back, in {seconds:.1} s")
}

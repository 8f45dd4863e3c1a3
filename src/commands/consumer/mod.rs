//! `mqueue consumer`: connects, handles messages until there is a reason to end, and prints a summary.
//!
//! Module `life` decides on the steps; this module carries them out.

pub(crate) mod args;
mod create;
mod files;
mod leftover;
pub(super) mod life;
mod service;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Notify;

use self::life::{Happened, Left, Step};
use self::service::Service;
use super::common::exit::{Exit, Failure};
use crate::commands::common::retry_stream;
use crate::commands::common::stdout;
use crate::commands::common::worker_flags;
use crate::commands::consumer::args::{Args, Output};
use mqueue::client::{Consumer, ConsumerConfig, GivenBack};
use mqueue::handler::{BuiltinHandler, Handler, HandlerOptions, HandlerSpec, PipeHandler, PrintOutput};
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;
use mqueue::worker::{Ended, Tally, Worker, WorkerConfig};

/// Max-in-flight of handlers that take batches: enough that nsqd need not wait for answers.
const BATCH_IN_FLIGHT: u32 = 1000;

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    if let Some(tries) = args.create {
        return create::run(&args, tries).await;
    }
    let service = Service::start()?;
    let shutdown = Shutdown::on_signals(args.tuning.grace)?;
    let handler = Arc::new(handler(&args, &shutdown)?);
    let config = worker_config(&args)?;
    let started = Instant::now();
    let mut alive = Alive {
        args,
        service,
        shutdown,
        handler,
        config,
        total: Tally::default(),
        nudge: Arc::default(),
        given_back: GivenBack::default(),
    };
    let ended = alive.run().await?;
    alive.shutdown.unless_now(alive.handler.close()).await;
    let Args { stream, group, .. } = &alive.args;
    tracing::info!(%stream, %group, "{}", summary(ended, alive.total, started.elapsed()));
    Ok(Exit::of_worker(ended, &alive.total)?)
}

/// State of a running consumer: what its steps need, and the totals.
struct Alive {
    args: Args,
    service: Service,
    shutdown: Shutdown,
    handler: Arc<BuiltinHandler>,
    config: WorkerConfig,
    total: Tally,
    /// The worker's nudge. A poke that arrives while the worker is leaving stays pending here.
    nudge: Arc<Notify>,
    /// Deliveries that earlier subscriptions requeued untried.
    given_back: GivenBack,
}

impl Alive {
    /// Runs the steps to the end; returns why the consumer ended.
    async fn run(&mut self) -> anyhow::Result<Ended> {
        let mut step = Step::FIRST;
        loop {
            let happened = match step {
                Step::Subscribe => self.subscribe().await?,
                Step::Work(consumer) => Happened::Ended(self.work(consumer).await?),
                Step::TakePokes => Happened::Poked(self.late_pokes().await),
                Step::LookAtStats => Happened::Looked(self.look().await),
                Step::Stop(ended) => {
                    self.service.notifier.stopping();
                    return Ok(ended);
                }
            };
            step = happened.next();
        }
    }

    async fn subscribe(&self) -> Result<Happened<Consumer>, Failure> {
        let mut config = consumer_config(&self.args, &self.handler);
        config.given_back = self.given_back.clone();
        let connecting = Consumer::connect(config);
        tokio::select! {
            connected = connecting => connected.map(Happened::Subscribed).map_err(|e| Failure::unavailable(&e)),
            () = self.shutdown.draining.cancelled() => Ok(Happened::Interrupted),
        }
    }

    /// Works on one subscription, from its first message to its last.
    async fn work(&mut self, consumer: Consumer) -> anyhow::Result<Ended> {
        let Args { stream, group, broker, .. } = &self.args;
        tracing::info!(%stream, %group, "consuming");
        tokio::spawn(retry_stream::follow(consumer.control(), broker.clone(), stream.clone(), group.clone()));
        self.service.notifier.ready();
        let mut worker = Worker::new(consumer, self.handler.clone(), self.config.clone())?;
        if let Some((every, pulse)) = self.service.pulse() {
            worker = worker.with_pulse(every, pulse);
        }
        self.nudge = worker.nudge();
        let (ended, tally) = tokio::select! {
            done = worker.run(&self.shutdown) => done,
            () = self.service.pass_pokes_on(self.nudge.clone()) => unreachable!("it never ends"),
        };
        if tally.released > 0 {
            // a message that arrived while leaving was requeued: it counts as a poke
            self.nudge.notify_one();
        }
        self.total += tally;
        Ok(ended)
    }

    /// Takes the pokes that arrived while the worker was leaving, or later; messages that it requeued count as one poke.
    async fn late_pokes(&self) -> usize {
        let passed_on = self.nudge.notified().now_or_never().is_some();
        usize::from(passed_on) + self.service.take_pokes()
    }

    async fn look(&self) -> Left {
        let Args { stream, group, broker, .. } = &self.args;
        let redriven = retry_stream::stream_of(stream, group);
        let waits = leftover::waits(broker, stream, group).await || leftover::waits(broker, &redriven, group).await;
        if waits { Left::Messages } else { Left::Nothing }
    }
}

fn handler(args: &Args, shutdown: &Shutdown) -> Result<BuiltinHandler, Failure> {
    if args.handling.handler == HandlerSpec::Print {
        stdout::check()?;
    }
    let output = args.handling.output.map(|output| match output {
        Output::Json => PrintOutput::Json,
        Output::Body => PrintOutput::Body,
        Output::Null => PrintOutput::Null,
    });
    let file = files::options(args, output)?;
    let options = HandlerOptions {
        stream: args.stream.clone(),
        group: args.group.clone(),
        output: output.unwrap_or(PrintOutput::Json),
        file,
        timeout: args.handling.failing.handler_timeout,
        stop: shutdown.draining.clone(),
        capture_output: false,
        nsqd: args.broker.nsqd(),
    };
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
    Ok(WorkerConfig {
        concurrency: concurrency(args) as usize,
        idle_timeout: args.timeout,
        count: args.count,
        ..worker_flags::worker_config(&args.stream, &args.handling.failing)?
    })
}

fn consumer_config(args: &Args, handler: &BuiltinHandler) -> ConsumerConfig {
    let mut config = worker_flags::consumer_config(&args.stream, &args.group, &args.broker, &args.tuning);
    let in_flight = if handler.batch_size() > 1 { BATCH_IN_FLIGHT } else { concurrency(args) };
    config.flow.max_in_flight = args.max_in_flight.unwrap_or(in_flight);
    config.driver = args.client.driver();
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
    let (seconds, dead) = (took.as_secs_f64(), count(dead, "dead letter"));
    format!("{why}: {done} done, {retried} to retry, {dead}, {released} given back, in {seconds:.1} s")
}

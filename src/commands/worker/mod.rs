//! `mqueue worker`: jobs from a gateway, over HTTP.
//!
//! ```text
//!  gateway ══ stream of jobs ══▶ intake ──▶ JobRunner ──▶ answers ══ POST /jobs/done … touch ══▶ gateway
//! ```
//!
//! The gateway keeps a job until it accepts the job's answer. While this worker holds jobs, it
//! touches them, so that the gateway knows that it is alive. The gateway refuses an answer that
//! comes too late, and the job is redelivered.

mod answers;
pub(crate) mod args;
mod failure_backoff;
mod gateway_client;
mod intake;
mod meter;
mod print_and_pause;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::answers::{AnswerEvent, AnswerSender};
use self::failure_backoff::FailureBackoff;
use self::gateway_client::GatewayClient;
use self::intake::ReceivedJob;
use self::meter::JobMeter;
use self::print_and_pause::PrintAndPause;
use super::common::exit::{Exit, Failure};
use super::common::stdout;
use super::common::worker_flags;
use crate::commands::worker::args::Args;
use mqueue::handler::{BuiltinHandler, Handler, HandlerOptions, HandlerSpec, PipeHandler, PrintOutput, Verdict};
use mqueue::proto::Message;
use mqueue::shutdown::Shutdown;
use mqueue::worker::HandlerRun;

/// The default of `--in-flight` for handlers that take batches.
const BATCH_IN_FLIGHT: u32 = 500;

/// The handler of jobs.
#[derive(Debug)]
enum WorkerHandler {
    PrintAndPause(PrintAndPause),
    Handler(Box<BuiltinHandler>),
}

impl Handler for WorkerHandler {
    async fn handle(&self, message: Message) -> Verdict {
        match self {
            Self::PrintAndPause(print) => print.handle(message).await,
            Self::Handler(handler) => handler.handle(message).await,
        }
    }

    fn batch_size(&self) -> usize {
        match self {
            Self::PrintAndPause(print) => print.batch_size(),
            Self::Handler(handler) => handler.batch_size(),
        }
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        match self {
            Self::PrintAndPause(print) => print.handle_batch(messages).await,
            Self::Handler(handler) => handler.handle_batch(messages).await,
        }
    }

    async fn close(&self) {
        match self {
            Self::PrintAndPause(print) => print.close().await,
            Self::Handler(handler) => handler.close().await,
        }
    }
}

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.grace)?;
    let handler = Arc::new(worker_handler(&args, &shutdown)?);
    let batch = handler.batch_size();
    let in_flight = args.in_flight.unwrap_or(match args.handler {
        Some(HandlerSpec::Pipe(_)) => PipeHandler::MAX_CONCURRENT,
        _ if batch > 1 => BATCH_IN_FLIGHT,
        _ => 1,
    });
    let gateway = Arc::new(GatewayClient::new(&args, in_flight)?);
    let meter = args.metrics.wanted(|| JobMeter::new(&args));
    let _server = args.metrics.serve(meter.as_ref(), JobMeter::pages).await?;
    let (events, received) = mpsc::unbounded_channel();
    let sender =
        AnswerSender::new(gateway.clone(), received, args.deadline, args.count, shutdown.clone(), meter.clone());
    let answers = tokio::spawn(sender.run());
    let (job_sender, jobs) = mpsc::channel(1);
    let over = CancellationToken::new();
    let draining = shutdown.draining.clone();
    let intake = tokio::spawn(intake::run(gateway, job_sender, events.clone(), over.clone(), draining, meter.clone()));
    let started = Instant::now();
    let runner = JobRunner {
        handler: handler.clone(),
        jobs,
        events: events.clone(),
        running: JoinSet::new(),
        max_tasks: if batch > 1 { 1 } else { in_flight as usize },
        max_waiting: in_flight as usize,
        failure_backoff: Arc::new(Mutex::new(FailureBackoff::new(args.max_backoff))),
        meter,
    };
    runner.run(&shutdown).await;
    // answers are sent before the stream ends, because the gateway then requeues unanswered jobs
    let _ = events.send(AnswerEvent::End);
    let stats = answers.await?;
    over.cancel();
    let refused = intake.await?;
    shutdown.unless_now(handler.close()).await;
    stats.log(started.elapsed());
    match refused {
        Err(line) => Err(Failure::new(Exit::Failure, line).into()),
        Ok(()) if shutdown.now.is_cancelled() => Ok(Exit::Interrupted),
        Ok(()) => Ok(Exit::of_work(stats.done, stats.retried + stats.dropped + stats.late)),
    }
}

fn worker_handler(args: &Args, shutdown: &Shutdown) -> Result<WorkerHandler, Failure> {
    let stop = shutdown.draining.clone();
    if matches!(args.handler, None | Some(HandlerSpec::Print)) {
        stdout::check()?;
    }
    let Some(spec) = &args.handler else {
        return Ok(WorkerHandler::PrintAndPause(PrintAndPause::new(args.n.clone(), args.p, stop)));
    };
    let options = worker_flags::handler_options(
        &args.stream,
        &args.group,
        args.handler_timeout,
        Vec::new(),
        Default::default(),
        shutdown,
    );
    let options = HandlerOptions { output: PrintOutput::Body, ..options };
    spec.build(&options)
        .map(|handler| WorkerHandler::Handler(Box::new(handler)))
        .map_err(|e| Failure::new(Exit::Usage, e))
}

/// Runs the handler on received jobs.
struct JobRunner {
    handler: Arc<WorkerHandler>,
    jobs: mpsc::Receiver<Vec<ReceivedJob>>,
    events: mpsc::UnboundedSender<AnswerEvent>,
    running: JoinSet<()>,
    /// The most concurrent tasks.
    max_tasks: usize,
    /// The most jobs that may wait: no more are read beyond it, whatever the gateway sends.
    max_waiting: usize,
    failure_backoff: Arc<Mutex<FailureBackoff>>,
    meter: Option<Arc<JobMeter>>,
}

impl JobRunner {
    /// Runs jobs until the stream ends for good or shutdown begins; then waits for running ones, or
    /// aborts them.
    async fn run(mut self, shutdown: &Shutdown) {
        let (mut waiting, mut more_comes) = (VecDeque::new(), true);
        loop {
            let draining = shutdown.draining.is_cancelled();
            while !draining && self.running.len() < self.max_tasks && !waiting.is_empty() {
                let most = if self.handler.batch_size() > 1 { waiting.len() } else { 1 };
                self.begin(waiting.drain(..most).collect(), shutdown);
            }
            if self.running.is_empty() && (draining || !more_comes) {
                return;
            }
            tokio::select! {
                biased;
                () = shutdown.now.cancelled() => return,
                Some(_) = self.running.join_next() => {}
                more = self.jobs.recv(), if more_comes && !draining && waiting.len() < self.max_waiting => match more {
                    Some(more) => waiting.extend(more),
                    None => more_comes = false,
                },
                () = shutdown.draining.cancelled(), if !draining => {}
            }
        }
    }

    fn begin(&mut self, jobs: Vec<ReceivedJob>, shutdown: &Shutdown) {
        let (handler, events, failure_backoff) =
            (self.handler.clone(), self.events.clone(), self.failure_backoff.clone());
        let (ending, meter) = (shutdown.draining.clone(), self.meter.clone());
        self.running.spawn(async move {
            let split = |job: ReceivedJob| ((job.token, job.message.id, job.message.attempts), job.message);
            let (jobs, messages): (Vec<_>, Vec<_>) = jobs.into_iter().map(split).unzip();
            let run = meter.map(|meter| {
                meter.work.received(messages.iter().map(|message: &Message| message.attempts));
                meter.work.begin(&messages)
            });
            let verdicts = handler.handle_batch(messages).await;
            run.iter().for_each(HandlerRun::ended);
            let pause = failure_backoff.lock().unwrap_or_else(PoisonError::into_inner).after(&verdicts, Instant::now());
            if let Some(pause) = pause {
                let shown = std::time::Duration::from_secs(pause.as_secs_f64().ceil() as u64);
                tracing::warn!("jobs fail one after the other; pausing for {}", humantime::format_duration(shown));
                // without an answer the gateway hands out no other job in its place
                let _ = timeout(pause, ending.cancelled()).await;
            }
            for ((token, id, attempts), verdict) in jobs.into_iter().zip(verdicts) {
                match &verdict {
                    Verdict::Retry { why, .. } | Verdict::Unanswered { why, .. } => {
                        tracing::warn!(%id, attempts, "failed: {why}");
                    }
                    Verdict::Unavailable { why, .. } => tracing::warn!(%id, attempts, "not tried: {why}"),
                    Verdict::Drop { why } => tracing::warn!(%id, attempts, "given up: {why}"),
                    Verdict::Done(_) | Verdict::Release => {}
                }
                // the receiver outlives this task
                let _ = events.send(AnswerEvent::Verdict(token, verdict));
            }
        });
    }
}

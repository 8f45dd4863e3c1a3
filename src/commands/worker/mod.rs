//! `mqueue worker`: jobs from a gateway, over HTTP.
//!
//! ```text
//!  gateway ══ a stream of jobs ══▶ intake ──▶ run: as many at once as wanted ──▶ answers ══ POST /jobs/done, retry, drop, touch ══▶ gateway
//! ```
//!
//! A job is the gateway's until it has said yes to its answer. While any is here the gateway hears of it, so that it knows that
//! we are alive; an answer that comes too late is said to be, and the job comes again.

mod answers;
pub(crate) mod args;
mod intake;
mod patience;
mod queue;
mod say;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::answers::{Answers, Note};
use self::intake::Work;
use self::patience::Patience;
use self::queue::Queue;
use self::say::Say;
use super::common::exit::{Exit, Failure};
use super::common::stdout;
use super::common::worker_flags;
use crate::commands::worker::args::Args;
use mqueue::handler::{AnyHandler, Handler, HandlerOptions, HandlerSpec, PipeHandler, PrintOutput, Verdict};
use mqueue::proto::Message;
use mqueue::shutdown::Shutdown;

/// Jobs at once for handlers that take batches.
const BATCH_IN_FLIGHT: u32 = 500;

/// What is done with a job.
#[derive(Debug)]
enum Doing {
    Say(Say),
    Handler(AnyHandler),
}

impl Handler for Doing {
    async fn handle(&self, message: Message) -> Verdict {
        match self {
            Self::Say(say) => say.handle(message).await,
            Self::Handler(handler) => handler.handle(message).await,
        }
    }

    fn batch_size(&self) -> usize {
        match self {
            Self::Say(say) => say.batch_size(),
            Self::Handler(handler) => handler.batch_size(),
        }
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        match self {
            Self::Say(say) => say.handle_batch(messages).await,
            Self::Handler(handler) => handler.handle_batch(messages).await,
        }
    }

    async fn close(&self) {
        match self {
            Self::Say(say) => say.close().await,
            Self::Handler(handler) => handler.close().await,
        }
    }
}

/// Runs the command to its end.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::on_signals(args.grace)?;
    let doing = Arc::new(doing(&args, &shutdown)?);
    let batch = doing.batch_size();
    let in_flight = args.in_flight.unwrap_or(match args.handler {
        Some(HandlerSpec::Pipe(_)) => PipeHandler::AT_ONCE,
        _ if batch > 1 => BATCH_IN_FLIGHT,
        _ => 1,
    });
    let queue = Arc::new(Queue::new(&args, in_flight)?);
    let (notes, noted) = mpsc::unbounded_channel();
    let answers = tokio::spawn(Answers::new(queue.clone(), noted, args.deadline, args.count, shutdown.clone()).run());
    let (work, works) = mpsc::channel(1);
    let over = CancellationToken::new();
    let intake = tokio::spawn(intake::run(queue, work, notes.clone(), over.clone(), shutdown.draining.clone()));
    let started = Instant::now();
    let hands = Hands {
        doing: doing.clone(),
        works,
        notes: notes.clone(),
        running: JoinSet::new(),
        most: if batch > 1 { 1 } else { in_flight as usize },
        room: in_flight as usize,
        patience: Arc::new(Mutex::new(Patience::new(args.max_backoff))),
    };
    hands.work(&shutdown).await;
    // the answers are said before the stream ends, with which the gateway takes back what has none
    let _ = notes.send(Note::End);
    let tally = answers.await?;
    over.cancel();
    let refused = intake.await?;
    shutdown.unless_now(doing.close()).await;
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(
        "{} done, {} retried, {} dropped, {} too late, in {seconds:.1} s",
        tally.done,
        tally.retried,
        tally.dropped,
        tally.late
    );
    match refused {
        Err(line) => Err(Failure::new(Exit::Failure, line).into()),
        Ok(()) if shutdown.now.is_cancelled() => Ok(Exit::Interrupted),
        Ok(()) => Ok(Exit::of_work(tally.done, tally.retried + tally.dropped + tally.late)),
    }
}

fn doing(args: &Args, shutdown: &Shutdown) -> Result<Doing, Failure> {
    let stop = shutdown.draining.clone();
    if matches!(args.handler, None | Some(HandlerSpec::Print)) {
        stdout::check()?;
    }
    let Some(spec) = &args.handler else {
        return Ok(Doing::Say(Say::new(args.n.clone(), args.p, stop)));
    };
    let options = worker_flags::handler_options(&args.stream, &args.group, args.handler_timeout, Vec::new(), shutdown);
    let options = HandlerOptions { output: PrintOutput::Body, ..options };
    spec.build(&options).map(Doing::Handler).map_err(|e| Failure::new(Exit::Usage, e))
}

/// Those who do the work.
struct Hands {
    doing: Arc<Doing>,
    works: mpsc::Receiver<Vec<Work>>,
    notes: mpsc::UnboundedSender<Note>,
    running: JoinSet<()>,
    /// Tasks at once.
    most: usize,
    /// Jobs that may wait: from here on no more are read, whatever the gateway sends.
    room: usize,
    patience: Arc<Mutex<Patience>>,
}

impl Hands {
    /// Does what comes, until no more comes or is to be begun; then waits for what runs, or gives it up.
    async fn work(mut self, shutdown: &Shutdown) {
        let (mut waiting, mut more_comes) = (VecDeque::new(), true);
        loop {
            let draining = shutdown.draining.is_cancelled();
            while !draining && self.running.len() < self.most && !waiting.is_empty() {
                let most = if self.doing.batch_size() > 1 { waiting.len() } else { 1 };
                self.begin(waiting.drain(..most).collect(), shutdown);
            }
            if self.running.is_empty() && (draining || !more_comes) {
                return;
            }
            tokio::select! {
                biased;
                () = shutdown.now.cancelled() => return,
                Some(_) = self.running.join_next() => {}
                more = self.works.recv(), if more_comes && !draining && waiting.len() < self.room => match more {
                    Some(more) => waiting.extend(more),
                    None => more_comes = false,
                },
                () = shutdown.draining.cancelled(), if !draining => {}
            }
        }
    }

    fn begin(&mut self, works: Vec<Work>, shutdown: &Shutdown) {
        let (doing, notes, patience) = (self.doing.clone(), self.notes.clone(), self.patience.clone());
        let ending = shutdown.draining.clone();
        self.running.spawn(async move {
            let named = |work: Work| ((work.token, work.message.id, work.message.attempts), work.message);
            let (jobs, messages): (Vec<_>, Vec<_>) = works.into_iter().map(named).unzip();
            let verdicts = doing.handle_batch(messages).await;
            let pause = patience.lock().unwrap_or_else(PoisonError::into_inner).after(&verdicts, Instant::now());
            if let Some(pause) = pause {
                let shown = std::time::Duration::from_secs(pause.as_secs_f64().ceil() as u64);
                tracing::warn!("jobs fail one after the other: the next one in {}", humantime::format_duration(shown));
                // as long as it is not answered the gateway gives no other in its place
                let _ = timeout(pause, ending.cancelled()).await;
            }
            for ((token, id, attempts), verdict) in jobs.into_iter().zip(verdicts) {
                match &verdict {
                    Verdict::Retry { why, .. } => tracing::warn!(%id, attempts, "failed: {why}"),
                    Verdict::Unavailable { why, .. } => tracing::warn!(%id, attempts, "not tried: {why}"),
                    Verdict::Drop { why } => tracing::warn!(%id, attempts, "given up: {why}"),
                    Verdict::Done(_) | Verdict::Release => {}
                }
                // who listens ends after this
                let _ = notes.send(Note::Verdict(token, verdict));
            }
        });
    }
}

//! Consumer × Handler: receives messages, runs the handler, and answers nsqd by the verdicts.
//!
//! ```text
//!  Consumer ─▶ up to `concurrency` tasks ─▶ Handler ─▶ Verdict ─▶ FIN │ REQ │ dead letter, then FIN
//! ```
//!
//! Every message takes the same path: the verdict, then everything that has to be safe before the
//! answer (a dead letter's OK), then the answer. If the process stops before the answer, nsqd
//! redelivers the message.

mod dead_letter;
pub mod idle;
mod max_tries;
mod meter;
mod outcome;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

pub use self::dead_letter::{DeadLetter, DeadLetterError, DeadLetters, Part};
#[doc(hidden)]
pub use self::idle::IdleTimer;
pub use self::max_tries::MaxTries;
pub use self::meter::{HandlerRun, WorkMeter, time_since};
pub use self::outcome::retry_delay;
use self::outcome::{FailurePolicy, Outcome, Processed, process};
use crate::client::{Consumer, Delivery, PublisherConfig};
use crate::handler::Handler;
use crate::proto::{InvalidName, TopicName};
use crate::shutdown::Shutdown;

/// The time limit for requeueing messages when the program must end now.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The configuration of a [`Worker`].
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use mqueue::worker::WorkerConfig;
///
/// let config = WorkerConfig::default()
///     .with_concurrency(4)
///     .with_max_attempts(3)
///     .with_retry_delay(Duration::from_secs(10))
///     .with_dead_letters("foo.failed".parse()?);
/// assert_eq!((config.concurrency, config.max_attempts), (4, 3));
/// # Ok::<(), mqueue::proto::InvalidName>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// The number of handlers that run at once. A handler that takes batches runs one at a time.
    /// Default: 10.
    pub concurrency: usize,
    /// The time after which the worker ends if nothing is received or in flight. Default: never.
    pub idle_timeout: Option<Duration>,
    /// The number of messages after which the worker ends; it receives no more than that. Default:
    /// no limit.
    pub count: Option<u64>,
    /// The number of tries after which a message becomes a dead letter, whether it failed or its
    /// consumer died; 0 for never. A delivery that was requeued untried is not a try. Default: 5.
    pub max_attempts: u16,
    /// The delay of a failed message, multiplied by its tries (at most 15 minutes). Default: 5 s.
    pub retry_delay: Duration,
    /// The topic of the dead letters, on the nsqd that delivered the message. Default:
    /// [`DeadLetter::stream_of`] the topic.
    pub dead_letters: Option<TopicName>,
    /// Settings for publishing dead letters. Default: a time limit of 10 s.
    pub publisher: PublisherConfig,
}

impl Default for WorkerConfig {
    /// 10 handlers at once, 5 tries with growing delays from 5 s, no end.
    fn default() -> Self {
        Self {
            concurrency: 10,
            idle_timeout: None,
            count: None,
            max_attempts: 5,
            retry_delay: Duration::from_secs(5),
            dead_letters: None,
            publisher: PublisherConfig { timeout: Duration::from_secs(10), ..PublisherConfig::default() },
        }
    }
}

impl WorkerConfig {
    /// Sets the number of handlers that run at once.
    #[must_use]
    pub fn with_concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers;
        self
    }

    /// Sets the idle time after which the worker ends; `None` for never.
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets the number of messages after which the worker ends; `None` for no limit.
    #[must_use]
    pub fn with_count(mut self, count: Option<u64>) -> Self {
        self.count = count;
        self
    }

    /// Sets the number of tries after which a message becomes a dead letter; 0 for never.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u16) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the delay of a failed message, which is multiplied by its tries.
    #[must_use]
    pub fn with_retry_delay(mut self, delay: Duration) -> Self {
        self.retry_delay = delay;
        self
    }

    /// Sets the topic of the dead letters.
    #[must_use]
    pub fn with_dead_letters(mut self, topic: TopicName) -> Self {
        self.dead_letters = Some(topic);
        self
    }

    /// Sets the settings for publishing dead letters.
    #[must_use]
    pub fn with_publisher(mut self, publisher: PublisherConfig) -> Self {
        self.publisher = publisher;
        self
    }
}

/// The reason why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Nothing was received or in flight for the idle timeout.
    Idle,
    /// The configured number of messages has left the queue.
    Counted,
    /// The worker was told to drain, and has finished its running handlers.
    Drained,
    /// The worker was told to end now, and has requeued the messages of running handlers.
    Aborted,
    /// No nsqd was reachable for the idle timeout.
    Unreachable,
}

/// Counts of a worker, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Messages handled successfully (FIN).
    pub done: u64,
    /// Messages that failed and were requeued.
    pub retried: u64,
    /// Messages that became dead letters (FIN).
    pub dead: u64,
    /// Messages requeued without a result.
    pub released: u64,
}

impl WorkerStats {
    fn left_the_queue(&self) -> u64 {
        self.done + self.dead
    }

    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.done += 1,
            Outcome::Dead => self.dead += 1,
            Outcome::Retry(_) | Outcome::RequeueUntried(_) => self.retried += 1,
            Outcome::Release => self.released += 1,
        }
    }
}

impl std::ops::AddAssign for WorkerStats {
    fn add_assign(&mut self, more: Self) {
        let Self { done, retried, dead, released } = more;
        self.done += done;
        self.retried += retried;
        self.dead += dead;
        self.released += released;
    }
}

/// The state of a worker, for status lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Messages in flight.
    pub in_flight: u32,
    /// The counts so far.
    pub stats: WorkerStats,
    /// The time until the worker ends idle, if no message arrives.
    pub idle_in: Option<Duration>,
    /// True while the worker drains: it receives nothing new and finishes its running handlers.
    pub stopping: bool,
}

/// A function that the worker's own loop calls with a [`Snapshot`], which shows that the loop is
/// alive.
pub type ProgressHook = Box<dyn FnMut(Snapshot) + Send>;

/// The stage of a worker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Working,
    /// Stopping for this reason: running handlers finish, and messages that still arrive are
    /// requeued, since handling them may take long.
    Stopping(StopReason),
}

/// A worker, which runs a [`Handler`] for each message of a [`Consumer`] until it is idle, has
/// handled enough messages, or is told to stop.
///
/// A failed message is requeued with a growing delay; after [`WorkerConfig::max_attempts`] tries it
/// becomes a dead letter. The FIN of a dead letter is sent after its publish is acknowledged.
///
/// # Examples
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use mqueue::client::{Consumer, ConsumerConfig};
/// use mqueue::handler::Verdict;
/// use mqueue::proto::Message;
/// use mqueue::shutdown::Shutdown;
/// use mqueue::worker::{Worker, WorkerConfig};
///
/// let config = ConsumerConfig::new("foo".parse()?, "archive".parse()?);
/// let consumer = Consumer::connect(config.with_nsqd("127.0.0.1:4150".parse()?)).await?;
/// let handler = |message: Message| async move {
///     println!("{} bytes", message.body.len());
///     Verdict::Done(None)
/// };
/// let shutdown = Shutdown::on_signals(Duration::from_secs(30))?; // drains on Ctrl-C
/// let worker = Worker::new(consumer, Arc::new(handler), WorkerConfig::default())?;
/// let (reason, stats) = worker.run(&shutdown).await;
/// println!("{reason:?}: {} done", stats.done);
/// # Ok(())
/// # }
/// ```
pub struct Worker<H> {
    consumer: Consumer,
    handler: Arc<H>,
    config: WorkerConfig,
    policy: Arc<FailurePolicy>,
    running: JoinSet<Vec<Processed>>,
    stats: WorkerStats,
    stage: Stage,
    idle: Option<IdleTimer>,
    reset_idle: Arc<Notify>,
    progress_hook: Option<(Interval, ProgressHook)>,
    meter: Option<Arc<WorkMeter>>,
}

impl<H: Handler> Worker<H> {
    /// A worker for this consumer and handler.
    ///
    /// # Errors
    /// [`WorkerConfig::dead_letters`] is not set, and the topic's name is too long for the default.
    pub fn new(consumer: Consumer, handler: Arc<H>, config: WorkerConfig) -> Result<Self, InvalidName> {
        let policy = FailurePolicy::new(consumer.topic(), consumer.channel(), &config)?;
        Ok(Self {
            consumer,
            handler,
            policy: Arc::new(policy),
            config,
            running: JoinSet::new(),
            stats: WorkerStats::default(),
            stage: Stage::Working,
            idle: None,
            reset_idle: Arc::default(),
            progress_hook: None,
            meter: None,
        })
    }

    /// A notification that restarts the idle timeout, as a message would. A notification that
    /// arrives while the worker is stopping stays pending for the caller.
    pub fn reset_idle(&self) -> Arc<Notify> {
        self.reset_idle.clone()
    }

    /// Calls `progress_hook` at this interval while the worker runs.
    pub fn with_progress_hook(mut self, every: Duration, progress_hook: ProgressHook) -> Self {
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.progress_hook = Some((interval, progress_hook));
        self
    }

    /// Counts messages and measures times in `meter`. Without a meter nothing is measured.
    pub fn with_meter(mut self, meter: Arc<WorkMeter>) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Runs to the end; returns the reason for ending and the counts.
    ///
    /// # Cancel safety
    /// Dropping the future stops the running handlers and requeues their messages.
    pub async fn run(mut self, shutdown: &Shutdown) -> (StopReason, WorkerStats) {
        self.limit_in_flight();
        let allowed = self.config.idle_timeout;
        self.idle = allowed.map(|allowed| IdleTimer::new(allowed, Instant::now()));
        let mut idle = std::pin::pin!(sleep(allowed.unwrap_or_default()));
        let (reset_idle, mut progress_hook) = (self.reset_idle.clone(), self.progress_hook.take());
        loop {
            let room = self.room();
            tokio::select! {
                biased;
                () = shutdown.now.cancelled() => return (StopReason::Aborted, self.release_all().await),
                () = shutdown.draining.cancelled(), if self.stage == Stage::Working => {
                    self.stop(Stage::Stopping(StopReason::Drained));
                }
                Some(processed) = self.running.join_next(), if !self.running.is_empty() => {
                    // a task fails only if it was aborted, and then its dropped deliveries were
                    // requeued
                    self.answer(processed.unwrap_or_default());
                }
                batch = self.consumer.recv_many(room), if room > 0 => {
                    if batch.is_empty() {
                        return (self.stop_reason(), self.stats);
                    }
                    self.take(batch);
                }
                () = reset_idle.notified(), if self.stage == Stage::Working => self.note_activity(),
                () = next_tick(&mut progress_hook) => {
                    let snapshot = self.snapshot();
                    progress_hook.iter_mut().for_each(|(_, tell)| tell(snapshot));
                }
                () = &mut idle, if self.idle.is_some() && self.stage == Stage::Working => match self.next_idle_check() {
                    Some(again) => idle.as_mut().reset(again),
                    None => self.stop(Stage::Stopping(self.idle_stop_reason())),
                },
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let idle = self.idle.filter(|_| self.running.is_empty());
        Snapshot {
            in_flight: self.consumer.health().in_flight,
            stats: self.stats,
            idle_in: idle.map(|idle| idle.left(Instant::now())),
            stopping: self.stage != Stage::Working,
        }
    }

    /// The number of further messages to receive.
    fn room(&self) -> usize {
        if matches!(self.stage, Stage::Stopping(_)) {
            return usize::MAX;
        }
        match self.handler.batch_size() {
            0 | 1 => self.config.concurrency.max(1).saturating_sub(self.running.len()),
            batch if self.running.is_empty() => batch,
            _ => 0,
        }
    }

    fn take(&mut self, batch: Vec<Delivery>) {
        self.note_activity();
        if matches!(self.stage, Stage::Stopping(_)) {
            self.count(WorkerStats { released: batch.len() as u64, ..WorkerStats::default() });
            return;
        }
        if self.handler.batch_size() > 1 {
            self.begin(batch);
            return;
        }
        for delivery in batch {
            self.begin(vec![delivery]);
        }
    }

    fn begin(&mut self, batch: Vec<Delivery>) {
        self.running.spawn(process(self.handler.clone(), batch, self.policy.clone(), self.meter.clone()));
    }

    fn count(&mut self, stats: WorkerStats) {
        self.stats += stats;
        self.meter.iter().for_each(|meter| meter.count(stats));
    }

    fn answer(&mut self, processed: Vec<Processed>) {
        self.note_activity();
        let mut stats = WorkerStats::default();
        processed.iter().for_each(|processed| stats.add(processed.outcome));
        self.count(stats);
        if let Some(meter) = &self.meter {
            let done = processed.iter().filter(|processed| processed.outcome == Outcome::Done);
            meter.finished(done.map(|processed| processed.delivery.message().timestamp));
        }
        // before the answers, which make room for more messages
        self.limit_in_flight();
        for Processed { delivery, outcome } in processed {
            match outcome {
                Outcome::Done | Outcome::Dead => delivery.finish(),
                Outcome::Retry(delay) => delivery.requeue(delay),
                Outcome::RequeueUntried(delay) => delivery.requeue_untried(delay),
                Outcome::Release => delivery.release(),
            }
        }
        if self.remaining() == 0 && self.stage == Stage::Working {
            self.stop(Stage::Stopping(StopReason::Counted));
        }
    }

    /// The number of messages that still have to leave the queue.
    fn remaining(&self) -> u64 {
        self.config.count.map_or(u64::MAX, |count| count.saturating_sub(self.stats.left_the_queue()))
    }

    /// Limits the messages in flight to those still wanted.
    fn limit_in_flight(&self) {
        if self.config.count.is_some() {
            let remaining = u32::try_from(self.remaining()).unwrap_or(u32::MAX);
            self.consumer.set_max_in_flight(self.consumer.max_in_flight().min(remaining));
        }
    }

    fn stop(&mut self, stage: Stage) {
        self.stage = stage;
        self.consumer.stop();
    }

    fn note_activity(&mut self) {
        self.idle.iter_mut().for_each(|idle| idle.reset(Instant::now()));
    }

    /// The time of the next idle check; `None` if the idle timeout has passed, or there is none.
    fn next_idle_check(&mut self) -> Option<Instant> {
        let health = self.consumer.health();
        // after a pause there is room for one message: if none arrives, none is queued
        let busy = !self.running.is_empty() || health.in_flight > 0 || health.paused;
        self.idle.as_mut()?.check(busy, Instant::now())
    }

    fn idle_stop_reason(&self) -> StopReason {
        let health = self.consumer.health();
        let cut_off = health.known > 0 && health.connected == 0;
        if cut_off { StopReason::Unreachable } else { StopReason::Idle }
    }

    fn stop_reason(&self) -> StopReason {
        match self.stage {
            Stage::Stopping(reason) => reason,
            // the consumer was stopped through its `Control`
            Stage::Working => StopReason::Drained,
        }
    }

    /// Stops the running handlers and requeues all messages.
    async fn release_all(mut self) -> WorkerStats {
        self.consumer.stop();
        self.running.abort_all();
        let given_back = async {
            while let Some(finished) = self.running.join_next().await {
                match finished {
                    Ok(processed) => self.answer(processed),
                    Err(_) => self.count(WorkerStats { released: 1, ..WorkerStats::default() }),
                }
            }
            while let Some(delivery) = self.consumer.recv().await {
                delivery.release();
                self.count(WorkerStats { released: 1, ..WorkerStats::default() });
            }
        };
        if timeout(RELEASE_TIMEOUT, given_back).await.is_err() {
            tracing::warn!(
                "not all messages could be requeued in time; nsqd requeues the rest after their message timeout"
            );
        }
        self.stats
    }
}

/// Waits for the next call of the progress hook; forever if there is none.
async fn next_tick(progress_hook: &mut Option<(Interval, ProgressHook)>) {
    match progress_hook {
        Some((interval, _)) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

impl<H> std::fmt::Debug for Worker<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { config, stage, stats, .. } = self;
        f.debug_struct("Worker")
            .field("config", config)
            .field("stage", stage)
            .field("stats", stats)
            .finish_non_exhaustive()
    }
}

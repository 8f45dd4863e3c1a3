//! Consumer × Handler: takes messages, has them handled, and answers nsqd by the verdicts.
//!
//! ```text
//!  Consumer ─▶ up to `concurrency` tasks ─▶ Handler ─▶ Verdict ─▶ FIN │ REQ │ dead letter, then FIN
//! ```
//!
//! A message's way out is always the same: verdict, then whatever must be safe before the answer (a dead letter's OK), then
//! the answer. Stopped anywhere before it, the message is still nsqd's and comes again.

mod dead_letter;
pub mod idle;
mod max_tries;
mod outcome;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

pub use self::dead_letter::DeadLetters;
pub use self::dead_letter::{DeadLetter, Part};
#[doc(hidden)]
pub use self::idle::IdleTimer;
pub use self::max_tries::MaxTries;
pub use self::outcome::retry_delay;
use self::outcome::{FailurePolicy, Outcome, Processed, process};
use crate::client::{Consumer, Delivery, PublisherConfig};
use crate::handler::Handler;
use crate::proto::{InvalidName, TopicName};
use crate::shutdown::Shutdown;

/// How long giving messages back may take when the program is to end now.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a worker works, and when it ends by itself.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Handlers running at once. A handler that takes batches runs one at a time.
    pub concurrency: usize,
    /// Ends when for this long nothing was received and nothing was in flight.
    pub idle_timeout: Option<Duration>,
    /// Ends when this many messages have left the queue, and takes no more than that.
    pub count: Option<u64>,
    /// Tries after which a message goes to the dead letters, whether it failed or its consumer died; 0 for never. What was given back
    /// untried is no try.
    pub max_attempts: u16,
    /// How long a message that failed waits before it comes again, times its attempts (at the most 15 minutes).
    pub retry_delay: Duration,
    /// Where dead letters go, on the nsqd that the message came from; [`DeadLetter::stream_of`] the topic if there is none.
    pub dead_letters: Option<TopicName>,
    /// How dead letters are published.
    pub publisher: PublisherConfig,
}

impl Default for WorkerConfig {
    /// 10 handlers at once, 5 attempts 5 s apart and more, no end.
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

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Nothing came for the idle timeout.
    Idle,
    /// As many messages as wanted have left the queue.
    Counted,
    /// It was asked to, and finished what ran.
    Drained,
    /// It was asked to end now, and gave back what ran.
    Aborted,
    /// For the idle timeout no nsqd could be had.
    Unreachable,
}

/// What a worker did, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Handled, and out of the queue.
    pub done: u64,
    /// Failed, to come again.
    pub retried: u64,
    /// Gone to the dead letters, and out of the queue.
    pub dead: u64,
    /// Given back without having been tried to the end.
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

/// How a worker is doing, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Messages in flight.
    pub in_flight: u32,
    /// What was done so far.
    pub stats: WorkerStats,
    /// When it will end for being idle, if nothing comes.
    pub idle_in: Option<Duration>,
    /// It takes nothing new, and finishes.
    pub stopping: bool,
}

/// Called with a [`Snapshot`] from the worker's own loop, so that it shows that the loop turns.
pub type ProgressHook = Box<dyn FnMut(Snapshot) + Send>;

/// What the worker is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Working,
    /// Stopping, for this reason: what runs is finished, and what still arrives goes back, for it might take long.
    Stopping(StopReason),
}

/// Handles a consumer's messages until it is idle, has enough, or is asked to stop.
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
}

impl<H: Handler> Worker<H> {
    /// A worker for this consumer and handler. Fails if the topic's name is too long for its dead letters to be called after it.
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
        })
    }

    /// Notifying this puts the idle timeout off, as a message would. Once the worker is stopping it keeps the notification, for
    /// whoever wants to know of it.
    pub fn reset_idle(&self) -> Arc<Notify> {
        self.reset_idle.clone()
    }

    /// Has `progress_hook` called at this interval for as long as the worker runs.
    pub fn with_progress_hook(mut self, every: Duration, progress_hook: ProgressHook) -> Self {
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.progress_hook = Some((interval, progress_hook));
        self
    }

    /// Runs to the end: says why it ended, and what was done.
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
                    // a task only fails if it was aborted, and its messages went back as it was dropped
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

    /// How many more messages can be taken.
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
            self.stats.released += batch.len() as u64;
            return;
        }
        if self.handler.batch_size() > 1 {
            self.running.spawn(process(self.handler.clone(), batch, self.policy.clone()));
            return;
        }
        for delivery in batch {
            self.running.spawn(process(self.handler.clone(), vec![delivery], self.policy.clone()));
        }
    }

    fn answer(&mut self, processed: Vec<Processed>) {
        self.note_activity();
        for Processed { outcome, .. } in &processed {
            self.stats.add(*outcome);
        }
        // before the answers, which make room for more
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

    /// How many messages are still to leave the queue.
    fn remaining(&self) -> u64 {
        self.config.count.map_or(u64::MAX, |count| count.saturating_sub(self.stats.left_the_queue()))
    }

    /// Has no more in flight than are still wanted.
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

    /// When to look again whether it is idle; `None` if it is, or need not be.
    fn next_idle_check(&mut self) -> Option<Instant> {
        let health = self.consumer.health();
        // after a pause there is room for one message: if none comes, none waits
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
            // somebody else stopped the consumer
            Stage::Working => StopReason::Drained,
        }
    }

    /// Ends what runs, and gives all messages back.
    async fn release_all(mut self) -> WorkerStats {
        self.consumer.stop();
        self.running.abort_all();
        let given_back = async {
            while let Some(finished) = self.running.join_next().await {
                match finished {
                    Ok(processed) => self.answer(processed),
                    Err(_) => self.stats.released += 1,
                }
            }
            while let Some(delivery) = self.consumer.recv().await {
                delivery.release();
                self.stats.released += 1;
            }
        };
        if timeout(RELEASE_TIMEOUT, given_back).await.is_err() {
            tracing::warn!("not all messages could be given back: nsqd requeues them when their time is up");
        }
        self.stats
    }
}

/// Waits for the next pulse; for ever if there is none.
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

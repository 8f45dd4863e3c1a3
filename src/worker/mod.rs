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
mod settle;
mod tries;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

pub use self::dead_letter::DeadLetters;
pub use self::dead_letter::{DeadLetter, Part};
#[doc(hidden)]
pub use self::idle::Idle;
pub use self::settle::retry_delay;
use self::settle::{Rules, Settled, Way, settle};
pub use self::tries::MaxTries;
use crate::client::{Consumer, Delivery, PublisherConfig};
use crate::handler::Handler;
use crate::proto::{InvalidName, TopicName};
use crate::shutdown::Shutdown;

/// How long giving messages back may take when the program is to end now.
const GIVE_BACK: Duration = Duration::from_secs(1);

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
pub enum Ended {
    /// Nothing came for the idle timeout.
    Idle,
    /// As many messages as wanted have left the queue.
    Counted,
    /// It was asked to, and finished what ran.
    Drained,
    /// It was asked to end now, and gave back what ran.
    Now,
    /// For the idle timeout no nsqd could be had.
    Unreachable,
}

/// What a worker did, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Handled, and out of the queue.
    pub done: u64,
    /// Failed, to come again.
    pub retried: u64,
    /// Gone to the dead letters, and out of the queue.
    pub dead: u64,
    /// Given back without having been tried to the end.
    pub released: u64,
}

impl Tally {
    fn left_the_queue(&self) -> u64 {
        self.done + self.dead
    }

    fn add(&mut self, way: Way) {
        match way {
            Way::Done => self.done += 1,
            Way::Dead => self.dead += 1,
            Way::Retry(_) | Way::PutOff(_) => self.retried += 1,
            Way::Release => self.released += 1,
        }
    }
}

impl std::ops::AddAssign for Tally {
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
    pub tally: Tally,
    /// When it will end for being idle, if nothing comes.
    pub idle_in: Option<Duration>,
    /// It takes nothing new, and finishes.
    pub stopping: bool,
}

/// Called with a [`Snapshot`] from the worker's own loop, so that it shows that the loop turns.
pub type Pulse = Box<dyn FnMut(Snapshot) + Send>;

/// What the worker is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Working,
    /// Stopping, for this reason: what runs is finished, and what still arrives goes back, for it might take long.
    Stopping(Ended),
}

/// Handles a consumer's messages until it is idle, has enough, or is asked to stop.
pub struct Worker<H> {
    consumer: Consumer,
    handler: Arc<H>,
    config: WorkerConfig,
    rules: Arc<Rules>,
    running: JoinSet<Vec<Settled>>,
    tally: Tally,
    stage: Stage,
    idle: Option<Idle>,
    nudge: Arc<Notify>,
    pulse: Option<(Interval, Pulse)>,
}

impl<H: Handler> Worker<H> {
    /// A worker for this consumer and handler. Fails if the topic's name is too long for its dead letters to be called after it.
    pub fn new(consumer: Consumer, handler: Arc<H>, config: WorkerConfig) -> Result<Self, InvalidName> {
        let rules = Rules::new(consumer.topic(), consumer.channel(), &config)?;
        Ok(Self {
            consumer,
            handler,
            rules: Arc::new(rules),
            config,
            running: JoinSet::new(),
            tally: Tally::default(),
            stage: Stage::Working,
            idle: None,
            nudge: Arc::default(),
            pulse: None,
        })
    }

    /// Notifying this puts the idle timeout off, as a message would. Once the worker is stopping it keeps the notification, for
    /// whoever wants to know of it.
    pub fn nudge(&self) -> Arc<Notify> {
        self.nudge.clone()
    }

    /// Has `pulse` called at this interval for as long as the worker runs.
    pub fn with_pulse(mut self, every: Duration, pulse: Pulse) -> Self {
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.pulse = Some((interval, pulse));
        self
    }

    /// Runs to the end: says why it ended, and what was done.
    pub async fn run(mut self, shutdown: &Shutdown) -> (Ended, Tally) {
        self.limit();
        let allowed = self.config.idle_timeout;
        self.idle = allowed.map(|allowed| Idle::new(allowed, Instant::now()));
        let mut idle = std::pin::pin!(sleep(allowed.unwrap_or_default()));
        let (nudge, mut pulse) = (self.nudge.clone(), self.pulse.take());
        loop {
            let room = self.room();
            tokio::select! {
                biased;
                () = shutdown.now.cancelled() => return (Ended::Now, self.give_up().await),
                () = shutdown.draining.cancelled(), if self.stage == Stage::Working => {
                    self.stop(Stage::Stopping(Ended::Drained));
                }
                Some(settled) = self.running.join_next(), if !self.running.is_empty() => {
                    // a task only fails if it was aborted, and its messages went back as it was dropped
                    self.answer(settled.unwrap_or_default());
                }
                batch = self.consumer.recv_many(room), if room > 0 => {
                    if batch.is_empty() {
                        return (self.ended(), self.tally);
                    }
                    self.take(batch);
                }
                () = nudge.notified(), if self.stage == Stage::Working => self.active(),
                () = beat(&mut pulse) => {
                    let snapshot = self.snapshot();
                    pulse.iter_mut().for_each(|(_, tell)| tell(snapshot));
                }
                () = &mut idle, if self.idle.is_some() && self.stage == Stage::Working => match self.look_idle() {
                    Some(again) => idle.as_mut().reset(again),
                    None => self.stop(Stage::Stopping(self.why_idle())),
                },
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let idle = self.idle.filter(|_| self.running.is_empty());
        Snapshot {
            in_flight: self.consumer.health().in_flight,
            tally: self.tally,
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
        self.active();
        if matches!(self.stage, Stage::Stopping(_)) {
            self.tally.released += batch.len() as u64;
            return;
        }
        if self.handler.batch_size() > 1 {
            self.running.spawn(settle(self.handler.clone(), batch, self.rules.clone()));
            return;
        }
        for delivery in batch {
            self.running.spawn(settle(self.handler.clone(), vec![delivery], self.rules.clone()));
        }
    }

    fn answer(&mut self, settled: Vec<Settled>) {
        self.active();
        for Settled { way, .. } in &settled {
            self.tally.add(*way);
        }
        // before the answers, which make room for more
        self.limit();
        for Settled { delivery, way } in settled {
            match way {
                Way::Done | Way::Dead => delivery.finish(),
                Way::Retry(delay) => delivery.requeue(delay),
                Way::PutOff(delay) => delivery.put_off(delay),
                Way::Release => delivery.release(),
            }
        }
        if self.missing() == 0 && self.stage == Stage::Working {
            self.stop(Stage::Stopping(Ended::Counted));
        }
    }

    /// How many messages are still to leave the queue.
    fn missing(&self) -> u64 {
        self.config.count.map_or(u64::MAX, |count| count.saturating_sub(self.tally.left_the_queue()))
    }

    /// Has no more in flight than are still wanted.
    fn limit(&self) {
        if self.config.count.is_some() {
            let missing = u32::try_from(self.missing()).unwrap_or(u32::MAX);
            self.consumer.set_max_in_flight(self.consumer.max_in_flight().min(missing));
        }
    }

    fn stop(&mut self, stage: Stage) {
        self.stage = stage;
        self.consumer.stop();
    }

    fn active(&mut self) {
        self.idle.iter_mut().for_each(|idle| idle.put_off(Instant::now()));
    }

    /// When to look again whether it is idle; `None` if it is, or need not be.
    fn look_idle(&mut self) -> Option<Instant> {
        let health = self.consumer.health();
        // after a pause there is room for one message: if none comes, none waits
        let busy = !self.running.is_empty() || health.in_flight > 0 || health.paused;
        self.idle.as_mut()?.look(busy, Instant::now())
    }

    fn why_idle(&self) -> Ended {
        let health = self.consumer.health();
        let cut_off = health.known > 0 && health.connected == 0;
        if cut_off { Ended::Unreachable } else { Ended::Idle }
    }

    fn ended(&self) -> Ended {
        match self.stage {
            Stage::Stopping(ended) => ended,
            // somebody else stopped the consumer
            Stage::Working => Ended::Drained,
        }
    }

    /// Ends what runs, and gives all messages back.
    async fn give_up(mut self) -> Tally {
        self.consumer.stop();
        self.running.abort_all();
        let given_back = async {
            while let Some(ended) = self.running.join_next().await {
                match ended {
                    Ok(settled) => self.answer(settled),
                    Err(_) => self.tally.released += 1,
                }
            }
            while let Some(delivery) = self.consumer.recv().await {
                delivery.release();
                self.tally.released += 1;
            }
        };
        if timeout(GIVE_BACK, given_back).await.is_err() {
            tracing::warn!("not all messages could be given back: nsqd requeues them when their time is up");
        }
        self.tally
    }
}

/// Waits for the next pulse; for ever if there is none.
async fn beat(pulse: &mut Option<(Interval, Pulse)>) {
    match pulse {
        Some((interval, _)) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

impl<H> std::fmt::Debug for Worker<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { config, stage, tally, .. } = self;
        f.debug_struct("Worker")
            .field("config", config)
            .field("stage", stage)
            .field("tally", tally)
            .finish_non_exhaustive()
    }
}

//! Consumer × Handler: takes messages, has them handled, and answers nsqd by the verdicts.
//!
//! ```text
//!  Consumer ─▶ up to `concurrency` tasks ─▶ Handler ─▶ Verdict ─▶ FIN │ REQ │ dead letter, then FIN
//! ```
//!
//! A message's way out is always the same: verdict, then whatever must be safe before the answer (a dead letter's OK), then
//! the answer. Stopped anywhere before it, the message is still nsqd's and comes again.

mod dead_letter;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub use self::dead_letter::DeadLetter;
pub use self::settle::Rules;
use self::settle::{Settled, Way, settle};
use crate::client::{Consumer, Delivery};
use crate::handler::Handler;
use crate::shutdown::Shutdown;

/// How long giving messages back may take when the program is to end now.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// When a worker ends by itself, and how much it does at once.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Handlers running at once. A handler that takes batches runs one at a time.
    pub concurrency: usize,
    /// The consumer's own `max_in_flight`.
    pub max_in_flight: u32,
    /// Ends when for this long nothing was received and nothing was in flight.
    pub idle_timeout: Option<Duration>,
    /// Ends when this many messages have left the queue, and takes no more than that.
    pub count: Option<u64>,
    /// What becomes of messages that fail.
    pub rules: Rules,
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
            Way::Retry(_) => self.retried += 1,
            Way::Release => self.released += 1,
        }
    }
}

/// What the worker is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Working,
    /// Stopping; what still arrives is handled.
    Finishing(Ended),
    /// Stopping; what still arrives goes back.
    GivingBack(Ended),
}

/// Handles a consumer's messages until it is idle, has enough, or is asked to stop.
#[derive(Debug)]
pub struct Worker<H> {
    handler: Arc<H>,
    config: WorkerConfig,
    rules: Arc<Rules>,
    running: JoinSet<Vec<Settled>>,
    tally: Tally,
    stage: Stage,
    last_active: Instant,
}

impl<H: Handler> Worker<H> {
    /// A worker for this handler.
    pub fn new(handler: H, config: WorkerConfig) -> Self {
        Self {
            handler: Arc::new(handler),
            rules: Arc::new(config.rules.clone()),
            config,
            running: JoinSet::new(),
            tally: Tally::default(),
            stage: Stage::Working,
            last_active: Instant::now(),
        }
    }

    /// Runs to the end: says why it ended, and what was done.
    pub async fn run(mut self, mut consumer: Consumer, shutdown: &Shutdown) -> (Ended, Tally) {
        self.limit(&consumer);
        self.last_active = Instant::now();
        let mut idle = std::pin::pin!(sleep(self.config.idle_timeout.unwrap_or_default()));
        let can_idle = self.config.idle_timeout.is_some();
        loop {
            let room = self.room();
            tokio::select! {
                biased;
                () = shutdown.now.cancelled() => return (Ended::Now, self.give_up(consumer).await),
                () = shutdown.draining.cancelled(), if self.stage == Stage::Working => {
                    self.stop(&consumer, Stage::GivingBack(Ended::Drained));
                }
                Some(settled) = self.running.join_next(), if !self.running.is_empty() => {
                    // a task only fails if it was aborted, and its messages went back as it was dropped
                    self.answer(settled.unwrap_or_default(), &consumer);
                }
                batch = consumer.recv_many(room), if room > 0 => {
                    if batch.is_empty() {
                        return (self.ended(), self.tally);
                    }
                    self.take(batch);
                }
                () = &mut idle, if can_idle && self.stage == Stage::Working => {
                    idle.as_mut().reset(self.check_idle(&consumer));
                }
            }
        }
    }

    /// How many more messages can be begun.
    fn room(&self) -> usize {
        match self.handler.batch_size() {
            0 | 1 => self.config.concurrency.max(1).saturating_sub(self.running.len()),
            batch if self.running.is_empty() => batch,
            _ => 0,
        }
    }

    fn take(&mut self, batch: Vec<Delivery>) {
        self.last_active = Instant::now();
        if matches!(self.stage, Stage::GivingBack(_)) {
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

    fn answer(&mut self, settled: Vec<Settled>, consumer: &Consumer) {
        self.last_active = Instant::now();
        for Settled { way, .. } in &settled {
            self.tally.add(*way);
        }
        // before the answers, which make room for more
        self.limit(consumer);
        for Settled { delivery, way } in settled {
            match way {
                Way::Done | Way::Dead => delivery.finish(),
                Way::Retry(delay) => delivery.requeue(delay),
                Way::Release => delivery.release(),
            }
        }
        if self.missing() == 0 && self.stage == Stage::Working {
            self.stop(consumer, Stage::GivingBack(Ended::Counted));
        }
    }

    /// How many messages are still to leave the queue.
    fn missing(&self) -> u64 {
        self.config.count.map_or(u64::MAX, |count| count.saturating_sub(self.tally.left_the_queue()))
    }

    /// Has no more in flight than are still wanted.
    fn limit(&self, consumer: &Consumer) {
        if self.config.count.is_some() {
            let missing = u32::try_from(self.missing()).unwrap_or(u32::MAX);
            consumer.set_max_in_flight(self.config.max_in_flight.min(missing));
        }
    }

    fn stop(&mut self, consumer: &Consumer, stage: Stage) {
        self.stage = stage;
        consumer.stop();
    }

    /// Stops if the consumer is idle; else says when to look again.
    fn check_idle(&mut self, consumer: &Consumer) -> Instant {
        let (now, allowed) = (Instant::now(), self.config.idle_timeout.unwrap_or_default());
        let health = consumer.health();
        if !self.running.is_empty() || health.in_flight > 0 || health.backing_off {
            return now + allowed;
        }
        if now >= self.last_active + allowed {
            let cut_off = health.known > 0 && health.connected == 0;
            self.stop(consumer, Stage::Finishing(if cut_off { Ended::Unreachable } else { Ended::Idle }));
        }
        self.last_active + allowed
    }

    fn ended(&self) -> Ended {
        match self.stage {
            Stage::Finishing(ended) | Stage::GivingBack(ended) => ended,
            // somebody else stopped the consumer
            Stage::Working => Ended::Drained,
        }
    }

    /// Ends what runs, and gives all messages back.
    async fn give_up(mut self, mut consumer: Consumer) -> Tally {
        consumer.stop();
        self.running.abort_all();
        let given_back = async {
            while let Some(ended) = self.running.join_next().await {
                match ended {
                    Ok(settled) => self.answer(settled, &consumer),
                    Err(_) => self.tally.released += 1,
                }
            }
            while let Some(delivery) = consumer.recv().await {
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

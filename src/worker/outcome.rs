//! From a message to its answer: handle it, and by the verdict do what must be safe before nsqd is told.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::WorkerConfig;
use super::dead_letter::{DeadLetter, DeadLetters};
use super::max_tries::MaxTries;
use crate::client::Delivery;
use crate::handler::{Handler, Verdict};
use crate::proto::{ChannelName, InvalidName, TopicName};

/// The longest that a failed message waits for its next attempt.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(15 * 60);

/// How long a message that failed waits: `by` times its tries.
pub fn retry_delay(by: Duration, delivery: &Delivery) -> Duration {
    by.saturating_mul(delivery.tries().into()).min(MAX_RETRY_DELAY)
}

/// What becomes of messages that fail.
#[derive(Debug)]
pub(super) struct FailurePolicy {
    max_tries: MaxTries,
    retry_delay: Duration,
    topic: TopicName,
    channel: ChannelName,
    dead_letters: DeadLetters,
}

impl FailurePolicy {
    pub(super) fn new(topic: &TopicName, channel: &ChannelName, config: &WorkerConfig) -> Result<Self, InvalidName> {
        let stream = config.dead_letters.clone().map_or_else(|| DeadLetter::stream_of(topic), Ok)?;
        Ok(Self {
            max_tries: MaxTries(config.max_attempts),
            retry_delay: config.retry_delay,
            topic: topic.clone(),
            channel: channel.clone(),
            dead_letters: DeadLetters::new(stream, config.publisher.clone()),
        })
    }

    fn delay(&self, delivery: &Delivery) -> Duration {
        retry_delay(self.retry_delay, delivery)
    }
}

/// How nsqd is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// FIN: handled.
    Done,
    /// FIN: it is among the dead letters.
    Dead,
    /// REQ.
    Retry(Duration),
    /// Given back for a while, untried.
    RequeueUntried(Duration),
    /// Given back at once, untried.
    Release,
}

/// A message with nothing left to do but its answer.
#[derive(Debug)]
pub(super) struct Processed {
    pub(super) delivery: Delivery,
    pub(super) outcome: Outcome,
}

/// A message is to go to the dead letters, for this reason.
struct DeadLetterReason(String);

/// Handles `deliveries` and settles each. Those that were tried often enough when they arrive are not handled. Dropped half-way, all of
/// them go back to the queue.
pub(super) async fn process<H: Handler>(
    handler: Arc<H>,
    deliveries: Vec<Delivery>,
    policy: Arc<FailurePolicy>,
) -> Vec<Processed> {
    let is_exhausted = |delivery: &mut Delivery| policy.max_tries.on_arrival(delivery.tries()).is_some();
    let mut deliveries = deliveries;
    let exhausted: Vec<Delivery> = deliveries.extract_if(.., is_exhausted).collect();
    let verdicts = if deliveries.is_empty() { Vec::new() } else { verdicts(&*handler, &deliveries).await };
    let no_verdict = || Verdict::retry("the handler gave no verdict");
    let handled = deliveries.into_iter().zip(verdicts.into_iter().chain(std::iter::repeat_with(no_verdict)));
    let untried = exhausted.into_iter().map(|delivery| {
        let why = policy.max_tries.on_arrival(delivery.tries()).unwrap_or_default();
        (delivery, Verdict::Drop { why })
    });
    let (mut processed, mut failed) = (Vec::new(), Vec::new());
    for (delivery, verdict) in handled.chain(untried) {
        match policy.outcome(&delivery, verdict) {
            Ok(outcome) => processed.push(Processed { delivery, outcome }),
            Err(reason) => failed.push((delivery, reason)),
        }
    }
    // together: dead letters wait for one answer, not each for its own
    let dead_letters = failed.into_iter().map(async |(delivery, DeadLetterReason(why))| {
        let outcome = policy.publish_dead_letter(&delivery, why).await;
        Processed { delivery, outcome }
    });
    processed.extend(join_all(dead_letters).await);
    processed
}

async fn verdicts<H: Handler>(handler: &H, deliveries: &[Delivery]) -> Vec<Verdict> {
    let messages = || deliveries.iter().map(|delivery| delivery.message().clone());
    let handled = match deliveries {
        [one] if handler.batch_size() <= 1 => {
            AssertUnwindSafe(handler.handle(one.message().clone())).catch_unwind().await.map(|verdict| vec![verdict])
        }
        _ => AssertUnwindSafe(handler.handle_batch(messages().collect())).catch_unwind().await,
    };
    handled.unwrap_or_else(|_| messages().map(|_| Verdict::retry("the handler panicked")).collect())
}

impl FailurePolicy {
    /// Says how to answer, or that the message is given up.
    fn outcome(&self, delivery: &Delivery, verdict: Verdict) -> Result<Outcome, DeadLetterReason> {
        let message = delivery.message();
        let (id, attempts) = (message.id, message.attempts);
        let (stream, group) = (&self.topic, &self.channel);
        match verdict {
            Verdict::Done(_) => Ok(Outcome::Done),
            Verdict::Release => Ok(Outcome::Release),
            Verdict::Unavailable { after, why } => {
                let delay = after.unwrap_or_else(|| self.delay(delivery));
                tracing::warn!(%stream, %group, %id, attempts, "not tried, again in {}: {why}", humantime::format_duration(delay));
                Ok(Outcome::RequeueUntried(delay))
            }
            Verdict::Retry { after, why } if !self.max_tries.is_last(delivery.tries()) => {
                let delay = after.unwrap_or_else(|| self.delay(delivery));
                tracing::warn!(%stream, %group, %id, attempts, "failed, again in {}: {why}", humantime::format_duration(delay));
                Ok(Outcome::Retry(delay))
            }
            Verdict::Retry { why, .. } | Verdict::Drop { why } => Err(DeadLetterReason(why)),
        }
    }

    /// Publishes the dead letter. A message whose dead letter cannot be published was not given up: it comes again, and is not tried more
    /// often for that.
    async fn publish_dead_letter(&self, delivery: &Delivery, why: String) -> Outcome {
        let message = delivery.message();
        let (id, attempts) = (message.id, message.attempts);
        let (stream, group) = (&self.topic, &self.channel);
        let letter = DeadLetter::new(&self.topic, &self.channel, message, why);
        match self.dead_letters.publish(delivery.nsqd(), &letter).await {
            Ok(()) => {
                let dead = self.dead_letters.topic();
                tracing::warn!(%stream, %group, %id, attempts, "given up, now in stream {dead}: {}", letter.reason);
                Outcome::Dead
            }
            Err(error) => {
                let delay = self.delay(delivery);
                let again = humantime::format_duration(delay);
                tracing::error!(%stream, %group, %id, attempts, "cannot be put to the dead letters, kept and again in {again}: {error}");
                Outcome::RequeueUntried(delay)
            }
        }
    }
}

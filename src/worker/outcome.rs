//! Handling of a delivery: run the handler, and by its verdict do everything that has to be safe
//! before the answer to nsqd.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::WorkerConfig;
use super::dead_letter::{DeadLetter, DeadLetters};
use super::max_tries::MaxTries;
use super::meter::{HandlerRun, WorkMeter};
use crate::client::Delivery;
use crate::handler::{Handler, Verdict, handle_catching_panics};
use crate::proto::{ChannelName, InvalidName, Message, TopicName};

/// The longest delay of a failed message.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(15 * 60);

/// The delay of a failed message: `by` times its tries.
pub fn retry_delay(by: Duration, delivery: &Delivery) -> Duration {
    by.saturating_mul(delivery.tries().into()).min(MAX_RETRY_DELAY)
}

/// The rules for retries and dead letters.
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

/// The result of a message, which determines the answer to nsqd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// FIN: handled.
    Done,
    /// FIN: the dead letter is published.
    Dead,
    /// REQ: failed, to be retried after this delay.
    Retry(Duration),
    /// BACK or REQ with a delay: not tried.
    RequeueUntried(Duration),
    /// BACK or REQ at once: not tried.
    Release,
}

/// A message with its outcome, ready to be answered.
#[derive(Debug)]
pub(super) struct Processed {
    pub(super) delivery: Delivery,
    pub(super) outcome: Outcome,
}

/// The reason for which a message becomes a dead letter.
struct DeadLetterReason(String);

/// Handles `deliveries` and determines the outcome of each. Deliveries that arrive with all tries
/// used up become dead letters without being handled. If the future is dropped, unfinished
/// deliveries are requeued.
pub(super) async fn process<H: Handler>(
    handler: Arc<H>,
    deliveries: Vec<Delivery>,
    policy: Arc<FailurePolicy>,
    meter: Option<Arc<WorkMeter>>,
) -> Vec<Processed> {
    meter.iter().for_each(|meter| meter.received(deliveries.iter().map(|delivery| delivery.message().attempts)));
    let is_exhausted = |delivery: &mut Delivery| policy.max_tries.on_arrival(delivery.tries()).is_some();
    let mut deliveries = deliveries;
    let exhausted: Vec<Delivery> = deliveries.extract_if(.., is_exhausted).collect();
    let messages: Vec<Message> = deliveries.iter().map(|delivery| delivery.message().clone()).collect();
    let verdicts = if messages.is_empty() { Vec::new() } else { handle_measured(&*handler, messages, meter).await };
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
    // concurrently, so that dead letters share the wait for an answer
    let dead_letters = failed.into_iter().map(async |(delivery, DeadLetterReason(why))| {
        let outcome = policy.publish_dead_letter(&delivery, why).await;
        Processed { delivery, outcome }
    });
    processed.extend(join_all(dead_letters).await);
    processed
}

/// Runs the handler, and measures it if there is a meter.
async fn handle_measured<H: Handler>(
    handler: &H,
    messages: Vec<Message>,
    meter: Option<Arc<WorkMeter>>,
) -> Vec<Verdict> {
    let run = meter.map(|meter| meter.begin(&messages));
    let verdicts = handle_catching_panics(handler, messages).await;
    run.iter().for_each(HandlerRun::ended);
    verdicts
}

impl FailurePolicy {
    /// The outcome for a verdict, or the reason for a dead letter.
    fn outcome(&self, delivery: &Delivery, verdict: Verdict) -> Result<Outcome, DeadLetterReason> {
        let message = delivery.message();
        let (id, attempts) = (message.id, message.attempts);
        let (stream, group) = (&self.topic, &self.channel);
        match verdict {
            Verdict::Done(_) => Ok(Outcome::Done),
            Verdict::Release => Ok(Outcome::Release),
            Verdict::Unavailable { after, why } => {
                let delay = after.unwrap_or_else(|| self.delay(delivery));
                tracing::warn!(%stream, %group, %id, attempts, "message not tried, requeued for {}: {why}", humantime::format_duration(delay));
                Ok(Outcome::RequeueUntried(delay))
            }
            Verdict::Retry { after, why } | Verdict::Unanswered { after, why }
                if !self.max_tries.is_last(delivery.tries()) =>
            {
                let delay = after.unwrap_or_else(|| self.delay(delivery));
                tracing::warn!(%stream, %group, %id, attempts, "message failed, requeued for {}: {why}", humantime::format_duration(delay));
                Ok(Outcome::Retry(delay))
            }
            Verdict::Retry { why, .. } | Verdict::Unanswered { why, .. } | Verdict::Drop { why } => {
                Err(DeadLetterReason(why))
            }
        }
    }

    /// Publishes the dead letter. If that fails, the message is requeued untried and does not lose
    /// a try.
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
                tracing::error!(%stream, %group, %id, attempts, "dead-letter publish failed; message requeued for {again}: {error}");
                Outcome::RequeueUntried(delay)
            }
        }
    }
}

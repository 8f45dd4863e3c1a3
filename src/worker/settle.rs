//! From a message to its answer: handle it, and by the verdict do what must be safe before nsqd is told.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::WorkerConfig;
use super::dead_letter::{DeadLetter, DeadLetters};
use crate::client::Delivery;
use crate::handler::{Handler, Verdict};
use crate::proto::{ChannelName, InvalidName, Message, TopicName};

/// The longest that a failed message waits for its next attempt.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(15 * 60);

/// How long a message that failed waits: `by` times its attempts.
pub(crate) fn retry_delay(by: Duration, message: &Message) -> Duration {
    by.saturating_mul(message.attempts.max(1).into()).min(MAX_RETRY_DELAY)
}

/// What becomes of messages that fail.
#[derive(Debug)]
pub(super) struct Rules {
    max_attempts: u16,
    retry_delay: Duration,
    topic: TopicName,
    channel: ChannelName,
    dead_letters: DeadLetters,
}

impl Rules {
    pub(super) fn new(topic: &TopicName, channel: &ChannelName, config: &WorkerConfig) -> Result<Self, InvalidName> {
        let stream = config.dead_letters.clone().map_or_else(|| DeadLetter::stream_of(topic), Ok)?;
        Ok(Self {
            max_attempts: config.max_attempts,
            retry_delay: config.retry_delay,
            topic: topic.clone(),
            channel: channel.clone(),
            dead_letters: DeadLetters::new(stream, config.publisher.clone()),
        })
    }

    fn delay(&self, message: &Message) -> Duration {
        retry_delay(self.retry_delay, message)
    }
}

/// How nsqd is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// FIN: handled.
    Done,
    /// FIN: it is among the dead letters.
    Dead,
    /// REQ.
    Retry(Duration),
    /// REQ 0.
    Release,
}

/// A message with nothing left to do but its answer.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) delivery: Delivery,
    pub(super) way: Way,
}

/// Handles `deliveries` and settles each. Dropped half-way, all of them go back to the queue.
pub(super) async fn settle<H: Handler>(handler: Arc<H>, deliveries: Vec<Delivery>, rules: Arc<Rules>) -> Vec<Settled> {
    let mut verdicts = verdicts(&*handler, &deliveries).await.into_iter();
    let mut settled = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let verdict = verdicts.next().unwrap_or_else(|| Verdict::retry("the handler gave no verdict"));
        let way = rules.way(&delivery, verdict).await;
        settled.push(Settled { delivery, way });
    }
    settled
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

impl Rules {
    /// Says how to answer, once all that must come before the answer is done.
    async fn way(&self, delivery: &Delivery, verdict: Verdict) -> Way {
        let message = delivery.message();
        let (id, attempts) = (message.id, message.attempts);
        let (stream, group) = (&self.topic, &self.channel);
        let why = match verdict {
            Verdict::Done(_) => return Way::Done,
            Verdict::Release => return Way::Release,
            Verdict::Retry { after, why } if self.max_attempts == 0 || attempts < self.max_attempts => {
                let delay = after.unwrap_or_else(|| self.delay(message));
                tracing::warn!(%stream, %group, %id, attempts, "failed, again in {}: {why}", humantime::format_duration(delay));
                return Way::Retry(delay);
            }
            Verdict::Retry { why, .. } | Verdict::Drop { why } => why,
        };
        let letter = DeadLetter::new(&self.topic, &self.channel, message, why);
        match self.dead_letters.publish(delivery.nsqd(), &letter).await {
            Ok(()) => {
                let dead = self.dead_letters.topic();
                tracing::warn!(%stream, %group, %id, attempts, "given up, now in stream {dead}: {}", letter.reason);
                Way::Dead
            }
            Err(error) => {
                let delay = self.delay(message);
                let again = humantime::format_duration(delay);
                tracing::error!(%stream, %group, %id, attempts, "cannot be put to the dead letters, kept and again in {again}: {error}");
                Way::Retry(delay)
            }
        }
    }
}

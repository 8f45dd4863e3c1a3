//! From a message to its answer: handle it, and by the verdict do what must be safe before nsqd is told.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::WorkerConfig;
use super::dead_letter::{DeadLetter, DeadLetters};
use super::tries::MaxTries;
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
pub(super) struct Rules {
    max_tries: MaxTries,
    retry_delay: Duration,
    topic: TopicName,
    channel: ChannelName,
    dead_letters: DeadLetters,
}

impl Rules {
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
pub(super) enum Way {
    /// FIN: handled.
    Done,
    /// FIN: it is among the dead letters.
    Dead,
    /// REQ.
    Retry(Duration),
    /// Given back for a while, untried.
    PutOff(Duration),
    /// Given back at once, untried.
    Release,
}

/// A message with nothing left to do but its answer.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) delivery: Delivery,
    pub(super) way: Way,
}

/// A message is to go to the dead letters, for this reason.
struct GivenUp(String);

/// Handles `deliveries` and settles each. Those that were tried often enough when they arrive are not handled. Dropped half-way, all of
/// them go back to the queue.
pub(super) async fn settle<H: Handler>(handler: Arc<H>, deliveries: Vec<Delivery>, rules: Arc<Rules>) -> Vec<Settled> {
    let given_up = |delivery: &mut Delivery| rules.max_tries.on_arrival(delivery.tries()).is_some();
    let mut deliveries = deliveries;
    let hopeless: Vec<Delivery> = deliveries.extract_if(.., given_up).collect();
    let verdicts = if deliveries.is_empty() { Vec::new() } else { verdicts(&*handler, &deliveries).await };
    let missing = || Verdict::retry("the handler gave no verdict");
    let handled = deliveries.into_iter().zip(verdicts.into_iter().chain(std::iter::repeat_with(missing)));
    let buried = hopeless.into_iter().map(|delivery| {
        let why = rules.max_tries.on_arrival(delivery.tries()).unwrap_or_default();
        (delivery, Verdict::Drop { why })
    });
    let (mut settled, mut dying) = (Vec::new(), Vec::new());
    for (delivery, verdict) in handled.chain(buried) {
        match rules.way(&delivery, verdict) {
            Ok(way) => settled.push(Settled { delivery, way }),
            Err(reason) => dying.push((delivery, reason)),
        }
    }
    // together: dead letters wait for one answer, not each for its own
    let buried = dying.into_iter().map(async |(delivery, GivenUp(why))| {
        let way = rules.bury(&delivery, why).await;
        Settled { delivery, way }
    });
    settled.extend(join_all(buried).await);
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
    /// Says how to answer, or that the message is given up.
    fn way(&self, delivery: &Delivery, verdict: Verdict) -> Result<Way, GivenUp> {
        let message = delivery.message();
        let (id, attempts) = (message.id, message.attempts);
        let (stream, group) = (&self.topic, &self.channel);
        match verdict {
            Verdict::Done(_) => Ok(Way::Done),
            Verdict::Release => Ok(Way::Release),
            Verdict::Unavailable { after, why } => {
                let delay = after.unwrap_or_else(|| self.delay(delivery));
                tracing::warn!(%stream, %group, %id, attempts, "not tried, again in {}: {why}", humantime::format_duration(delay));
                Ok(Way::PutOff(delay))
            }
            Verdict::Retry { after, why } | Verdict::Unanswered { after, why }
                if !self.max_tries.is_last(delivery.tries()) =>
            {
                let delay = after.unwrap_or_else(|| self.delay(delivery));
                tracing::warn!(%stream, %group, %id, attempts, "failed, again in {}: {why}", humantime::format_duration(delay));
                Ok(Way::Retry(delay))
            }
            Verdict::Retry { why, .. } | Verdict::Unanswered { why, .. } | Verdict::Drop { why } => Err(GivenUp(why)),
        }
    }

    /// Publishes the dead letter. A message whose dead letter cannot be published was not given up: it comes again, and is not tried more
    /// often for that.
    async fn bury(&self, delivery: &Delivery, why: String) -> Way {
        let message = delivery.message();
        let (id, attempts) = (message.id, message.attempts);
        let (stream, group) = (&self.topic, &self.channel);
        let letter = DeadLetter::new(&self.topic, &self.channel, message, why);
        match self.dead_letters.publish(delivery.nsqd(), &letter).await {
            Ok(()) => {
                let dead = self.dead_letters.topic();
                tracing::warn!(%stream, %group, %id, attempts, "given up, now in stream {dead}: {}", letter.reason);
                Way::Dead
            }
            Err(error) => {
                let delay = self.delay(delivery);
                let again = humantime::format_duration(delay);
                tracing::error!(%stream, %group, %id, attempts, "cannot be put to the dead letters, kept and again in {again}: {error}");
                Way::PutOff(delay)
            }
        }
    }
}

//! A group's consumer: one for all workers of the group, closed a while after the last one left.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::exchange::{Exchange, GatewayJob};
use super::jobs::GroupKey;
use mqueue::client::{Consumer, Control, Delivery};
use mqueue::worker::{DeadLetter, DeadLetters, MaxTries, WorkMeter, WorkerStats};

/// The most messages handed out at once.
const BATCH: usize = 500;
/// Requeue delay of a job whose dead letter could not be published.
const DEAD_LETTER_RETRY_DELAY: Duration = Duration::from_secs(10);
/// How long a group without workers stays open: a simple client reconnects for each job.
const IDLE_GROUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The shared part of a group's consumer.
#[derive(Debug)]
pub(super) struct GroupConsumer {
    pub(super) key: GroupKey,
    pub(super) control: Control,
    /// Notified when the group has no workers.
    pub(super) unused: Notify,
    pub(super) dead_letters: DeadLetters,
    pub(super) work: Arc<WorkMeter>,
    /// The number of tries after which a job becomes a dead letter.
    pub(super) max_tries: MaxTries,
}

/// Hands out a group's messages until the group has had no workers for a while, or the consumer
/// stops.
pub(super) async fn run(group_consumer: Arc<GroupConsumer>, mut consumer: Consumer, exchange: Arc<Exchange>) {
    let mut idle_timeout = std::pin::pin!(sleep(IDLE_GROUP_TIMEOUT));
    let mut is_unused = false;
    loop {
        tokio::select! {
            mut deliveries = consumer.recv_many(BATCH) => {
                if deliveries.is_empty() {
                    break;
                }
                group_consumer.work.received(deliveries.iter().map(|delivery| delivery.message().attempts));
                group_consumer.dead_letter_exhausted(&mut deliveries, &exchange);
                exchange.hand_out(&group_consumer, deliveries);
            }
            () = group_consumer.unused.notified() => {
                is_unused = true;
                idle_timeout.as_mut().reset(Instant::now() + IDLE_GROUP_TIMEOUT);
            }
            () = &mut idle_timeout, if is_unused => {
                is_unused = false;
                if exchange.close_unused(&group_consumer.key) {
                    // messages still in flight are requeued, because no worker takes them
                    consumer.stop();
                }
            }
        }
    }
    tracing::debug!(stream = %group_consumer.key.stream, group = %group_consumer.key.group, "group closed");
}

impl GroupConsumer {
    /// Turns messages that were tried too often into dead letters, so that a job that crashes every
    /// worker gets no further one.
    fn dead_letter_exhausted(self: &Arc<Self>, deliveries: &mut Vec<Delivery>, exchange: &Arc<Exchange>) {
        let reason = |delivery: &Delivery| self.max_tries.on_arrival(delivery.tries());
        let exhausted = deliveries.extract_if(.., |delivery| reason(delivery).is_some());
        for delivery in exhausted {
            let reason = reason(&delivery).unwrap_or_default();
            let job = GatewayJob { delivery, group_consumer: self.clone(), handed_out: None };
            let (tasks, exchange) = (exchange.tasks.clone(), exchange.clone());
            tasks.spawn(async move {
                if let Err(why) = job.dead_letter(reason, &exchange).await {
                    tracing::error!("{why}");
                }
            });
        }
    }
}

impl GatewayJob {
    /// Publishes the job as a dead letter, then finishes it. If publishing fails, requeues the job
    /// with a delay and returns the error.
    pub(super) async fn dead_letter(self, reason: String, exchange: &Exchange) -> Result<(), String> {
        let Self { delivery, group_consumer, .. } = self;
        let GroupKey { stream, group } = &group_consumer.key;
        let letter = DeadLetter::new(stream, group, delivery.message(), reason);
        match group_consumer.dead_letters.publish(delivery.nsqd(), &letter).await {
            Ok(()) => {
                let (id, attempts) = (&letter.id, letter.attempts);
                tracing::warn!(%stream, %group, %id, attempts, "given up, now in stream {}: {}", group_consumer.dead_letters.topic(), letter.reason);
                exchange.counters.dead_letters.inc();
                group_consumer.work.count(WorkerStats { dead: 1, ..WorkerStats::default() });
                delivery.finish();
                Ok(())
            }
            Err(error) => {
                group_consumer.work.count(WorkerStats { retried: 1, ..WorkerStats::default() });
                delivery.requeue_untried(DEAD_LETTER_RETRY_DELAY);
                Err(format!(
                    "dead-letter publish failed; job requeued for {} s: {error}",
                    DEAD_LETTER_RETRY_DELAY.as_secs()
                ))
            }
        }
    }
}

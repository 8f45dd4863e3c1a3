//! Where a group's messages come from: one consumer for all of its workers, for as long as there are any.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::exchange::{Exchange, Task};
use super::jobs::GroupKey;
use mqueue::client::{Consumer, Control, Delivery};
use mqueue::worker::{DeadLetter, DeadLetters, MaxTries};

/// Messages that are handed out in one go.
const BATCH: usize = 500;
/// When a job comes again whose dead letter could not be published.
const UNBURIED: Duration = Duration::from_secs(10);
/// How long a group without workers stays open: a simple client comes back for each job.
const LINGER: Duration = Duration::from_secs(10);

/// A group's consumer, as the others see it.
#[derive(Debug)]
pub(super) struct Supply {
    pub(super) key: GroupKey,
    pub(super) control: Control,
    /// The group has no workers.
    pub(super) unused: Notify,
    pub(super) dead_letters: DeadLetters,
    /// When a job goes to the dead letters.
    pub(super) max_tries: MaxTries,
}

/// Hands a group's messages out until nobody is there who would take them, or the consumer is stopped.
pub(super) async fn run(supply: Arc<Supply>, mut consumer: Consumer, exchange: Arc<Exchange>) {
    let mut linger = std::pin::pin!(sleep(LINGER));
    let mut is_unused = false;
    loop {
        tokio::select! {
            mut deliveries = consumer.recv_many(BATCH) => {
                if deliveries.is_empty() {
                    break;
                }
                supply.bury_on_arrival(&mut deliveries, &exchange);
                exchange.hand_out(&supply, deliveries);
            }
            () = supply.unused.notified() => {
                is_unused = true;
                linger.as_mut().reset(Instant::now() + LINGER);
            }
            () = &mut linger, if is_unused => {
                is_unused = false;
                if exchange.close_unused(&supply.key) {
                    // what still comes goes back, as nobody takes it
                    consumer.stop();
                }
            }
        }
    }
    tracing::debug!(stream = %supply.key.stream, group = %supply.key.group, "closed");
}

impl Supply {
    /// Takes out what has been tried often enough: a job that ends every worker does not get another one.
    fn bury_on_arrival(self: &Arc<Self>, deliveries: &mut Vec<Delivery>, exchange: &Arc<Exchange>) {
        let reason = |delivery: &Delivery| self.max_tries.on_arrival(delivery.tries());
        let hopeless = deliveries.extract_if(.., |delivery| reason(delivery).is_some());
        for delivery in hopeless {
            let reason = reason(&delivery).unwrap_or_default();
            let task = Task { delivery, supply: self.clone(), is_handed_out: false };
            let (tasks, exchange) = (exchange.tasks.clone(), exchange.clone());
            tasks.spawn(async move {
                if let Err(why) = task.bury(reason, &exchange).await {
                    tracing::error!("{why}");
                }
            });
        }
    }
}

impl Task {
    /// Puts the job to the dead letters. Fails, and the job comes again later, if these cannot be had.
    pub(super) async fn bury(self, reason: String, exchange: &Exchange) -> Result<(), String> {
        let Self { delivery, supply, .. } = self;
        let GroupKey { stream, group } = &supply.key;
        let letter = DeadLetter::new(stream, group, delivery.message(), reason);
        match supply.dead_letters.publish(delivery.nsqd(), &letter).await {
            Ok(()) => {
                let (id, attempts) = (&letter.id, letter.attempts);
                tracing::warn!(%stream, %group, %id, attempts, "given up, now in stream {}: {}", supply.dead_letters.topic(), letter.reason);
                exchange.counters.buried.inc();
                delivery.finish();
                Ok(())
            }
            Err(error) => {
                delivery.put_off(UNBURIED);
                Err(format!("the dead letters cannot be had, it comes again: {error}"))
            }
        }
    }
}

//! Where a group's messages come from: one consumer for all of its workers, for as long as there are any.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::exchange::{Exchange, Task};
use super::jobs::GroupKey;
use crate::client::{Consumer, Control, Delivery};
use crate::worker::{DeadLetter, DeadLetters};

/// Messages that are handed out in one go.
const BATCH: usize = 500;
/// A job that fails is given up after its attempts, one whose workers go away after so many times as many.
const UNBEGUN: u16 = 10;
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
    /// Deliveries after which a job goes to the dead letters; 0 for never.
    pub(super) max_attempts: u16,
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
                supply.bury_the_hopeless(&mut deliveries, &exchange);
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
    /// Takes out what was handed out far too often: a job that ends every worker must not go on for ever. Workers that went away may never
    /// have begun with it, so this takes many more times than failing does.
    fn bury_the_hopeless(self: &Arc<Self>, deliveries: &mut Vec<Delivery>, exchange: &Arc<Exchange>) {
        if self.max_attempts == 0 {
            return;
        }
        let most = self.max_attempts.saturating_mul(UNBEGUN);
        let hopeless = deliveries.extract_if(.., |delivery| delivery.message().attempts > most);
        for delivery in hopeless {
            let task = Task { delivery, supply: self.clone() };
            let (tasks, exchange) = (exchange.tasks.clone(), exchange.clone());
            tasks.spawn(async move {
                let reason = format!("handed out {most} times, and never done");
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
        let Self { delivery, supply } = self;
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
                delivery.requeue(UNBURIED);
                Err(format!("the dead letters cannot be had, it comes again: {error}"))
            }
        }
    }
}

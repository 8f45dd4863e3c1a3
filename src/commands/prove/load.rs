//! The clients of a case: publishers of numbered messages and a consumer, which record everything.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use tokio::time::sleep;

use super::body;
use super::faults::CasePlan;
use super::history::{CaseHistory, ConsumerReply, DeliveryRecord, MessageRecord};
use super::targets::{DeliveredMessage, PublishEnd, Target, TargetConsumer, TargetProcess, TargetPublisher};

/// Messages that a case publishes at most, so that it can be read empty soon.
pub(super) const MOST: usize = 20_000;
/// Time after a failure until a client tries again.
const RETRY: Duration = Duration::from_millis(20);
/// Deliveries whose replies wait for a confirmation at most.
const UNCONFIRMED: usize = 50;

/// The clients of a phase.
pub(super) struct Clients<'a> {
    pub(super) history: &'a RefCell<CaseHistory>,
    pub(super) random: &'a RefCell<Rng>,
    pub(super) plan: &'a CasePlan,
    /// Number of starts of the program so far.
    pub(super) start: usize,
    /// The target can defer and requeue messages.
    pub(super) can_defer: bool,
}

impl Clients<'_> {
    /// Publishes until the future is dropped; connects again after a failure.
    pub(super) async fn publish<T: Target>(&self, target: &T, process: &TargetProcess, publisher: usize) {
        loop {
            if let Ok(mut connection) = target.publisher(process).await {
                let _ = self.publish_on(&mut connection, publisher).await;
            }
            sleep(RETRY).await;
        }
    }

    async fn publish_on(&self, connection: &mut impl TargetPublisher, publisher: usize) -> io::Result<()> {
        loop {
            let load = &self.plan.load;
            if self.history.borrow().messages.len() > MOST {
                std::future::pending::<()>().await;
            }
            let (count, delay, pause) = {
                let mut random = self.random.borrow_mut();
                let is_deferred = self.can_defer && random.u8(..100) < load.deferred;
                let most = if is_deferred { load.batch.min(10) } else { load.batch };
                let delay = is_deferred.then(|| milliseconds(&mut random, load.delay));
                (random.usize(1..=most), delay, milliseconds(&mut random, load.pause))
            };
            let (numbers, bodies) = self.new_messages(publisher, count, delay);
            match connection.publish(&bodies, delay).await? {
                PublishEnd::Acknowledged => {
                    let now = Instant::now();
                    let mut history = self.history.borrow_mut();
                    history.messages[numbers].iter_mut().for_each(|message| message.acknowledged = Some(now));
                }
                PublishEnd::Refused(reason) => {
                    self.refused(count, reason);
                    sleep(RETRY).await;
                }
            }
            sleep(pause).await;
        }
    }

    fn refused(&self, count: usize, reason: String) {
        let mut history = self.history.borrow_mut();
        history.refused += count as u64;
        history.refusal = Some(reason);
    }

    fn new_messages(
        &self,
        publisher: usize,
        count: usize,
        delay: Option<Duration>,
    ) -> (std::ops::Range<usize>, Vec<Bytes>) {
        let mut history = self.history.borrow_mut();
        let first = history.messages.len();
        let due = delay.map(|delay| Instant::now() + delay);
        let message = || MessageRecord { publisher, due, acknowledged: None, deliveries: Vec::new() };
        history.messages.extend(std::iter::repeat_with(message).take(count));
        let bodies = (first..first + count).map(|n| body::of_message(self.plan.seed, n, self.plan.load.size));
        (first..first + count, bodies.collect())
    }

    /// Consumes until the future is dropped; connects again after a failure.
    pub(super) async fn consume<T: Target>(&self, target: &T, process: &TargetProcess) {
        loop {
            if let Ok(mut connection) = target.consumer(process, self.plan.load.in_flight).await {
                let _ = self.consume_on(&mut connection).await;
            }
            sleep(RETRY).await;
        }
    }

    async fn consume_on(&self, connection: &mut impl TargetConsumer) -> io::Result<()> {
        let mut unconfirmed: Vec<(DeliveryPlace, Bytes)> = Vec::new();
        loop {
            let delivered = connection.next().await?;
            let place = delivered_message(self.history, self.plan, self.start, &delivered);
            let load = &self.plan.load;
            let (percent, is_confirming, delay) = {
                let mut random = self.random.borrow_mut();
                let is_confirming = random.usize(..UNCONFIRMED) < 5;
                (random.u8(..100), is_confirming, milliseconds(&mut random, load.delay))
            };
            let reply = if percent < load.finished {
                connection.finish(&delivered.id);
                ConsumerReply::Finish { confirmed: None }
            } else if self.can_defer && percent < load.finished + load.requeued {
                connection.requeue(&delivered.id, delay);
                ConsumerReply::Requeue { due: Instant::now() + delay, confirmed: None }
            } else {
                ConsumerReply::None
            };
            if let (Some(place), true) = (place, reply != ConsumerReply::None) {
                replied(self.history, place, reply);
                unconfirmed.push((place, delivered.id));
            }
            if is_confirming || unconfirmed.len() >= UNCONFIRMED {
                let refused = connection.confirm().await?;
                self.confirmed(&mut unconfirmed, &refused);
            } else {
                connection.flush().await?;
            }
        }
    }

    /// Notes that all replies were executed, except the refused ones, which have no effect.
    fn confirmed(&self, unconfirmed: &mut Vec<(DeliveryPlace, Bytes)>, refused: &[Bytes]) {
        let (mut history, now) = (self.history.borrow_mut(), Instant::now());
        for (DeliveryPlace { message, delivery }, id) in unconfirmed.drain(..) {
            let delivery = &mut history.messages[message].deliveries[delivery];
            if refused.contains(&id) {
                delivery.reply = ConsumerReply::None;
                continue;
            }
            match &mut delivery.reply {
                ConsumerReply::Finish { confirmed } | ConsumerReply::Requeue { confirmed, .. } => {
                    *confirmed = Some(now)
                }
                ConsumerReply::None => {}
            }
        }
    }
}

fn milliseconds(random: &mut Rng, most: Duration) -> Duration {
    Duration::from_millis(random.u64(0..=u64::try_from(most.as_millis()).unwrap_or(u64::MAX)))
}

/// The place of a delivery in the record.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeliveryPlace {
    message: usize,
    delivery: usize,
}

/// Records a delivery; returns its place, or `None` if its message was never published.
pub(super) fn delivered_message(
    history: &RefCell<CaseHistory>,
    plan: &CasePlan,
    start: usize,
    delivered: &DeliveredMessage,
) -> Option<DeliveryPlace> {
    let mut history = history.borrow_mut();
    match body::number(&delivered.body, plan.seed, plan.load.size, history.messages.len()) {
        Ok(message) => {
            let deliveries = &mut history.messages[message].deliveries;
            let (at, attempts) = (Instant::now(), delivered.attempts);
            deliveries.push(DeliveryRecord { at, start, attempts, reply: ConsumerReply::None });
            Some(DeliveryPlace { message, delivery: deliveries.len() - 1 })
        }
        Err(text) => {
            history.invented.push(text);
            None
        }
    }
}

/// Records the reply to a delivery.
pub(super) fn replied(history: &RefCell<CaseHistory>, place: DeliveryPlace, reply: ConsumerReply) {
    history.borrow_mut().messages[place.message].deliveries[place.delivery].reply = reply;
}

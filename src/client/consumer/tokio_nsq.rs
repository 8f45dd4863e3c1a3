//! The consumer's link with the crate tokio-nsq.
//!
//! tokio-nsq's RDY cannot be changed: the flow learns the messages in flight, but its RDY is
//! ignored. tokio-nsq has no CLS, so nsqd goes on sending while a link stops: those messages are
//! requeued with a delay that outlasts the link. Messages that arrive at the very end are
//! redelivered after their timeout. tokio-nsq does not report a lost connection or its cause; as in
//! the publisher, a link uses one connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_nsq::{
    NSQChannel, NSQConsumer, NSQConsumerConfig, NSQConsumerConfigSources, NSQEvent, NSQMessage, NSQRequeueDelay,
    NSQTopic,
};

use super::delivery::{Delivery, QueuedReply, Reply, ReplyQueue};
use super::shared::ConsumerShared;
use crate::backoff::Backoff;
use crate::client::backend::tokio_nsq_settings;
use crate::client::{Address, Error};
use crate::proto::{Message, MessageId};

/// The time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval of TOUCH for messages in flight: a third of nsqd's default timeout. tokio-nsq does
/// not report nsqd's actual timeout.
const TOUCH_INTERVAL: Duration = Duration::from_secs(20);
/// The time for the last replies to be sent: tokio-nsq does not report when they were written.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);
/// The delay of messages that are requeued while the link stops, so that they do not return to the
/// link.
const REQUEUE_DELAY_WHILE_STOPPING: Duration = Duration::from_secs(1);
/// The largest number of messages in one batch.
const MAX_BATCH: usize = 1000;

/// Keeps a subscription at `address` until the consumer stops, or until the connection ends after
/// discovery dropped the address.
pub(super) async fn run(shared: Arc<ConsumerShared>, address: Address, sender: UnboundedSender<Vec<Delivery>>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10), fastrand::Rng::new());
    loop {
        match serve(&shared, &address, &sender, &mut backoff).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(nsqd = %address, "connection lost: {error}"),
        }
        shared.discover_soon.notify_one();
        if !shared.wait_to_connect(&address, &mut backoff).await {
            return;
        }
    }
}

/// Serves one connection until it is lost, or until the consumer has stopped and every message is
/// answered (`Ok`).
async fn serve(
    shared: &ConsumerShared,
    address: &Address,
    sender: &UnboundedSender<Vec<Delivery>>,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let mut consumer = subscribed(shared, address);
    tokio::select! {
        event = timeout(CONNECT_TIMEOUT, consumer.consume()) => match event {
            Ok(Some(NSQEvent::Healthy())) => backoff.reset(),
            Ok(_) => return Err(lost(address)),
            Err(_) => return Err(Error::Silent { address: address.clone(), after: CONNECT_TIMEOUT }),
        },
        () = shared.stopping.cancelled() => return Ok(()),
    }
    let replies = shared.join(address, u32::MAX, Duration::ZERO, Arc::default());
    let mut link = TokioNsqSubscription {
        shared,
        address,
        sender,
        consumer,
        replies: replies.clone(),
        in_flight: HashMap::new(),
        stopping: false,
    };
    let ended = link.serve().await;
    replies.close();
    shared.leave(replies.id);
    ended
}

fn subscribed(shared: &ConsumerShared, address: &Address) -> NSQConsumer {
    let config = &shared.config;
    let topic = NSQTopic::new(config.topic.as_str()).expect("both have nsqd's rule for names");
    let channel = NSQChannel::new(config.channel.as_str()).expect("both have nsqd's rule for names");
    // an equal share for each nsqd known by now, for the lifetime of the connection
    let known = u32::try_from(shared.health().known.max(1)).unwrap_or(u32::MAX);
    let share = (config.flow.max_in_flight / known).clamp(1, u16::MAX.into());
    NSQConsumerConfig::new(topic, channel)
        .set_shared(tokio_nsq_settings())
        .set_max_in_flight(share)
        .set_sources(NSQConsumerConfigSources::Daemons(vec![address.to_string()]))
        .build()
}

fn lost(address: &Address) -> Error {
    Error::Closed { address: address.clone(), source: None }
}

struct TokioNsqSubscription<'a> {
    shared: &'a ConsumerShared,
    address: &'a Address,
    sender: &'a UnboundedSender<Vec<Delivery>>,
    consumer: NSQConsumer,
    replies: Arc<ReplyQueue>,
    /// Messages in flight; replies are sent through them.
    in_flight: HashMap<MessageId, NSQMessage>,
    /// True once no more messages are delivered.
    stopping: bool,
}

impl TokioNsqSubscription<'_> {
    async fn serve(&mut self) -> Result<(), Error> {
        let (shared, replies) = (self.shared, self.replies.clone());
        let mut touch = interval(TOUCH_INTERVAL);
        touch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        touch.reset();
        loop {
            self.answer().await;
            if self.stopping && self.in_flight.is_empty() {
                sleep(CLOSE_TIMEOUT).await;
                return Ok(());
            }
            tokio::select! {
                biased;
                event = self.consumer.consume() => match event {
                    Some(NSQEvent::Message(message)) if self.stopping => give_back(message, REQUEUE_DELAY_WHILE_STOPPING).await,
                    event => self.take(event)?,
                },
                () = replies.wake.notified() => {}
                () = shared.stopping.cancelled(), if !self.stopping => self.stopping = true,
                _ = touch.tick() => {
                    for message in self.in_flight.values() {
                        message.touch().await;
                    }
                }
            }
        }
    }

    /// Delivers the messages that have arrived.
    fn take(&mut self, first: Option<NSQEvent>) -> Result<(), Error> {
        let (mut batch, mut replaced, mut next) = (Vec::new(), 0, first);
        let given_back = self.shared.config.given_back.counter(self.address);
        loop {
            match next {
                Some(NSQEvent::Message(mut message)) => {
                    let converted = message_from(&mut message);
                    // redelivered while being handled: the first delivery's reply must not finish
                    // this one
                    replaced += u32::from(self.in_flight.insert(converted.id, message).is_some());
                    let given_back = given_back.as_ref().map_or(0, |count| count(converted.id));
                    batch.push(Delivery::new(converted, self.replies.clone(), given_back));
                }
                Some(NSQEvent::Ok()) => {}
                // a second Healthy: there was another connection, and replies for the first are
                // lost
                Some(NSQEvent::Healthy() | NSQEvent::Unhealthy()) | None => return Err(lost(self.address)),
            }
            if batch.len() >= MAX_BATCH {
                break;
            }
            match self.consumer.consume().now_or_never() {
                Some(event) => next = event,
                None => break,
            }
        }
        let (id, count) = (self.replies.id, batch.len() as u32);
        self.shared.update(|flow, now| {
            flow.received(id, count, now);
            flow.answered(id, 0, 0, replaced, now);
        });
        // a dropped consumer drops the deliveries, which requeues them
        let _ = self.sender.send(batch);
        Ok(())
    }

    /// Passes queued replies to tokio-nsq.
    async fn answer(&mut self) {
        let mut answers = Vec::new();
        self.replies.take_replies(&mut answers);
        let (mut done, mut failed, mut released) = (0, 0, 0);
        let least = if self.stopping { REQUEUE_DELAY_WHILE_STOPPING } else { Duration::ZERO };
        for QueuedReply { id, attempts, reply, .. } in answers {
            let Some(message) = self.in_flight.get(&id).filter(|message| message.attempt == attempts) else { continue };
            if reply == Reply::Touch {
                message.touch().await;
                continue;
            }
            let message = self.in_flight.remove(&id).expect("it was found just now");
            match reply {
                Reply::Finish => {
                    done += 1;
                    message.finish().await;
                }
                Reply::Requeue(delay) => {
                    failed += 1;
                    give_back(message, delay.max(least)).await;
                }
                Reply::Abandon => {
                    released += 1;
                    give_back(message, least).await;
                }
                Reply::Release => {
                    released += 1;
                    self.shared.config.given_back.count_requeue(self.address, id);
                    give_back(message, least).await;
                }
                Reply::RequeueUntried(delay) => {
                    failed += 1;
                    self.shared.config.given_back.count_requeue(self.address, id);
                    give_back(message, delay.max(least)).await;
                }
                Reply::Touch => unreachable!("it was touched"),
            }
        }
        let id = self.replies.id;
        self.shared.update(|flow, now| flow.answered(id, done, failed, released, now));
    }
}

async fn give_back(message: NSQMessage, delay: Duration) {
    message.requeue(NSQRequeueDelay::CustomDelay(delay)).await;
}

/// Converts the message, moving its body out.
fn message_from(message: &mut NSQMessage) -> Message {
    Message {
        timestamp: i64::try_from(message.timestamp).unwrap_or(i64::MAX),
        attempts: message.attempt,
        id: MessageId(message.id),
        body: Bytes::from(std::mem::take(&mut message.body)),
    }
}

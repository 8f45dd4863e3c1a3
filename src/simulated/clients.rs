//! The processes that publish and consume in a world.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::record::{Acknowledged, RETRY_DELAY, SharedRecord, body, number_of};
use super::world::GROUPS;
use crate::client::{Address, ConnectConfig, Consumer, ConsumerConfig, Publisher, PublisherConfig};
use crate::handler::{Handler, Verdict};
use crate::proto::{ChannelName, Identify, Message, TopicName};
use crate::shutdown::Shutdown;
use crate::worker::{DeadLetter, Worker, WorkerConfig};

/// The longest time that a handler takes.
pub(super) const SLOWEST: Duration = Duration::from_secs(12);
/// The message timeout of consumers.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(4);

/// The topic of all messages.
pub(super) fn topic() -> TopicName {
    TopicName::new("numbers").unwrap()
}

/// The topic of the dead letters.
pub(super) fn dead_topic() -> TopicName {
    DeadLetter::stream_of(&topic()).unwrap()
}

fn connect_config() -> ConnectConfig {
    let millis = |time: Duration| time.as_millis() as i64;
    let identify = Identify {
        heartbeat_interval: Some(millis(Duration::from_secs(2))),
        msg_timeout: Some(millis(MESSAGE_TIMEOUT)),
        ..ConnectConfig::default().identify
    };
    ConnectConfig::default().with_identify(identify)
}

/// Publishes until it is aborted.
pub(super) async fn publish(address: Address, record: SharedRecord, mut rng: fastrand::Rng) {
    let config = PublisherConfig::default().with_connect(connect_config()).with_timeout(Duration::from_secs(5));
    let publisher = loop {
        match Publisher::connect(std::slice::from_ref(&address), config.clone()).await {
            Ok(publisher) => break publisher,
            Err(_) => sleep(Duration::from_millis(300)).await,
        }
    };
    loop {
        sleep(Duration::from_millis(rng.u64(0..200))).await;
        let count = if rng.bool() { 1 } else { rng.u64(2..20) };
        let numbers = record.lock().publish(count);
        let bodies: Vec<Bytes> = numbers.iter().map(|number| body(*number, &mut rng)).collect();
        let (begun, mut not_before) = (Instant::now(), Instant::now());
        let failed: Vec<usize> = match (count, rng.u8(..)) {
            (1, 0..64) => {
                let delay = Duration::from_millis(rng.u64(1..20_000));
                not_before = begun + delay;
                let result = publisher.publish_deferred(&topic(), bodies[0].clone(), delay).await;
                result.err().map(|_| 0).into_iter().collect()
            }
            (1, _) => publisher.publish(&topic(), bodies[0].clone()).await.err().map(|_| 0).into_iter().collect(),
            _ => match publisher.publish_many(&topic(), bodies).await {
                Ok(()) => Vec::new(),
                Err(failed) => failed.0.into_iter().map(|(index, _)| index).collect(),
            },
        };
        let mut record = record.lock();
        if begun <= record.promised_from {
            continue;
        }
        let acknowledged = Acknowledged { at: Instant::now(), not_before };
        for (index, number) in numbers.into_iter().enumerate() {
            if !failed.contains(&index) {
                record.acknowledged.insert(number, acknowledged);
            }
        }
    }
}

/// Handles a message: most succeed, some fail or panic, few are given up.
async fn handle(message: Message, group: usize, record: SharedRecord) -> Verdict {
    let number = number_of(&message.body).filter(|number| record.lock().sent.contains(number));
    let Some(number) = number else {
        record.lock().invented(&message.body);
        return Verdict::done();
    };
    let key = (group, number);
    record.lock().begins(key, message.attempts);
    sleep(Duration::from_millis(match fastrand::u8(..) {
        0..3 => fastrand::u64(0..SLOWEST.as_millis() as u64),
        _ => fastrand::u64(0..30),
    }))
    .await;
    match fastrand::u8(..) {
        0..9 => {
            record.lock().fails(key);
            Verdict::retry("it fails sometimes")
        }
        9 => {
            record.lock().fails(key);
            // a panic without a text on stderr
            resume_unwind(Box::new("a bug"))
        }
        10 if record.lock().gives_up(key) => Verdict::Drop { why: "it is of no use".to_owned() },
        _ => {
            record.lock().handled(key);
            Verdict::done()
        }
    }
}

/// Consumes until it is aborted or told to stop.
pub(super) async fn consume(address: Address, group: usize, record: SharedRecord, shutdown: Shutdown) {
    let max_tries = record.lock().max_tries;
    let handler = move |message: Message| handle(message, group, record.clone());
    let config = ConsumerConfig::new(topic(), ChannelName::new(GROUPS[group]).unwrap())
        .with_nsqd(address)
        .with_connect(connect_config())
        .with_max_in_flight(fastrand::u32(1..50));
    let worker = WorkerConfig {
        publisher: PublisherConfig::default().with_connect(connect_config()).with_timeout(Duration::from_secs(10)),
        ..WorkerConfig::default()
            .with_max_attempts(max_tries)
            .with_concurrency(fastrand::usize(1..8))
            .with_retry_delay(RETRY_DELAY)
    };
    work(config, Arc::new(handler), worker, shutdown).await;
}

/// Takes the dead letters until it is aborted.
pub(super) async fn take_letters(address: Address, record: SharedRecord) {
    let handler = move |message: Message| {
        record.lock().letter(&message.body, &GROUPS);
        async { Verdict::done() }
    };
    let config = ConsumerConfig::new(dead_topic(), ChannelName::new("letters").unwrap());
    let config = config.with_nsqd(address).with_connect(connect_config());
    let worker = WorkerConfig::default().with_max_attempts(0);
    work(config, Arc::new(handler), worker, Shutdown::new()).await;
}

/// Runs a worker, and another one after that, until the process is told to stop.
async fn work<H: Handler>(config: ConsumerConfig, handler: Arc<H>, worker: WorkerConfig, shutdown: Shutdown) {
    while !shutdown.draining.is_cancelled() {
        if let Ok(Ok(consumer)) = timeout(Duration::from_secs(10), Consumer::connect(config.clone())).await {
            let worker = Worker::new(consumer, handler.clone(), worker.clone()).unwrap();
            let (_, stats) = worker.run(&shutdown).await;
            tracing::debug!(?stats, "a worker has ended");
        }
        sleep(Duration::from_millis(300)).await;
    }
}

//! Consuming: each message is finished as soon as it arrives.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::body::stamp;
use super::broker::BenchBroker;
use super::plan::BenchPlan;
use super::run::BenchRun;
use crate::commands::bench::args::BenchMode;
use crate::commands::common::exit::Failure;
use mqueue::client::{ClientBackend, Consumer, ConsumerConfig};

/// Messages taken from the consumer at once.
const MAX_DELIVERIES: usize = 1000;
/// Interval between checks whether all messages have arrived.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);
/// Longest time without a message while some are missing.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Grace period for the last messages after a stop was requested.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Connects as many consumers as the plan has connections, and at least one per nsqd, spread over
/// the nsqds.
pub(super) async fn connect(
    plan: &BenchPlan,
    backend: ClientBackend,
    broker: &BenchBroker,
) -> Result<Vec<Consumer>, Failure> {
    let mut consumers = Vec::new();
    for address in broker.tcp().iter().cycle().take(broker.tcp().len().max(plan.connections as usize)) {
        let mut config = ConsumerConfig::new(broker.topic.clone(), broker.channel.clone());
        config.nsqd = vec![address.clone()];
        config.connect = broker.connect();
        config.flow.max_in_flight = plan.max_in_flight;
        config.backend = backend;
        consumers.push(Consumer::connect(config).await.map_err(|e| Failure::unavailable(&e))?);
    }
    Ok(consumers)
}

/// Finishes every message that arrives. Never returns; runs beside the publishing.
pub(super) async fn consume(run: &BenchRun, consumers: &mut [Consumer]) -> std::convert::Infallible {
    let is_timed = run.plan.what == BenchMode::Both;
    join_all(consumers.iter_mut().map(|consumer| async move {
        loop {
            let deliveries = consumer.recv_many(MAX_DELIVERIES).await;
            if deliveries.is_empty() {
                return run.fail("the consumer has ended");
            }
            let now = Instant::now();
            let mut stats = run.stats.borrow_mut();
            for delivery in deliveries {
                let stamp = stamp(&delivery.message().body).filter(|_| is_timed);
                stats.handled(stamp.map(|stamp| run.moment(stamp, now)), now);
                delivery.finish();
            }
        }
    }))
    .await;
    std::future::pending().await
}

/// Closes the consumers in order; messages that still arrive are requeued.
pub(super) async fn close_all(consumers: Vec<Consumer>) {
    let leaving = consumers.into_iter().map(|mut consumer| async move {
        consumer.stop();
        while !consumer.recv_many(MAX_DELIVERIES).await.is_empty() {}
    });
    // the timeout loses nothing: the stream is deleted in any case
    let _ = timeout(STOP_GRACE, join_all(leaving)).await;
}

/// Waits until `messages` messages were handled, or no more arrive; `stop` shortens the wait to a
/// grace period.
pub(super) async fn wait_until_handled(run: &BenchRun, messages: u64, stop: &CancellationToken) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut since, mut stop_seen) = (0, Instant::now(), None);
    loop {
        ticks.tick().await;
        let (now, handled) = (Instant::now(), run.stats.borrow().handled.total);
        if handled != seen {
            (seen, since) = (handled, now);
        }
        let stopped = stop.is_cancelled().then(|| *stop_seen.get_or_insert(now));
        let is_over = run.plan.what == BenchMode::Consume && run.closed.is_cancelled();
        if handled >= messages || is_over || stopped.is_some_and(|at| now - at > STOP_GRACE) {
            return;
        }
        if now - since > STALL_TIMEOUT {
            return run.fail(format!(
                "no message for {} s, and {} of {messages} are missing: does another consumer take them, or is nsqd gone?",
                STALL_TIMEOUT.as_secs(),
                messages - handled
            ));
        }
    }
}

//! Consuming: each message is finished as soon as it arrives.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::body::stamp;
use super::ground::Ground;
use super::plan::Plan;
use super::run::Run;
use crate::commands::bench::args::What;
use crate::commands::common::exit::Failure;
use mqueue::client::{ClientBackend, Consumer, ConsumerConfig};

/// Messages taken from the consumer at once.
const AT_ONCE: usize = 1000;
/// Interval between checks whether all messages have arrived.
const MOMENT: Duration = Duration::from_millis(1);
/// Longest time without a message while some are missing.
const STALL: Duration = Duration::from_secs(30);
/// Grace period for the last messages after a stop was requested.
const HURRY: Duration = Duration::from_secs(1);

/// Connects as many consumers as the plan has connections, and at least one per nsqd, spread over the nsqds.
pub(super) async fn connect(plan: &Plan, backend: ClientBackend, ground: &Ground) -> Result<Vec<Consumer>, Failure> {
    let mut consumers = Vec::new();
    for address in ground.tcp.iter().cycle().take(ground.tcp.len().max(plan.connections as usize)) {
        let mut config = ConsumerConfig::new(ground.topic.clone(), ground.channel.clone());
        config.nsqd = vec![address.clone()];
        config.flow.max_in_flight = plan.max_in_flight;
        config.backend = backend;
        consumers.push(Consumer::connect(config).await.map_err(|e| Failure::unavailable(&e))?);
    }
    Ok(consumers)
}

/// Finishes every message that arrives. Never returns; runs beside the publishing.
pub(super) async fn consume(run: &Run, consumers: &mut [Consumer]) -> std::convert::Infallible {
    let is_timed = run.plan.what == What::Both;
    join_all(consumers.iter_mut().map(|consumer| async move {
        loop {
            let deliveries = consumer.recv_many(AT_ONCE).await;
            if deliveries.is_empty() {
                return run.fail("the consumer has ended");
            }
            let now = Instant::now();
            let mut tally = run.tally.borrow_mut();
            for delivery in deliveries {
                let stamp = stamp(&delivery.message().body).filter(|_| is_timed);
                tally.handled(stamp.map(|stamp| run.moment(stamp, now)), now);
                delivery.finish();
            }
        }
    }))
    .await;
    std::future::pending().await
}

/// Closes the consumers in order; messages that still arrive are requeued.
pub(super) async fn leave(consumers: Vec<Consumer>) {
    let leaving = consumers.into_iter().map(|mut consumer| async move {
        consumer.stop();
        while !consumer.recv_many(AT_ONCE).await.is_empty() {}
    });
    // the timeout loses nothing: the stream is deleted in any case
    let _ = timeout(HURRY, join_all(leaving)).await;
}

/// Waits until `messages` messages were handled, or no more arrive; `stop` shortens the wait to a grace period.
pub(super) async fn arrive(run: &Run, messages: u64, stop: &CancellationToken) {
    let mut moments = interval(MOMENT);
    moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut since, mut hurried) = (0, Instant::now(), None);
    loop {
        moments.tick().await;
        let (now, handled) = (Instant::now(), run.tally.borrow().handled.total);
        if handled != seen {
            (seen, since) = (handled, now);
        }
        let stopped = stop.is_cancelled().then(|| *hurried.get_or_insert(now));
        let is_over = run.plan.what == What::Consume && run.closed.is_cancelled();
        if handled >= messages || is_over || stopped.is_some_and(|at| now - at > HURRY) {
            return;
        }
        if now - since > STALL {
            return run.fail(format!(
                "nothing came for {} s, and {} of {messages} messages are missing: is somebody else consuming, or is nsqd gone?",
                STALL.as_secs(),
                messages - handled
            ));
        }
    }
}

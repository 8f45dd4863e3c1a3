//! Consuming: each message is answered as soon as it is there.

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
use mqueue::client::{Consumer, ConsumerConfig, Driver};

/// Messages that are taken at once.
const AT_ONCE: usize = 1000;
/// How often is looked whether all are there.
const MOMENT: Duration = Duration::from_millis(1);
/// How long nothing may come while messages are missing.
const STALL: Duration = Duration::from_secs(30);
/// How long the last ones may take when somebody wants it to end.
const HURRY: Duration = Duration::from_secs(1);

/// As many consumers as there are to be connections, spread over the nsqds.
pub(super) async fn connect(plan: &Plan, driver: Driver, ground: &Ground) -> Result<Vec<Consumer>, Failure> {
    let mut consumers = Vec::new();
    for address in ground.tcp.iter().cycle().take(ground.tcp.len().max(plan.connections as usize)) {
        let mut config = ConsumerConfig::new(ground.topic.clone(), ground.channel.clone());
        config.nsqd = vec![address.clone()];
        config.flow.max_in_flight = plan.max_in_flight;
        config.driver = driver;
        consumers.push(Consumer::connect(config).await.map_err(|e| Failure::unavailable(&e))?);
    }
    Ok(consumers)
}

/// Handles what comes; never ends, for it runs beside the work.
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

/// Leaves the stream in order. What still comes is given back.
pub(super) async fn leave(consumers: Vec<Consumer>) {
    let leaving = consumers.into_iter().map(|mut consumer| async move {
        consumer.stop();
        while !consumer.recv_many(AT_ONCE).await.is_empty() {}
    });
    // the stream is deleted in any case
    let _ = timeout(HURRY, join_all(leaving)).await;
}

/// Waits until so many messages were handled, or nothing more comes. `stop`: somebody wants it to end.
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

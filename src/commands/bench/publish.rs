//! Publishing: in a closed loop, on a schedule, or to fill a stream.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::body::BodyPool;
use super::run::BenchRun;
use crate::commands::common::precise_timer::PreciseTimer;
use crate::commands::common::schedule::Schedule;
use mqueue::client::{PublishManyError, Publisher};
use mqueue::proto::TopicName;

/// Limit on the bytes unacknowledged in an open loop while the broker is slow. Beyond it messages
/// are sent late.
const MAX_BYTES_ON_SCHEDULE: usize = 32 << 20;
/// Estimated overhead of a message, and of a batch, in bytes.
const MESSAGE_COST: usize = 64;
const BATCH_COST: usize = 1024;
/// Unsent batches recorded one by one; beyond this number, some are recorded for all.
const MAX_UNSENT_RECORDS: u64 = 100_000;
/// Batches started before answers are read.
const MAX_STARTED: u64 = 64;
/// Bytes per command when filling a stream, and unacknowledged commands per connection.
const FILL_COMMAND_BYTES: usize = 256 * 1024;
const FILLS_PER_CONNECTION: usize = 4;

/// The publishers, the topic and the bodies of a run.
pub(super) struct BenchPublisher<'a> {
    pub(super) publishers: &'a [Publisher],
    pub(super) topic: &'a TopicName,
    pub(super) bodies: &'a BodyPool,
}

impl BenchPublisher<'_> {
    /// Publishes until the run is closed or all messages of the plan are published; then waits for
    /// every acknowledgement.
    pub(super) async fn publish(&self, run: &BenchRun) -> std::io::Result<()> {
        match run.plan.rate {
            Some(rate) => self.on_schedule(run, rate).await,
            None => {
                let lanes = self.publishers.iter().flat_map(|publisher| (0..run.plan.window).map(move |_| publisher));
                join_all(lanes.map(|publisher| self.one_by_one(run, publisher))).await;
                Ok(())
            }
        }
    }

    /// Publishes one batch after the other, each once the last is acknowledged.
    async fn one_by_one(&self, run: &BenchRun, publisher: &Publisher) {
        while !run.closed.is_cancelled() {
            let now = Instant::now();
            let Some(count) = run.reserve(run.plan.batch, now) else { break };
            self.batch(run, publisher, count, now).await;
        }
    }

    /// Publishes each batch when it is due, whether or not earlier ones were acknowledged.
    async fn on_schedule(&self, run: &BenchRun, rate: f64) -> std::io::Result<()> {
        let (timer, batch) = (PreciseTimer::start()?, run.plan.batch);
        let schedule = Schedule::new(run.begun, rate / f64::from(batch));
        let cost = BATCH_COST + batch as usize * (self.bodies.size() + MESSAGE_COST);
        let room = (MAX_BYTES_ON_SCHEDULE / cost).max(self.publishers.len());
        let mut in_flight = FuturesUnordered::new();
        let mut sent = 0;
        'sending: loop {
            // read before the clock: batches due by the end are still sent after it, up to
            // `MAX_STARTED`
            let is_over = run.closed.is_cancelled();
            let due = schedule.due(Instant::now());
            let most = due.min(sent + MAX_STARTED);
            while sent < most && in_flight.len() < room {
                let at = schedule.at(sent);
                let Some(count) = run.reserve(batch, at) else { break 'sending };
                run.stats.borrow_mut().sent_late(count, at, Instant::now());
                let publisher = &self.publishers[(sent % self.publishers.len() as u64) as usize];
                in_flight.push(self.batch(run, publisher, count, at));
                sent += 1;
            }
            if is_over {
                break;
            }
            let is_full = in_flight.len() >= room;
            let wake = async {
                match sent < due {
                    true if is_full => std::future::pending().await,
                    true => tokio::task::yield_now().await,
                    false => timer.at(schedule.at(sent)).await,
                }
            };
            tokio::select! {
                biased;
                () = settle(&mut in_flight, is_full) => {}
                () = wake => {}
                () = run.closed.cancelled() => {}
            }
        }
        self.give_up(run, &schedule, sent);
        while in_flight.next().await.is_some() {}
        Ok(())
    }

    /// Records the batches from `sent` on that were due before the end as unsent.
    fn give_up(&self, run: &BenchRun, schedule: &Schedule, sent: u64) {
        let until = run.stats.borrow().window.until.unwrap_or_else(Instant::now);
        let due = schedule.due(until - Duration::from_nanos(1));
        let stride = due.saturating_sub(sent) / MAX_UNSENT_RECORDS + 1;
        for n in (sent..due).step_by(stride as usize) {
            let (at, batches) = (schedule.at(n), stride.min(due - n));
            let most = u32::try_from(batches.saturating_mul(u64::from(run.plan.batch))).unwrap_or(u32::MAX);
            let Some(count) = run.reserve(most, at) else { break };
            run.stats.borrow_mut().unsent(count, at, until.max(at));
        }
    }

    /// Publishes one batch, due at `due`. A failure to publish ends the run.
    async fn batch(&self, run: &BenchRun, publisher: &Publisher, count: u64, due: Instant) {
        let mut bodies = self.bodies.batch(count as usize, run.stamp(due));
        let published = match (bodies.len(), bodies.pop()) {
            (1, Some(body)) => publisher.publish(self.topic, body).await,
            (_, last) => {
                bodies.extend(last);
                let published = publisher.publish_many(self.topic, bodies).await;
                published.map_err(|PublishManyError(mut failed)| failed.swap_remove(0).1)
            }
        };
        match published {
            Ok(()) => run.stats.borrow_mut().published(count, due, Instant::now()),
            Err(error) => run.fail(format!("cannot publish: {error}")),
        }
    }

    /// Fills the stream, with an equal share for each of `FILLS_PER_CONNECTION` loops per
    /// connection. Fails with the first message that cannot be published.
    pub(super) async fn fill(&self, messages: u64) -> Result<(), String> {
        let share = |n: usize, of: usize| messages / of as u64 + u64::from((n as u64) < messages % of as u64);
        let lanes = self.publishers.len() * FILLS_PER_CONNECTION;
        let most = (FILL_COMMAND_BYTES / self.bodies.size()).max(1) as u64;
        let filling = (0..lanes).map(|lane| async move {
            let publisher = &self.publishers[lane % self.publishers.len()];
            let mut left = share(lane, lanes);
            while left > 0 {
                let count = left.min(most);
                let published = publisher.publish_many(self.topic, self.bodies.batch(count as usize, 0)).await;
                published.map_err(|error| format!("cannot fill the stream: {error}"))?;
                left -= count;
            }
            Ok(())
        });
        join_all(filling).await.into_iter().collect()
    }
}

/// Takes answers as they come: returns after the first if there is no room for more, otherwise
/// never. Cancel-safe.
async fn settle(in_flight: &mut FuturesUnordered<impl Future<Output = ()>>, is_full: bool) {
    while in_flight.next().await.is_some() {
        if is_full {
            return;
        }
    }
    std::future::pending().await
}

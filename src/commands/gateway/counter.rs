//! `--counter`: the gateway publishes jobs itself, the numbers from 1, as workers have room for
//! them.
//!
//! A number goes through the broker like any job: it is published, acknowledged, handed out and
//! answered, and redelivered if its worker disconnects.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep;

use super::Gateway;
use super::jobs::GroupKey;
use crate::commands::worker::args::{GROUP, STREAM};
use mqueue::proto::{ChannelName, TopicName};

/// The most numbers published at once.
const BATCH: u64 = 500;
/// Time after which a published number that was not delivered counts as lost to this gateway:
/// another gateway of the group may have it.
const LOST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest such time; it doubles while no number is delivered, because the group may be paused.
const MAX_LOST_TIMEOUT: Duration = Duration::from_secs(600);
/// Delay between a failed publish and the next attempt.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The state of the numbers: the last one published, and those not delivered yet.
#[derive(Debug)]
pub(super) struct JobCounter {
    key: GroupKey,
    last: u64,
    /// The numbers published and not handed out yet.
    outstanding: BTreeSet<u64>,
    /// When a number was last published.
    last_progress: Instant,
    lost_timeout: Duration,
}

impl JobCounter {
    /// Creates the counter for the default stream and group of `mqueue worker`.
    pub(super) fn new(now: Instant) -> Self {
        let stream = TopicName::new(STREAM).expect("a valid name");
        let group = ChannelName::new(GROUP).expect("a valid name");
        let key = GroupKey { stream, group };
        Self { key, last: 0, outstanding: BTreeSet::new(), last_progress: now, lost_timeout: LOST_TIMEOUT }
    }

    pub(super) fn key(&self) -> &GroupKey {
        &self.key
    }

    /// Returns the numbers to publish now, for workers with room for `room` jobs. Empty if enough
    /// numbers are outstanding.
    pub(super) fn next(&mut self, room: u64, now: Instant) -> Range<u64> {
        if !self.outstanding.is_empty() && self.due(room) <= now {
            self.outstanding.clear();
            self.lost_timeout = (2 * self.lost_timeout).min(MAX_LOST_TIMEOUT);
        }
        let wanted = room.saturating_sub(self.outstanding.len() as u64).min(BATCH);
        let numbers = self.last + 1..self.last + 1 + wanted;
        if wanted > 0 {
            self.last += wanted;
            self.outstanding.extend(numbers.clone());
            self.last_progress = now;
        }
        numbers
    }

    /// Returns when outstanding numbers count as lost.
    fn due(&self, room: u64) -> Instant {
        let lost_timeout = if room > 0 { self.lost_timeout } else { MAX_LOST_TIMEOUT };
        self.last_progress + lost_timeout
    }

    /// Records that a job of this group is handed out; returns its number, or `None` if it has
    /// none.
    pub(super) fn handed_out(&mut self, key: &GroupKey, body: &[u8]) -> Option<u64> {
        let number = std::str::from_utf8(body).ok().filter(|_| *key == self.key)?.parse().ok()?;
        if self.outstanding.remove(&number) {
            self.lost_timeout = LOST_TIMEOUT;
        }
        Some(number)
    }
}

/// Publishes numbers until the gateway ends.
pub(super) async fn run(gateway: Arc<Gateway>) {
    let counting = async {
        create_group(&gateway).await;
        loop {
            let numbers = gateway.exchange.numbers_wanted();
            if numbers.is_empty() {
                tokio::select! {
                    () = gateway.exchange.room_changed.notified() => {}
                    () = sleep(LOST_TIMEOUT) => {}
                }
            } else {
                publish(&gateway, numbers).await;
            }
        }
    };
    tokio::select! {
        () = counting => {}
        () = gateway.shutdown.draining.cancelled() => {}
    }
}

/// Creates the numbers' group, so that a worker's GET finds it.
async fn create_group(gateway: &Arc<Gateway>) {
    let key = JobCounter::new(Instant::now()).key;
    while let Err(refusal) = gateway.group_opening(&key).await {
        tracing::debug!("cannot create the group of the numbers yet: {}", refusal.message());
        sleep(RETRY_DELAY).await;
    }
}

/// Publishes these numbers; retries those that nsqd does not accept.
async fn publish(gateway: &Gateway, numbers: Range<u64>) {
    let stream = TopicName::new(STREAM).expect("a valid name");
    let mut bodies: Vec<Bytes> = numbers.map(|number| number.to_string().into()).collect();
    loop {
        let count = bodies.len();
        let published = match gateway.publisher().await {
            Ok(publisher) => {
                let published = publisher.publish_many(&stream, bodies.clone()).await;
                published.map_err(|error| {
                    bodies = error.0.iter().map(|(place, _)| bodies[*place].clone()).collect();
                    error.0[0].1.to_string()
                })
            }
            Err(refusal) => Err(refusal.message().to_owned()),
        };
        let left = if published.is_ok() { 0 } else { bodies.len() };
        gateway.exchange.counters.published.inc_by((count - left) as u64);
        let Err(why) = published else { return };
        tracing::warn!("publishing numbers failed, trying again: {why}");
        sleep(RETRY_DELAY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> (JobCounter, GroupKey, Instant) {
        let now = Instant::now();
        let counter = JobCounter::new(now);
        let key = counter.key.clone();
        (counter, key, now)
    }

    #[test]
    fn numbers_are_published_as_workers_have_room_and_each_once() {
        let (mut counter, key, now) = counter();
        assert!(counter.next(0, now).is_empty());
        assert_eq!(counter.next(2, now), 1..3);
        assert!(counter.next(2, now).is_empty(), "two are on their way");
        assert_eq!(counter.handed_out(&key, b"1"), Some(1));
        assert_eq!(counter.next(2, now), 3..4);
        assert_eq!(counter.handed_out(&key, b"1"), Some(1), "it came again");
        assert!(counter.next(2, now).is_empty(), "a number that comes again makes no room");
        assert_eq!(counter.next(10_000, now), 4..504);
    }

    #[test]
    fn other_jobs_and_other_groups_are_ignored() {
        let (mut counter, key, _) = counter();
        assert_eq!(counter.handed_out(&key, b"one"), None);
        assert_eq!(counter.handed_out(&key, b"\xff"), None);
        let other = GroupKey { group: ChannelName::new("others").unwrap(), ..key };
        assert_eq!(counter.handed_out(&other, b"1"), None);
    }

    #[test]
    fn lost_numbers_are_replaced_and_ever_more_slowly_for_a_paused_group() {
        let (mut counter, key, start) = counter();
        let (mut published, mut at) = (0, start);
        while at < start + Duration::from_secs(3600) {
            published += counter.next(1, at).count();
            at += Duration::from_secs(1);
        }
        assert!((9..=14).contains(&published), "{published} in an hour");
        assert_eq!(counter.handed_out(&key, counter.last.to_string().as_bytes()), Some(counter.last));
        assert_eq!(counter.next(1, at).count(), 1);
        assert_eq!(counter.next(1, at + LOST_TIMEOUT).count(), 1, "the timeout is short again");
    }
}

//! `--counter`: the gateway publishes its own jobs, the numbers from 1, as workers have room for them.
//!
//! A number goes through the broker as any job does: it is published, acknowledged, handed out and answered, and comes again if its
//! worker goes away.

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

/// Numbers that are published in one go, at the most.
const BATCH: u64 = 500;
/// How long a number may be on its way before it counts as taken elsewhere: by another gateway of the group, say.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that grows to while nothing comes: the group may be paused.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// How long after a publish that failed the next one is tried.
const AGAIN: Duration = Duration::from_secs(1);

/// Which numbers are to be published.
#[derive(Debug)]
pub(super) struct Counter {
    key: GroupKey,
    last: u64,
    /// Published, and not handed out yet.
    on_the_way: BTreeSet<u64>,
    /// When a number was published or came the last time.
    moved: Instant,
    patience: Duration,
}

impl Counter {
    /// For the group that `mqueue worker` takes its jobs from.
    pub(super) fn new(now: Instant) -> Self {
        let stream = TopicName::new(STREAM).expect("a valid name");
        let group = ChannelName::new(GROUP).expect("a valid name");
        let key = GroupKey { stream, group };
        Self { key, last: 0, on_the_way: BTreeSet::new(), moved: now, patience: PATIENCE }
    }

    pub(super) fn key(&self) -> &GroupKey {
        &self.key
    }

    /// The numbers to publish now, for workers that have room for so many jobs. Empty if enough are on their way.
    pub(super) fn next(&mut self, room: u64, now: Instant) -> Range<u64> {
        if !self.on_the_way.is_empty() && self.due(room) <= now {
            self.on_the_way.clear();
            self.patience = (2 * self.patience).min(LONGEST_PATIENCE);
        }
        let wanted = room.saturating_sub(self.on_the_way.len() as u64).min(BATCH);
        let numbers = self.last + 1..self.last + 1 + wanted;
        if wanted > 0 {
            self.last += wanted;
            self.on_the_way.extend(numbers.clone());
            self.moved = now;
        }
        numbers
    }

    /// When to look again if nothing happens.
    fn due(&self, room: u64) -> Instant {
        let patience = if room > 0 { self.patience } else { LONGEST_PATIENCE };
        self.moved + patience
    }

    /// The number that a job of this group is, which is handed out; `None` if it is no number.
    pub(super) fn taken(&mut self, key: &GroupKey, body: &[u8]) -> Option<u64> {
        let number = std::str::from_utf8(body).ok().filter(|_| *key == self.key)?.parse().ok()?;
        if self.on_the_way.remove(&number) {
            self.patience = PATIENCE;
        }
        Some(number)
    }
}

/// Publishes numbers until the gateway ends.
pub(super) async fn run(gateway: Arc<Gateway>) {
    let counting = async {
        loop {
            let numbers = gateway.exchange.numbers_wanted();
            if numbers.is_empty() {
                tokio::select! {
                    () = gateway.exchange.room_changed.notified() => {}
                    () = sleep(PATIENCE) => {}
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

/// Publishes these, and tries again what nsqd does not take.
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
            Err(refusal) => Err(refusal.error().to_owned()),
        };
        let left = if published.is_ok() { 0 } else { bodies.len() };
        gateway.exchange.counters.published.inc_by((count - left) as u64);
        let Err(why) = published else { return };
        tracing::warn!("numbers cannot be published, trying again: {why}");
        sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> (Counter, GroupKey, Instant) {
        let now = Instant::now();
        let counter = Counter::new(now);
        let key = counter.key.clone();
        (counter, key, now)
    }

    #[test]
    fn numbers_are_published_as_workers_have_room_and_each_once() {
        let (mut counter, key, now) = counter();
        assert!(counter.next(0, now).is_empty());
        assert_eq!(counter.next(2, now), 1..3);
        assert!(counter.next(2, now).is_empty(), "two are on their way");
        assert_eq!(counter.taken(&key, b"1"), Some(1));
        assert_eq!(counter.next(2, now), 3..4);
        assert_eq!(counter.taken(&key, b"1"), Some(1), "it came again");
        assert!(counter.next(2, now).is_empty(), "a number that comes again makes no room");
        assert_eq!(counter.next(10_000, now), 4..504);
    }

    #[test]
    fn other_jobs_and_other_groups_are_no_numbers() {
        let (mut counter, key, _) = counter();
        assert_eq!(counter.taken(&key, b"one"), None);
        assert_eq!(counter.taken(&key, b"\xff"), None);
        let other = GroupKey { group: ChannelName::new("others").unwrap(), ..key };
        assert_eq!(counter.taken(&other, b"1"), None);
    }

    #[test]
    fn numbers_that_others_took_do_not_keep_workers_waiting_and_a_paused_group_gets_ever_fewer() {
        let (mut counter, key, start) = counter();
        let (mut published, mut at) = (0, start);
        while at < start + Duration::from_secs(3600) {
            published += counter.next(1, at).count();
            at += Duration::from_secs(1);
        }
        assert!((9..=14).contains(&published), "{published} in an hour");
        assert_eq!(counter.taken(&key, counter.last.to_string().as_bytes()), Some(counter.last));
        assert_eq!(counter.next(1, at).count(), 1);
        assert_eq!(counter.next(1, at + PATIENCE).count(), 1, "patience is short again");
    }
}

//! Account of the messages published and handled: pure.

use std::time::{Duration, Instant};

use super::children::DemoEvent;
use mqueue::plural::count;

/// Counts of how often a group handled each order.
#[derive(Debug, Default)]
struct OrderCounts {
    times: Vec<u32>,
    orders: u64,
    twice: u64,
}

impl OrderCounts {
    fn count(&mut self, order: u64) {
        let index = usize::try_from(order).expect("orders fit in memory");
        if self.times.len() <= index {
            self.times.resize(index + 1, 0);
        }
        self.times[index] += 1;
        match self.times[index] {
            1 => self.orders += 1,
            _ => self.twice += 1,
        }
    }
}

/// The demo's account.
#[derive(Debug)]
pub(super) struct DemoStats {
    /// Publish time of each order.
    sent: Vec<Instant>,
    acknowledged: u64,
    mailed: OrderCounts,
    /// Messages handled by each consumer.
    pub(super) shares: Vec<u64>,
    reported: OrderCounts,
    /// Number of consumers subscribed in the group that stays awake.
    pub(super) awake: usize,
    /// True while the consumer of the sleeping group runs.
    pub(super) is_running: bool,
    /// True from a wake-up until the first message is handled.
    is_waking: bool,
    of_this_wake: u64,
    pub(super) wakes: Vec<Duration>,
}

impl DemoStats {
    pub(super) fn new(consumers: usize) -> Self {
        Self {
            sent: Vec::new(),
            acknowledged: 0,
            mailed: OrderCounts::default(),
            shares: vec![0; consumers],
            reported: OrderCounts::default(),
            awake: 0,
            is_running: false,
            is_waking: false,
            of_this_wake: 0,
            wakes: Vec::new(),
        }
    }

    /// Numbers an order that is published now.
    pub(super) fn next_order(&mut self, now: Instant) -> u64 {
        self.sent.push(now);
        self.sent.len() as u64 - 1
    }

    /// Counts an order that the broker acknowledged.
    pub(super) fn published(&mut self) {
        self.acknowledged += 1;
    }

    /// Records an event; returns a line if the event is worth one.
    pub(super) fn record(&mut self, event: DemoEvent, now: Instant) -> Option<String> {
        match event {
            DemoEvent::Awake => self.awake += 1,
            DemoEvent::Mailed { consumer, order } => {
                self.shares[consumer] += 1;
                self.mailed.count(order);
            }
            DemoEvent::Woken => (self.is_running, self.is_waking, self.of_this_wake) = (true, true, 0),
            DemoEvent::Reported { order } => {
                self.reported.count(order);
                self.of_this_wake += 1;
                let sent = self.sent.get(usize::try_from(order).ok()?).copied();
                if let Some(sent) = sent.filter(|_| std::mem::take(&mut self.is_waking)) {
                    let took = now - sent;
                    self.wakes.push(took);
                    return Some(format!("woken by its socket: {} ms from publishing to handled", took.as_millis()));
                }
            }
            DemoEvent::Asleep => {
                self.is_running = false;
                return Some(format!("{} later idle for 1 s: asleep again", count(self.of_this_wake, "message")));
            }
        }
        None
    }

    /// Describes how many messages were published, and how many each group has handled.
    pub(super) fn summary(&self) -> String {
        let Self { acknowledged, mailed, reported, .. } = self;
        format!("{acknowledged} published; so far mail handled {}, reports {}", mailed.orders, reported.orders)
    }

    /// Counts the messages that the broker acknowledged and a group has not handled.
    pub(super) fn lost(&self) -> u64 {
        self.rows().iter().map(|row| row.lost).sum()
    }

    /// Returns one row per group.
    pub(super) fn rows(&self) -> [GroupRow; 2] {
        let row = |handled: &OrderCounts| GroupRow {
            published: self.acknowledged,
            handled: handled.orders,
            lost: self.acknowledged.saturating_sub(handled.orders),
            twice: handled.twice,
        };
        [row(&self.mailed), row(&self.reported)]
    }
}

/// The counts of a group's messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupRow {
    pub(super) published: u64,
    pub(super) handled: u64,
    pub(super) lost: u64,
    pub(super) twice: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unhandled_orders_are_lost_and_repeated_ones_are_counted() {
        let (now, mut stats) = (Instant::now(), DemoStats::new(2));
        for _ in 0..3 {
            stats.next_order(now);
            stats.published();
        }
        for (consumer, order) in [(0, 0), (1, 1), (1, 2), (0, 2)] {
            stats.record(DemoEvent::Mailed { consumer, order }, now);
        }
        stats.record(DemoEvent::Reported { order: 1 }, now);
        assert_eq!(stats.rows()[0], GroupRow { published: 3, handled: 3, lost: 0, twice: 1 });
        assert_eq!(stats.rows()[1], GroupRow { published: 3, handled: 1, lost: 2, twice: 0 });
        assert_eq!((stats.lost(), &stats.shares[..]), (2, &[2, 2][..]));
    }

    #[test]
    fn a_wake_up_is_timed_from_publishing_to_the_first_message() {
        let (start, mut stats) = (Instant::now(), DemoStats::new(1));
        stats.next_order(start);
        stats.next_order(start);
        stats.record(DemoEvent::Woken, start);
        let later = start + Duration::from_millis(20);
        assert!(stats.record(DemoEvent::Reported { order: 0 }, later).is_some_and(|line| line.contains("20 ms")));
        assert_eq!(stats.record(DemoEvent::Reported { order: 1 }, later), None);
        assert!(stats.record(DemoEvent::Asleep, later).is_some_and(|line| line.starts_with("2 messages")));
        assert_eq!(stats.wakes, [Duration::from_millis(20)]);
    }
}

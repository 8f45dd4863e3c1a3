//! The past of a stream or group, as far as this process has seen it: depths for the sparkline, and
//! arrivals for the age of the oldest message.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Depths that are kept: as many as a sparkline can show.
const MAX_DEPTHS: usize = 24;
/// Arrivals that are kept. With more, the older ones are told less exactly.
const MAX_ARRIVALS: usize = 48;

/// The counts of a stream or group at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HistoryPoint {
    /// Messages in the queue.
    pub(super) depth: u64,
    /// Messages in the queue, in flight and deferred.
    pub(super) held: u64,
    /// Messages received since the nsqds started.
    pub(super) received: u64,
    /// True if no consumer is connected, and a socket would wake one.
    pub(super) asleep: bool,
    pub(super) connections: u64,
}

/// The past of a stream or group.
#[derive(Debug, Default)]
pub(super) struct QueueHistory {
    depths: VecDeque<u32>,
    arrivals: VecDeque<SeenArrival>,
    last: Option<HistoryPoint>,
    /// The time of the last change from asleep to awake.
    pub(super) woken: Option<Instant>,
    /// The number of the last listing that has it.
    pub(super) listing: u64,
}

/// The time when so many messages were first seen to be received.
#[derive(Debug, Clone, Copy)]
struct SeenArrival {
    at: Instant,
    received: u64,
    /// True if they were there at the first look.
    is_first: bool,
}

/// The age of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageAge {
    /// At least this old: it was there before this process looked.
    Over(Duration),
    /// First seen this long ago.
    Seen(Duration),
}

impl MessageAge {
    /// Returns the age, or the least that it can be.
    pub(super) fn duration(self) -> Duration {
        match self {
            Self::Over(age) | Self::Seen(age) => age,
        }
    }
}

impl QueueHistory {
    /// Adds a point. Returns true if a sleeping group has woken since the last one.
    pub(super) fn add(&mut self, now: Instant, point: HistoryPoint) -> bool {
        if self.depths.len() == MAX_DEPTHS {
            self.depths.pop_front();
        }
        self.depths.push_back(u32::try_from(point.depth).unwrap_or(u32::MAX));
        let received = point.received;
        match self.last {
            Some(last) if last.received == received => {}
            Some(last) if last.received < received => {
                self.arrivals.push_back(SeenArrival { at: now, received, is_first: false });
            }
            // the first look, or an nsqd's count is gone: it was started again, or did not answer
            _ => {
                self.arrivals.clear();
                self.arrivals.push_back(SeenArrival { at: now, received, is_first: true });
            }
        }
        // more than were received: an nsqd had them on its disk when it started
        let finished = received.checked_sub(point.held);
        while self.arrivals.front().is_some_and(|arrival| finished.is_some_and(|finished| arrival.received <= finished))
        {
            self.arrivals.pop_front();
        }
        if self.arrivals.len() > MAX_ARRIVALS {
            self.thin();
        }
        let has_woken = self.last.is_some_and(|last| last.asleep) && point.connections > 0;
        if has_woken {
            self.woken = Some(now);
        }
        self.last = Some(point);
        has_woken
    }

    /// Removes every second of the older arrivals, but not the oldest: their messages count as those
    /// of the next one, so that no age is too high.
    fn thin(&mut self) {
        let half = self.arrivals.len() / 2;
        let mut number = 0;
        self.arrivals.retain(|_| {
            number += 1;
            number > half || number % 2 == 1
        });
    }

    /// Returns the age of the oldest message; `None` if there is none.
    ///
    /// nsqd does not tell it. Of the messages received, as many as are held are left, so the oldest
    /// of them is at least as old as the message that is that many before the last one; in a queue
    /// whose messages leave in order it is this one.
    pub(super) fn oldest(&self, now: Instant) -> Option<MessageAge> {
        self.last.filter(|last| last.held > 0)?;
        let Some(oldest) = self.arrivals.front() else { return Some(MessageAge::Over(Duration::ZERO)) };
        let age = now.saturating_duration_since(oldest.at);
        Some(if oldest.is_first { MessageAge::Over(age) } else { MessageAge::Seen(age) })
    }

    /// Returns the last depths, the newest last.
    pub(super) fn depths(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.depths.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history with a point each second: received in all, and held.
    fn after(points: &[(u64, u64)]) -> (QueueHistory, Instant) {
        let begin = Instant::now();
        let mut history = QueueHistory::default();
        for (second, (received, held)) in points.iter().enumerate() {
            let point = HistoryPoint { depth: *held, held: *held, received: *received, ..HistoryPoint::default() };
            history.add(begin + Duration::from_secs(second as u64), point);
        }
        (history, begin + Duration::from_secs(points.len() as u64 - 1))
    }

    #[test]
    fn the_oldest_message_is_as_old_as_its_arrival() {
        let seconds = Duration::from_secs;
        for (points, expected) in [
            (&[(0, 0)][..], None),
            (&[(10, 3)], Some(MessageAge::Over(seconds(0)))),
            (&[(10, 3), (10, 3), (10, 3)], Some(MessageAge::Over(seconds(2)))),
            // what was there at first is handled; the rest came later
            (&[(10, 3), (14, 7), (14, 4)], Some(MessageAge::Seen(seconds(1)))),
            (&[(10, 0), (12, 2), (12, 2), (20, 10), (20, 9), (20, 8)], Some(MessageAge::Seen(seconds(2)))),
            (&[(10, 0), (12, 2), (12, 0)], None),
            // an nsqd was started again, and has messages on disk
            (&[(10, 0), (12, 2), (0, 2), (0, 2)], Some(MessageAge::Over(seconds(1)))),
            (&[(0, 100), (5, 105), (5, 50)], Some(MessageAge::Over(seconds(2)))),
        ] {
            let (history, now) = after(points);
            assert_eq!(history.oldest(now), expected, "{points:?}");
        }
    }

    #[test]
    fn a_long_history_stays_small_and_makes_no_age_too_high() {
        let points: Vec<_> = (0..10_000).map(|second| (second * 10, second * 10)).collect();
        let (history, now) = after(&points);
        assert!(history.arrivals.len() <= MAX_ARRIVALS && history.depths().len() == MAX_DEPTHS);
        let Some(MessageAge::Seen(age)) = history.oldest(now) else { panic!("{:?}", history.oldest(now)) };
        assert!(age <= Duration::from_secs(10_000), "{age:?}");
        assert_eq!(history.depths().last(), Some(99_990));
    }

    #[test]
    fn a_group_that_was_asleep_and_has_a_consumer_has_woken() {
        let now = Instant::now();
        let mut history = QueueHistory::default();
        let point = |asleep, connections| HistoryPoint { asleep, connections, ..HistoryPoint::default() };
        assert!(!history.add(now, point(false, 1)), "nobody saw it sleep");
        assert!(!history.add(now, point(true, 0)));
        assert!(history.add(now, point(false, 2)));
        assert!(!history.add(now, point(false, 2)) && history.woken.is_some());
    }
}

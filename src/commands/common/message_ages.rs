//! The age of the oldest message of each stream and group, from the counts of several looks at the
//! nsqds, which do not tell it.
//!
//! Of the messages that a group received on an nsqd, as many as it holds are left. So the oldest of
//! them is at least as old as the message that is that many before the last one, and in a queue
//! whose messages leave in order it is this one. The time when so many were first seen to be
//! received is its age.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use mqueue::cluster::{ClusterState, NsqdState, QueueTarget};

/// Arrivals that are kept for each group on each nsqd. With more, the older ones are told less
/// exactly.
const MAX_ARRIVALS: usize = 16;

/// The age of the oldest message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageAge {
    /// At least this old: it was there at the first look.
    Over(Duration),
    /// First seen this long ago.
    Seen(Duration),
}

impl MessageAge {
    /// Returns the age, or the least that it can be.
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::Over(age) | Self::Seen(age) => age,
        }
    }
}

/// The ages of the oldest messages, of streams and groups that have any.
pub(crate) type OldestMessages = HashMap<QueueTarget, MessageAge>;

/// The arrivals that were seen so far.
#[derive(Debug)]
pub(crate) struct MessageAges {
    begun: Instant,
    /// Those of each nsqd, by its address.
    nsqds: HashMap<String, NsqdArrivals>,
}

/// The arrivals on an nsqd since it was started.
#[derive(Debug)]
struct NsqdArrivals {
    start_time: i64,
    /// Those of streams and groups that have messages.
    queues: HashMap<QueueTarget, VecDeque<SeenArrival>>,
}

/// The time when so many messages were first seen to be received. A large cluster has many of
/// these, so they are small.
#[derive(Debug, Clone, Copy)]
struct SeenArrival {
    /// Milliseconds since `begun`, in 63 bits, and a last bit that is set if they were there at the
    /// first look.
    at: u64,
    received: u64,
}

impl Default for MessageAges {
    fn default() -> Self {
        Self { begun: Instant::now(), nsqds: HashMap::new() }
    }
}

impl SeenArrival {
    fn new(since_begin: Duration, received: u64, is_first: bool) -> Self {
        let millis = u64::try_from(since_begin.as_millis()).unwrap_or(u64::MAX >> 1);
        Self { at: millis << 1 | u64::from(is_first), received }
    }

    fn since_begin(self) -> Duration {
        Duration::from_millis(self.at >> 1)
    }

    fn is_first(self) -> bool {
        self.at & 1 == 1
    }
}

impl MessageAges {
    /// Takes the counts of one more look; returns the ages of the oldest messages.
    pub(crate) fn look(&mut self, state: &ClusterState) -> OldestMessages {
        let mut oldest = OldestMessages::new();
        let mut add = |target: &QueueTarget, age: MessageAge| {
            let of_others = oldest.entry(target.clone()).or_insert(age);
            if of_others.duration() < age.duration() {
                *of_others = age;
            }
        };
        let mut earlier = std::mem::take(&mut self.nsqds);
        for nsqd in &state.nsqds {
            let address = nsqd.api.to_string();
            let earlier = earlier.remove(&address);
            match nsqd.stats() {
                // those of an nsqd that does not answer are kept
                None => self.nsqds.extend(earlier.map(|earlier| (address, earlier))),
                Some(_) => {
                    let arrivals = NsqdArrivals::after(earlier, nsqd, self.begun);
                    let now = state.at.saturating_duration_since(self.begun);
                    for (target, seen) in &arrivals.queues {
                        add(target, age(seen, now));
                    }
                    self.nsqds.insert(address, arrivals);
                }
            }
        }
        oldest
    }
}

impl NsqdArrivals {
    /// Adds the counts of an nsqd to its earlier arrivals.
    fn after(earlier: Option<Self>, nsqd: &NsqdState, begun: Instant) -> Self {
        let start_time = nsqd.stats().map_or(0, |stats| stats.start_time);
        let earlier = earlier.filter(|earlier| earlier.start_time == start_time);
        let is_first = earlier.is_none();
        let mut earlier = earlier.map(|earlier| earlier.queues).unwrap_or_default();
        let mut queues = HashMap::new();
        let mut keep = |target: QueueTarget, held: u64, received: u64| {
            let mut seen = earlier.remove(&target).unwrap_or_default();
            let now = nsqd.at.saturating_duration_since(begun);
            add(&mut seen, SeenArrival::new(now, received, is_first), held);
            queues.insert(target, seen);
        };
        for topic in nsqd.stats().into_iter().flat_map(|stats| &stats.topics) {
            if topic.depth > 0 {
                keep(QueueTarget::new(topic.name.clone(), None), topic.depth, topic.message_count);
            }
            for channel in topic.channels.iter().filter(|channel| channel.messages() > 0) {
                let target = QueueTarget::new(topic.name.clone(), Some(channel.name.clone()));
                keep(target, channel.messages(), channel.message_count);
            }
        }
        Self { start_time, queues }
    }
}

/// Adds what was received by now, and removes arrivals all of whose messages have left.
fn add(seen: &mut VecDeque<SeenArrival>, now: SeenArrival, held: u64) {
    if seen.back().is_some_and(|last| last.received > now.received) {
        // the group was deleted and created again
        seen.clear();
    }
    if seen.back().is_none_or(|last| last.received < now.received) {
        if seen.len() == MAX_ARRIVALS {
            thin(seen, now.since_begin());
        }
        seen.push_back(now);
    }
    // more than were received: nsqd had them on its disk when it started
    if let Some(finished) = now.received.checked_sub(held) {
        while seen.front().is_some_and(|arrival| arrival.received <= finished) {
            seen.pop_front();
        }
    }
}

/// Removes the arrival that is missed least: that with the smallest gap between its neighbours, in
/// proportion to their age. Its messages count as those of the next one, so that no age is too
/// high.
fn thin(seen: &mut VecDeque<SeenArrival>, now: Duration) {
    let gap = |number: &usize| {
        let (before, after) = (seen[number - 1].since_begin(), seen[number + 1].since_begin());
        let age = now.saturating_sub(before).as_secs_f64();
        after.saturating_sub(before).as_secs_f64() / age.max(f64::MIN_POSITIVE)
    };
    let least = (1..seen.len() - 1).min_by(|a, b| gap(a).total_cmp(&gap(b)));
    if let Some(number) = least {
        seen.remove(number);
    }
}

fn age(seen: &VecDeque<SeenArrival>, now: Duration) -> MessageAge {
    let Some(oldest) = seen.front() else { return MessageAge::Over(Duration::ZERO) };
    let age = now.saturating_sub(oldest.since_begin());
    if oldest.is_first() { MessageAge::Over(age) } else { MessageAge::Seen(age) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The age after a look each second: received in all, and held.
    fn after(points: &[(u64, u64)]) -> (VecDeque<SeenArrival>, Option<MessageAge>) {
        let mut seen = VecDeque::new();
        let mut now = Duration::ZERO;
        for (second, (received, held)) in points.iter().enumerate() {
            now = Duration::from_secs(second as u64);
            match held {
                // as `NsqdArrivals::after` does
                0 => seen.clear(),
                held => add(&mut seen, SeenArrival::new(now, *received, second == 0), *held),
            }
        }
        let oldest = (!seen.is_empty()).then(|| age(&seen, now));
        (seen, oldest)
    }

    #[test]
    fn the_oldest_message_is_as_old_as_its_arrival() {
        let (over, seen) = (
            |seconds| Some(MessageAge::Over(Duration::from_secs(seconds))),
            |seconds| Some(MessageAge::Seen(Duration::from_secs(seconds))),
        );
        for (points, expected) in [
            (&[(0, 0)][..], None),
            (&[(10, 3)], over(0)),
            (&[(10, 3), (10, 3), (10, 3)], over(2)),
            // the messages of the first look are handled; the rest came later
            (&[(10, 3), (14, 7), (14, 4)], seen(1)),
            (&[(10, 0), (12, 2), (12, 2), (20, 10), (20, 9), (20, 8)], seen(2)),
            (&[(10, 0), (12, 2), (12, 0)], None),
            // messages on the disk, which nsqd does not count as received
            (&[(0, 100), (5, 105), (5, 50)], over(2)),
            // deleted and created again
            (&[(10, 10), (10, 10), (2, 2), (2, 2)], seen(1)),
        ] {
            assert_eq!(after(points).1, expected, "{points:?}");
        }
    }

    #[test]
    fn a_long_history_stays_small_and_makes_no_age_too_high() {
        let points: Vec<_> = (0..10_000).map(|second| (second * 10, second * 10)).collect();
        let (seen, age) = after(&points);
        assert!(seen.len() <= MAX_ARRIVALS);
        assert_eq!(age, Some(MessageAge::Seen(Duration::from_secs(9_998))));
        // half of them are handled: the oldest is half as old, or told to be younger
        let points: Vec<_> = points.into_iter().chain([(99_990, 50_000)]).collect();
        let Some(MessageAge::Seen(age)) = after(&points).1 else { panic!() };
        assert!((2_000..=5_001).contains(&age.as_secs()), "{age:?}");
    }
}

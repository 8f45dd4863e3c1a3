//! The past of a stream or group, as far as this process has seen it: depths for the sparkline, and
//! its last wake.

use std::collections::VecDeque;
use std::time::Instant;

/// Depths that are kept: as many as a sparkline can show.
const MAX_DEPTHS: usize = 24;

/// A stream or group at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HistoryPoint {
    /// Messages in the queue.
    pub(super) depth: u64,
    /// True if no consumer is connected, and a socket would wake one.
    pub(super) asleep: bool,
    pub(super) connections: u64,
}

/// The past of a stream or group.
#[derive(Debug, Default)]
pub(super) struct QueueHistory {
    depths: VecDeque<u32>,
    was_asleep: bool,
    /// The time of the last change from asleep to awake.
    pub(super) woken: Option<Instant>,
    /// The number of the last listing that has it.
    pub(super) listing: u64,
}

impl QueueHistory {
    /// Adds a point. Returns true if a sleeping group has woken since the last one.
    pub(super) fn add(&mut self, now: Instant, point: HistoryPoint) -> bool {
        if self.depths.len() == MAX_DEPTHS {
            self.depths.pop_front();
        }
        self.depths.push_back(u32::try_from(point.depth).unwrap_or(u32::MAX));
        let has_woken = self.was_asleep && point.connections > 0;
        if has_woken {
            self.woken = Some(now);
        }
        self.was_asleep = point.asleep;
        has_woken
    }

    /// Returns the last depths, the newest last.
    pub(super) fn depths(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.depths.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_depths_are_kept() {
        let mut history = QueueHistory::default();
        for depth in 0..1000 {
            history.add(Instant::now(), HistoryPoint { depth, ..HistoryPoint::default() });
        }
        assert_eq!((history.depths().len(), history.depths().last()), (MAX_DEPTHS, Some(999)));
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

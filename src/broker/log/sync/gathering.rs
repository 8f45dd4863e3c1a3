//! Gathering of the writes that one sync covers, with [`SyncMode::Always`](super::SyncMode). Pure.
//!
//! Publishers that wait for each acknowledgement publish again as soon as a sync is over. If the next
//! sync began at once, it would cover the few writes that came during the last one, and those
//! publishers would wait for one more: two groups, each with half of the publishers, take turns. So
//! the next sync waits for as many writes as could be there, those just acknowledged and those that
//! wait already, but only for a fraction of the time of a sync.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait is the time of the last sync divided by this.
const FRACTION: u32 = 8;
/// The longest wait is at least this: a publisher on this machine is back within it.
const SHORTEST: Duration = Duration::from_micros(100);
/// The longest wait is at most this, however slow the disk is.
const LONGEST: Duration = Duration::from_millis(2);
/// After a wait in which not all came, this many syncs do not wait.
const PAUSE: u32 = 16;

/// State between two syncs.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// The number of writes of the last sync, until the next one is planned.
    acknowledged: Option<u64>,
    /// The number of writes to wait for; 0 for none.
    pub(super) wanted: u64,
    /// When the wait ends in any case.
    until: Option<Instant>,
    /// The number of syncs that do not wait.
    pause: u32,
}

impl Gathering {
    /// Returns how long to wait for more than these writes, which wait for a sync.
    pub(super) fn wait(&mut self, writes: u64, last_sync: Duration, now: Instant) -> Duration {
        if let Some(acknowledged) = self.acknowledged.take() {
            let is_paused = self.pause > 0;
            self.pause = self.pause.saturating_sub(1);
            self.wanted = if is_paused { 0 } else { acknowledged + writes };
            self.until = Some(now + (last_sync / FRACTION).clamp(SHORTEST, LONGEST));
        }
        if writes == 0 || writes >= self.wanted {
            return Duration::ZERO;
        }
        let left = self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        if left.is_zero() {
            self.pause = PAUSE;
            self.wanted = 0;
        }
        left
    }

    /// Records that a sync of these writes begins.
    pub(super) fn begin(&mut self, writes: u64) {
        (self.acknowledged, self.wanted, self.until) = (Some(writes), 0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_millis(8);

    #[test]
    fn a_sync_waits_for_those_that_the_last_one_acknowledged() {
        let (mut gathering, now) = (Gathering::default(), Instant::now());
        assert_eq!(gathering.wait(1, SYNC, now), Duration::ZERO, "the first");
        gathering.begin(1);
        // seven came during the first sync
        assert_eq!((gathering.wait(7, SYNC, now), gathering.wanted), (SYNC / 8, 8));
        assert_eq!(gathering.wait(8, SYNC, now), Duration::ZERO);
        gathering.begin(8);
        // none is there at the end of the second; the first of eight comes
        assert_eq!(gathering.wait(0, SYNC, now), Duration::ZERO);
        assert_eq!(gathering.wait(1, SYNC, now), SYNC / 8);
        assert_eq!(gathering.wait(8, SYNC, now), Duration::ZERO);
    }

    #[test]
    fn a_single_publisher_never_waits() {
        let (mut gathering, now) = (Gathering::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(gathering.wait(0, SYNC, now), Duration::ZERO);
            assert_eq!(gathering.wait(1, SYNC, now), Duration::ZERO);
            gathering.begin(1);
        }
    }

    #[test]
    fn where_publishers_do_not_come_back_few_syncs_wait() {
        let (mut gathering, mut now, mut waited) = (Gathering::default(), Instant::now(), Duration::ZERO);
        for _ in 0..100 {
            // others come, one during each sync
            let wait = gathering.wait(1, SYNC, now);
            now += wait;
            waited += wait;
            assert_eq!(gathering.wait(1, SYNC, now), Duration::ZERO);
            gathering.begin(1);
        }
        assert!(waited <= SYNC * 100 / 100, "{waited:?}");
    }

    #[test]
    fn the_wait_has_bounds() {
        for (sync, most) in [(Duration::ZERO, SHORTEST), (Duration::from_secs(1), LONGEST)] {
            let (mut gathering, now) = (Gathering::default(), Instant::now());
            gathering.begin(5);
            assert_eq!(gathering.wait(1, sync, now), most);
        }
    }
}

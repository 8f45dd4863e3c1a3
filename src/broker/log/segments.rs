//! Which segments there are, and how much each still holds.

use std::collections::VecDeque;

use super::segment::Extent;

/// So many segments are never too many.
const FEW: usize = 4;

/// The segments, the oldest first; the last is the one that is being written.
#[derive(Debug, Default)]
pub(super) struct Segments {
    list: VecDeque<Entry>,
    bytes: u64,
    held_bytes: u64,
}

#[derive(Debug)]
struct Entry {
    extent: Extent,
    /// Messages that somebody holds.
    held: u64,
    /// Their bytes; as many for each, once some are gone.
    held_bytes: u64,
}

impl Segments {
    /// A newer segment.
    pub(super) fn push(&mut self, extent: Extent) {
        self.bytes += u64::from(extent.end);
        self.list.push_back(Entry { extent, held: 0, held_bytes: 0 });
    }

    /// The newest has grown.
    pub(super) fn grew(&mut self, extent: Extent) {
        let newest = self.list.back_mut().filter(|entry| entry.extent.number == extent.number);
        let entry = newest.expect("what grows is the newest");
        self.bytes += u64::from(extent.end - entry.extent.end);
        entry.extent = extent;
    }

    /// The newest was of no use.
    pub(super) fn pop_newest(&mut self) {
        if let Some(entry) = self.list.pop_back() {
            self.forget(&entry);
        }
    }

    /// `count` messages of `bytes` bytes in all are held in a segment.
    pub(super) fn hold(&mut self, number: u32, count: u64, bytes: u64) {
        if let Some(entry) = find(&mut self.list, number) {
            entry.held += count;
            entry.held_bytes += bytes;
            self.held_bytes += bytes;
        }
    }

    /// One message more of a segment is held: as many bytes as the others have.
    pub(super) fn hold_again(&mut self, number: u32) {
        let Some(entry) = find(&mut self.list, number).filter(|entry| entry.held > 0) else { return };
        let share = entry.held_bytes / entry.held;
        self.hold(number, 1, share);
    }

    /// So many messages of a segment are not held any more.
    pub(super) fn spent(&mut self, number: u32, count: u32) {
        let Some(entry) = find(&mut self.list, number).filter(|entry| entry.held > 0) else { return };
        let count = u64::from(count).min(entry.held);
        let share = (u128::from(entry.held_bytes) * u128::from(count) / u128::from(entry.held)) as u64;
        entry.held -= count;
        entry.held_bytes -= share;
        self.held_bytes -= share;
    }

    /// Takes the oldest away, if it holds nothing: never one from the middle, for a message that an older one has may be finished in it.
    pub(super) fn pop_spent(&mut self) -> Option<u32> {
        let is_spent = self.list.len() > 1 && self.list.front().is_some_and(|oldest| oldest.held == 0);
        let oldest = is_spent.then(|| self.list.pop_front()).flatten()?;
        self.forget(&oldest);
        Some(oldest.extent.number)
    }

    /// The oldest, if more than half of all bytes are held by nobody, and there are more than [`FEW`] segments: carrying what is
    /// held at most doubles what is written, and leaves no more than twice what is held.
    pub(super) fn wants_carried(&self) -> Option<u32> {
        let is_wasteful = self.list.len() > FEW && self.bytes > 2 * self.held_bytes;
        is_wasteful.then(|| self.list.front().map(|oldest| oldest.extent.number)).flatten()
    }

    /// How far a segment can be read.
    pub(super) fn end(&self, number: u32) -> Option<u32> {
        let at = self.list.binary_search_by_key(&number, |entry| entry.extent.number).ok()?;
        Some(self.list[at].extent.end)
    }

    fn forget(&mut self, entry: &Entry) {
        self.bytes -= u64::from(entry.extent.end);
        self.held_bytes -= entry.held_bytes;
    }
}

fn find(list: &mut VecDeque<Entry>, number: u32) -> Option<&mut Entry> {
    let at = list.binary_search_by_key(&number, |entry| entry.extent.number).ok()?;
    list.get_mut(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five() -> Segments {
        let mut segments = Segments::default();
        for number in 1..=5 {
            segments.push(Extent { number, end: 100 });
            segments.hold(number, 10, 90);
        }
        segments
    }

    #[test]
    fn only_the_oldest_goes_and_never_the_newest() {
        let mut segments = five();
        for number in [1, 2, 3, 5] {
            for _ in 0..10 {
                segments.spent(number, 1);
            }
        }
        assert_eq!(std::iter::from_fn(|| segments.pop_spent()).collect::<Vec<_>>(), [1, 2, 3]);
        (0..10).for_each(|_| segments.spent(4, 1));
        assert_eq!((segments.pop_spent(), segments.pop_spent()), (Some(4), None));
        assert_eq!((segments.bytes, segments.held_bytes), (100, 0));
    }

    #[test]
    fn stragglers_are_carried_when_most_of_the_log_is_held_by_nobody() {
        let mut segments = five();
        assert_eq!(segments.wants_carried(), None);
        for number in [2, 3, 4] {
            segments.spent(number, 9);
        }
        assert_eq!(segments.wants_carried(), Some(1));
        segments.pop_newest();
        assert_eq!(segments.wants_carried(), None, "four are few");
    }

    #[test]
    fn a_message_is_spent_once() {
        let mut segments = five();
        (0..20).for_each(|_| segments.spent(2, 1));
        segments.spent(77, 1);
        assert_eq!(segments.held_bytes, 4 * 90);
    }
}

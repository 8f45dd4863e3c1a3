//! The segments of a log, and how much of each is live.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::BATCH_OVERHEAD;
use super::segment::{Extent, is_full};

/// A log with at most this many segments is not compacted, unless the disk is full.
const MIN_SEGMENTS: usize = 4;
/// Minimum size of a segment for stripping.
pub(super) const MIN_STRIPPED: u32 = 8 << 10;
/// A segment with messages that cannot be relocated is excluded from compaction for this long; if
/// they cannot be read, for twice as long each time.
const POSTPONEMENT: Duration = Duration::from_secs(60);
/// The same for messages that cannot be written, because the disk is full or fails; also twice as
/// long each time, up to about a minute.
const WRITE_POSTPONEMENT: Duration = Duration::from_secs(1);
const MAX_DOUBLINGS: u32 = 6;

/// A range of message ids, both ends included.
pub(super) type IdRange = (u64, u64);

/// Summary of a segment's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SegmentContents {
    /// The lowest and the highest id of the segment's messages.
    pub(super) ids: Option<IdRange>,
    /// Bytes of the segment's changes, which may be about messages in older segments.
    pub(super) notes: u64,
    /// Bytes of all messages that were written to the segment, live or dead: of the bodies, and
    /// [`BATCH_OVERHEAD`] for each record, as in [`Log::hold`](super::Log::hold).
    pub(super) messages: u64,
}

impl SegmentContents {
    /// Adds a record of `count` messages with ids from `first` on, and `bytes` bytes of bodies with
    /// their sizes.
    pub(super) fn add_messages(&mut self, first: u64, count: u64, bytes: u64) {
        self.messages += BATCH_OVERHEAD + bytes;
        let last = first.saturating_add(count.saturating_sub(1));
        self.ids = Some(self.ids.map_or((first, last), |(low, high)| (low.min(first), high.max(last))));
    }
}

/// The segments, the oldest first; the last one is being written.
#[derive(Debug, Default)]
pub(super) struct Segments {
    list: VecDeque<SegmentUsage>,
    bytes: u64,
    held: u64,
}

#[derive(Debug, Default)]
struct SegmentUsage {
    extent: Extent,
    contents: SegmentContents,
    /// The number of live messages, and the bytes that they need (`held`).
    messages: u64,
    held: u64,
    /// The number of older segments when it was stripped.
    stripped: Option<usize>,
    /// True until the result of stripping is known, and with it the segment's length.
    is_being_stripped: bool,
    /// True if parts cannot be read: the segment is not stripped.
    is_damaged: bool,
    /// Position at which the first message relocated out of it was written.
    moved: Option<u64>,
    /// Compaction skips the segment until then.
    postponed_until: Option<Instant>,
    /// How often it was skipped since it was found to be damaged.
    postponements: u32,
    /// How often it was skipped because its messages could not be written elsewhere.
    failed_writes: u32,
}

/// A segment that can be removed or stripped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reclaimable {
    pub(super) extent: Extent,
    /// Position at which the first message relocated out of it was written.
    pub(super) moved: Option<u64>,
    /// `None` to remove the segment. Else strip it: keep only changes of messages with these ids,
    /// which older segments may have.
    pub(super) all_but: Option<Vec<IdRange>>,
}

impl Segments {
    /// Appends a new segment.
    pub(super) fn push(&mut self, extent: Extent) {
        self.push_recovered(extent, SegmentContents::default(), false);
    }

    /// Appends a segment that was read.
    pub(super) fn push_recovered(&mut self, extent: Extent, contents: SegmentContents, is_damaged: bool) {
        self.bytes += u64::from(extent.end);
        self.list.push_back(SegmentUsage { extent, contents, is_damaged, ..SegmentUsage::default() });
    }

    /// Sets the new length of the newest segment.
    pub(super) fn grow_newest(&mut self, extent: Extent) {
        let newest = self.list.back_mut().filter(|entry| entry.extent.number == extent.number);
        let entry = newest.expect("the newest segment is the one that grows");
        self.bytes += u64::from(extent.end - entry.extent.end);
        entry.extent = extent;
    }

    /// The newest segment's summary.
    pub(super) fn contents(&mut self) -> Option<&mut SegmentContents> {
        self.list.back_mut().map(|entry| &mut entry.contents)
    }

    /// Records the result of stripping a segment: its new length, or the error. After an error it
    /// is eligible again if the disk was full.
    pub(super) fn stripped(&mut self, number: u32, result: io::Result<u32>) {
        let Some(entry) = find(&mut self.list, number) else { return };
        entry.is_being_stripped = false;
        match result {
            Ok(end) => {
                self.bytes -= u64::from(entry.extent.end.saturating_sub(end));
                entry.extent.end = entry.extent.end.min(end);
                entry.contents.notes = entry.contents.notes.min(end.into());
                entry.contents.messages = 0;
            }
            Err(error) if is_full(&error) => entry.stripped = None,
            Err(_) => {}
        }
    }

    /// Removes the newest segment.
    pub(super) fn pop_newest(&mut self) {
        if let Some(entry) = self.list.pop_back() {
            self.forget(&entry);
        }
    }

    /// Adds live messages to a segment, and the bytes that they need.
    pub(super) fn hold(&mut self, number: u32, messages: u32, bytes: u64) {
        if let Some(entry) = find(&mut self.list, number) {
            entry.messages += u64::from(messages);
            entry.held += bytes;
            self.held += bytes;
        }
    }

    /// Subtracts live messages from a segment, and bytes that are no longer needed. True if these
    /// were the last ones of a segment that is not the newest: then something can be removed.
    pub(super) fn spent(&mut self, number: u32, messages: u32, bytes: u64) -> bool {
        let is_newest = self.list.back().is_some_and(|newest| newest.extent.number == number);
        let Some(entry) = find(&mut self.list, number).filter(|entry| entry.messages > 0) else { return false };
        entry.messages = entry.messages.saturating_sub(messages.into());
        let bytes = if entry.messages == 0 { entry.held } else { bytes.min(entry.held) };
        entry.held -= bytes;
        self.held -= bytes;
        entry.messages == 0 && !is_newest
    }

    /// Records that a message of a segment was relocated to this position.
    pub(super) fn note_relocation(&mut self, number: u32, position: u64) {
        if let Some(entry) = find(&mut self.list, number) {
            entry.moved.get_or_insert(position);
        }
    }

    /// Takes the segments that can be removed or stripped. From the oldest on, segments without
    /// live messages are removed. Later ones without live messages are stripped: they keep their
    /// changes of messages in older segments. The newest stays.
    pub(super) fn take_reclaimable(&mut self) -> Vec<Reclaimable> {
        let mut spent = Vec::new();
        while self.list.len() > 1 && self.list[0].messages == 0 {
            let Some(oldest) = self.list.pop_front() else { break };
            self.forget(&oldest);
            spent.push(Reclaimable { extent: oldest.extent, moved: oldest.moved, all_but: None });
        }
        for at in 1..self.list.len().saturating_sub(1) {
            if self.list[at].is_worth_stripping(at) {
                let all_but = self.list.iter().take(at).filter_map(|older| older.contents.ids).collect();
                let SegmentUsage { extent, moved, .. } = self.list[at];
                self.list[at].stripped = Some(at);
                self.list[at].is_being_stripped = true;
                spent.push(Reclaimable { extent, moved, all_but: Some(all_but) });
            }
        }
        spent
    }

    /// True if the newest segment has no live message.
    pub(super) fn is_newest_dead(&self) -> bool {
        self.list.back().is_some_and(|newest| newest.messages == 0)
    }

    /// True if more than half of the newest segment is dead.
    pub(super) fn is_newest_wasteful(&self) -> bool {
        self.list.back().is_some_and(SegmentUsage::is_wasteful)
    }

    /// True if enough of the log is dead. Relocating then at most doubles what is written, and
    /// leaves at most twice the live bytes, and a few segments.
    pub(super) fn is_wasteful(&self, is_full: bool) -> bool {
        match is_full {
            true => self.bytes > self.held + self.held / 4,
            false => self.list.len() > MIN_SEGMENTS && self.bytes > 2 * self.held,
        }
    }

    /// The segment that compaction should rewrite next: the one with the smallest live fraction,
    /// and at most `limit` live bytes.
    pub(super) fn compaction_candidate(&self, is_full: bool, limit: u64, now: Instant) -> Option<u32> {
        if !self.is_wasteful(is_full) {
            return None;
        }
        let victims = self.victims(limit).filter(|entry| entry.postponed_until.is_none_or(|until| until <= now));
        let least = victims.min_by(|a, b| {
            let cross = |x: &SegmentUsage, y: &SegmentUsage| u128::from(x.held) * u128::from(y.extent.end);
            cross(a, b).cmp(&cross(b, a))
        });
        least.map(|entry| entry.extent.number)
    }

    /// The segments that are worth compacting, with at most `limit` live bytes each.
    fn victims(&self, limit: u64) -> impl Iterator<Item = &SegmentUsage> {
        let older = self.list.iter().take(self.list.len().saturating_sub(1));
        older.filter(move |entry| entry.messages > 0 && entry.held <= limit && entry.is_wasteful())
    }

    /// When the first of the segments that are worth compacting may be compacted.
    pub(super) fn next_compaction(&self, is_full: bool, limit: u64) -> Option<Instant> {
        let victims = self.is_wasteful(is_full).then(|| self.victims(limit));
        victims.into_iter().flatten().filter_map(|entry| entry.postponed_until).min()
    }

    /// Excludes a segment from compaction for a while, because its messages cannot be read, or
    /// cannot be written elsewhere.
    pub(super) fn postpone_compaction(&mut self, number: u32, cannot_write: bool, now: Instant) {
        let Some(entry) = find(&mut self.list, number) else { return };
        let (first, times) = match cannot_write {
            true => (WRITE_POSTPONEMENT, &mut entry.failed_writes),
            false => (POSTPONEMENT, &mut entry.postponements),
        };
        entry.postponed_until = Some(now + first * (1 << (*times).min(MAX_DOUBLINGS)));
        *times += u32::from(cannot_write || entry.is_damaged);
    }

    /// Marks a segment as damaged; true if that was not known.
    pub(super) fn mark_damaged(&mut self, number: u32) -> bool {
        find(&mut self.list, number).is_some_and(|entry| !std::mem::replace(&mut entry.is_damaged, true))
    }

    /// The good length of a segment.
    pub(super) fn end(&self, number: u32) -> Option<u32> {
        let at = self.list.binary_search_by_key(&number, |entry| entry.extent.number).ok()?;
        Some(self.list[at].extent.end)
    }

    /// Total bytes, live bytes, and the number of segments.
    pub(super) fn usage(&self) -> (u64, u64, u64) {
        (self.bytes, self.held.min(self.bytes), self.list.len() as u64)
    }

    fn forget(&mut self, entry: &SegmentUsage) {
        self.bytes -= u64::from(entry.extent.end);
        self.held -= entry.held;
    }
}

impl SegmentUsage {
    /// True if stripping a segment without live messages, behind `older` others, frees enough.
    fn is_worth_stripping(&self, older: usize) -> bool {
        let (size, notes) = (u64::from(self.extent.end), self.contents.notes);
        let is_new = match self.stripped {
            None => size.saturating_sub(notes) >= size / 4,
            Some(before) => older <= before / 2,
        };
        let can_be = !self.is_damaged && !self.is_being_stripped;
        self.messages == 0 && can_be && is_new && self.extent.end >= MIN_STRIPPED
    }

    /// True if at most half of the bytes written to the segment are live. The Snapshot, which every
    /// segment has, is not counted, and messages count as they do when they are live: so what was
    /// just relocated is never wasteful, however many copies its records name.
    fn is_wasteful(&self) -> bool {
        2 * self.held <= self.contents.messages + self.contents.notes
    }
}

fn find(list: &mut VecDeque<SegmentUsage>, number: u32) -> Option<&mut SegmentUsage> {
    let at = list.binary_search_by_key(&number, |entry| entry.extent.number).ok()?;
    list.get_mut(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 100_000;

    fn five_segments() -> Segments {
        let mut segments = Segments::default();
        for number in 1..=5 {
            segments.push(Extent { number, end: SIZE });
            segments.contents().unwrap().add_messages(u64::from(number) * 10, 10, 90_000 - BATCH_OVERHEAD);
            segments.hold(number, 10, 90_000);
        }
        segments
    }

    fn compaction_candidate(segments: &Segments, is_full: bool) -> Option<u32> {
        segments.compaction_candidate(is_full, u64::MAX, Instant::now())
    }

    #[test]
    fn the_oldest_segment_is_removed_and_later_ones_keep_changes_of_older_messages() {
        let mut segments = five_segments();
        assert!(segments.spent(3, 10, 90_000));
        let (extent, all_but) = (Extent { number: 3, end: SIZE }, Some(vec![(10, 19), (20, 29)]));
        assert_eq!(segments.take_reclaimable(), [Reclaimable { extent, moved: None, all_but }]);
        assert_eq!(segments.take_reclaimable(), [], "it is stripped once");
        segments.stripped(3, Ok(100));
        assert_eq!(segments.usage(), (400_100, 360_000, 5));
        assert!(segments.spent(1, 10, 90_000) && segments.spent(2, 10, 90_000));
        assert!(!segments.spent(5, 10, 90_000), "the newest is never removed");
        let gone: Vec<_> =
            segments.take_reclaimable().into_iter().map(|spent| (spent.extent.number, spent.all_but)).collect();
        assert_eq!(gone, [(1, None), (2, None), (3, None)], "the newest is never removed");
        assert_eq!(segments.usage(), (200_000, 90_000, 2));
    }

    #[test]
    fn a_segment_that_is_being_stripped_is_not_stripped_again_by_its_old_length() {
        let mut segments = five_segments();
        assert!(segments.spent(3, 10, 90_000));
        assert_eq!(segments.take_reclaimable().len(), 1);
        assert!(segments.spent(1, 10, 90_000));
        let spent: Vec<_> = segments.take_reclaimable().iter().map(|spent| spent.extent.number).collect();
        assert_eq!(spent, [1], "half of the older segments are gone, but the new length is not known yet");
        segments.stripped(3, Ok(20_000));
        let (extent, all_but) = (Extent { number: 3, end: 20_000 }, Some(vec![(20, 29)]));
        assert_eq!(segments.take_reclaimable(), [Reclaimable { extent, moved: None, all_but }]);
        segments.stripped(3, Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(segments.take_reclaimable().len(), 1, "the disk was full");
        segments.stripped(3, Err(io::ErrorKind::InvalidData.into()));
        assert_eq!(segments.take_reclaimable(), []);
    }

    #[test]
    fn the_segment_with_the_smallest_live_fraction_is_compacted_first() {
        let mut segments = five_segments();
        assert_eq!(compaction_candidate(&segments, false), None);
        for (number, messages, bytes) in [(1, 4, 30_000), (2, 9, 88_000), (3, 9, 89_000), (4, 9, 80_000)] {
            segments.spent(number, messages, bytes);
        }
        assert_eq!(compaction_candidate(&segments, false), Some(3));
        segments.postpone_compaction(3, false, Instant::now());
        assert_eq!(compaction_candidate(&segments, false), Some(2), "the next one while the first is postponed");
        assert_eq!(
            segments.compaction_candidate(false, 1_500, Instant::now()),
            None,
            "the limit of live bytes is respected"
        );
        segments.pop_newest();
        assert_eq!(
            (compaction_candidate(&segments, false), compaction_candidate(&segments, true)),
            (None, Some(2)),
            "four segments are compacted only on a full disk"
        );
    }

    #[test]
    fn postponed_segments_are_compacted_later_even_if_nothing_changes() {
        let mut segments = five_segments();
        assert_eq!(segments.next_compaction(false, u64::MAX), None, "nothing is dead");
        (1..5).for_each(|number| {
            segments.spent(number, 9, 89_000);
        });
        let now = Instant::now();
        (2..5).for_each(|number| segments.postpone_compaction(number, false, now));
        let mut waits = Vec::new();
        for _ in 0..9 {
            segments.postpone_compaction(1, true, now);
            waits.push(segments.next_compaction(false, u64::MAX).unwrap().duration_since(now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], "the others are postponed for a minute");
        (1..5).for_each(|number| {
            segments.spent(number, 1, 1_000);
        });
        assert_eq!(segments.next_compaction(false, u64::MAX), None, "nothing is left to compact");
    }

    #[test]
    fn live_bytes_shrink_by_the_bytes_of_removed_messages() {
        let mut segments = Segments::default();
        segments.push(Extent { number: 1, end: SIZE });
        segments.hold(1, 1, 99_000);
        segments.hold(1, 3, 300);
        segments.spent(1, 1, 99_000);
        assert_eq!(segments.usage(), (100_000, 300, 1));
        segments.spent(1, 0, 100);
        assert_eq!(segments.usage(), (100_000, 200, 1), "a part of messages that were published together");
        assert!(!segments.spent(1, 3, 100));
        assert_eq!(segments.usage(), (100_000, 0, 1), "no live bytes without live messages");
        assert!(!segments.spent(77, 1, 1));
    }
}

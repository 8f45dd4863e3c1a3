//! Records that gather for the next write, which takes them all at once.
//!
//! Small bodies are copied, which is cheaper than one more slice in a system call; large ones are
//! not.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::ops::Range;

use bytes::Bytes;

use super::payload::{self, PayloadReader, PayloadWriter};
use super::record::{self, RECORD_HEADER_BYTES, RecordKind};
use super::{Change, PublishedBatch, Relocated, catalog::Catalog};
use crate::proto::Bodies;

/// Bodies of this many bytes or more are not copied.
const MIN_UNCOPIED: usize = 4096;
/// A record of changes gets no more changes once it has this many bytes.
const MAX_CHANGES_BYTES: usize = 1 << 20;
/// Superseded changes are dropped only when this many bytes of changes have gathered.
const MIN_CONDENSED: usize = 64 << 10;
/// Capacity of the buffer that is kept for the next write.
const KEPT_CAPACITY: usize = 1 << 20;

/// Records whose headers are filled in when their segment is known.
#[derive(Debug, Default)]
pub(super) struct WriteBatch {
    bytes: Vec<u8>,
    /// The kind of each record, and where it begins.
    records: Vec<(RecordKind, usize)>,
    /// The records that repeat the last change of the record before them.
    repeats: Vec<usize>,
    /// Bodies that are not copied, and their positions in `bytes`; all are in the last records.
    large: Vec<(usize, Bytes)>,
    large_bytes: usize,
    /// The noted changes that affect the catalog.
    catalog_changes: Vec<Change>,
    /// A salt, and the number of records whose headers are filled in for it, so that no byte is
    /// checksummed twice after a failed write.
    sealed: (u32, usize),
    /// Bytes of changes that were left by the last [`WriteBatch::condense`].
    condensed: usize,
}

/// A position to go back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteMark {
    bytes: usize,
    records: usize,
}

impl WriteBatch {
    /// Adds a change. A change of topics or channels is added a second time, in a record of its
    /// own, before anything that depends on it: a damaged byte in one of the two costs no messages.
    pub(super) fn push_change(&mut self, change: &Change) {
        match self.records.last() {
            Some((RecordKind::Changes, begin))
                if self.bytes.len() - begin < MAX_CHANGES_BYTES && !self.ends_with_repeat() => {}
            _ => self.begin(RecordKind::Changes),
        }
        payload::put_change(&mut self.bytes, change);
        if Catalog::affects(change) {
            self.repeats.push(self.records.len());
            self.begin(RecordKind::Changes);
            payload::put_change(&mut self.bytes, change);
            self.catalog_changes.push(change.clone());
        }
    }

    fn ends_with_repeat(&self) -> bool {
        self.repeats.last().is_some_and(|last| last + 1 == self.records.len())
    }

    /// Adds a record without changes, to find out whether a write succeeds.
    pub(super) fn push_empty_changes(&mut self) {
        self.begin(RecordKind::Changes);
    }

    /// Adds a batch, with a record for each part.
    pub(super) fn push_batch(&mut self, batch: &PublishedBatch<'_>) {
        let mut first = batch.first;
        for part in batch.parts {
            self.begin(RecordKind::Batch);
            payload::put_batch_head(&mut self.bytes, batch, first, part.count());
            self.push_bodies(part);
            first += u64::from(part.count());
        }
    }

    /// Adds relocated messages; returns the position of the first body's size.
    pub(super) fn push_relocated(&mut self, messages: &Relocated<'_>) -> usize {
        self.begin(RecordKind::Relocated);
        payload::put_relocated_head(&mut self.bytes, messages);
        let location = self.len();
        self.push_bodies(messages.bodies);
        location
    }

    fn push_bodies(&mut self, bodies: &Bodies) {
        match bodies.count() {
            1 => self.push_body(bodies.bytes()),
            _ => self.push_sized(bodies.bytes()),
        }
    }

    fn begin(&mut self, kind: RecordKind) {
        self.records.push((kind, self.bytes.len()));
        self.bytes.put(&[0; RECORD_HEADER_BYTES]);
    }

    fn push_body(&mut self, body: &Bytes) {
        // a size above 32 bits is refused later, by `checked_len`
        self.bytes.put(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.push_sized(body);
    }

    /// Adds bodies with their sizes.
    fn push_sized(&mut self, bytes: &Bytes) {
        if bytes.len() < MIN_UNCOPIED {
            self.bytes.put(bytes);
        } else {
            self.large.push((self.bytes.len(), bytes.clone()));
            self.large_bytes += bytes.len();
        }
    }

    /// Total bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.large_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The position of the next record.
    pub(super) fn mark(&self) -> WriteMark {
        WriteMark { bytes: self.bytes.len(), records: self.records.len() }
    }

    /// Bytes of the noted changes, without a batch.
    pub(super) fn noted(&self) -> usize {
        let messages = self.records.iter().rev().take_while(|(kind, _)| *kind != RecordKind::Changes);
        messages.last().map_or(self.bytes.len(), |(_, begin)| *begin)
    }

    /// Removes the records added after `mark`: a batch, or relocated messages.
    pub(super) fn rewind(&mut self, mark: WriteMark) {
        self.bytes.truncate(mark.bytes);
        self.records.truncate(mark.records);
        // the record before it may still grow
        self.sealed.1 = self.sealed.1.min(mark.records.saturating_sub(1));
        self.forget_bodies();
    }

    /// Empties the batch after a successful write; returns the changes that affect the catalog.
    pub(super) fn clear(&mut self) -> Vec<Change> {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_CAPACITY);
        self.records.clear();
        self.repeats.clear();
        (self.sealed, self.condensed) = ((0, 0), 0);
        self.forget_bodies();
        std::mem::take(&mut self.catalog_changes)
    }

    /// Drops changes that are superseded by later ones about the same copy, if many have gathered
    /// since the last time. So a log that cannot be written for long keeps at most one change for
    /// each copy. Only changes are there: a batch that could not be written was removed.
    pub(super) fn condense(&mut self) {
        if self.bytes.len() < (2 * self.condensed).max(MIN_CONDENSED) {
            return;
        }
        let mut changes = Vec::new();
        let first_ones = self.records.iter().enumerate().filter(|(n, _)| self.repeats.binary_search(n).is_err());
        for (n, (_, begin)) in first_ones {
            let end = self.records.get(n + 1).map_or(self.bytes.len(), |(_, end)| *end);
            let mut fields = PayloadReader(&self.bytes[begin + RECORD_HEADER_BYTES..end]);
            while let Some(change) = fields.change().expect("it was just put there") {
                changes.push(change);
            }
        }
        let mut seen = HashSet::new();
        let mut keeps = |change: &Change| match change {
            Change::Finished(channel, id) | Change::Requeued(channel, id, ..) => seen.insert((*channel, *id)),
            _ => true,
        };
        let mut kept: Vec<_> = changes.into_iter().rev().filter(|change| keeps(change)).collect();
        kept.reverse();
        let catalog_changes = self.clear();
        kept.iter().for_each(|change| self.push_change(change));
        (self.catalog_changes, self.condensed) = (catalog_changes, self.bytes.len());
    }

    fn forget_bodies(&mut self) {
        self.large.clear();
        self.large_bytes = 0;
    }

    /// Fills in the headers for a segment with this salt.
    pub(super) fn seal(&mut self, salt: u32) {
        let begin = if self.sealed.0 == salt { self.sealed.1 } else { 0 };
        for n in begin..self.records.len() {
            let (kind, begin) = self.records[n];
            let end = self.records.get(n + 1).map_or(self.bytes.len(), |(_, end)| *end);
            let payload = begin + RECORD_HEADER_BYTES..end;
            let head = match self.large.is_empty() {
                true => record::head(kind, salt, std::iter::once(&self.bytes[payload])),
                false => record::head(kind, salt, pieces(&self.bytes, &self.large, payload)),
            };
            self.bytes[begin..begin + RECORD_HEADER_BYTES].copy_from_slice(&head);
        }
        // the last record may still grow
        self.sealed = (salt, self.records.len().saturating_sub(1));
    }

    /// Passes all bytes to a vectored write.
    pub(super) fn write<R>(&self, write: impl FnOnce(&mut [IoSlice<'_>]) -> R) -> R {
        match self.large.is_empty() {
            true => write(&mut [IoSlice::new(&self.bytes)]),
            false => {
                let all = pieces(&self.bytes, &self.large, 0..self.bytes.len());
                write(&mut all.map(IoSlice::new).collect::<Vec<_>>())
            }
        }
    }

    /// The total length, if it fits into a segment.
    pub(super) fn checked_len(&self) -> io::Result<u32> {
        let fits = u32::try_from(self.len()).ok().filter(|length| *length < u32::MAX / 2);
        fits.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "more than 2 GiB in one write: publish fewer messages at once")
        })
    }
}

/// A range of the bytes, with the uncopied bodies at their positions. A body is part of the range
/// that ends with it.
fn pieces<'a>(bytes: &'a [u8], large: &'a [(usize, Bytes)], range: Range<usize>) -> impl Iterator<Item = &'a [u8]> {
    let from = large.partition_point(|(at, _)| *at <= range.start);
    let to = large.partition_point(|(at, _)| *at <= range.end);
    let large = &large[from..to];
    let begins = std::iter::once(range.start).chain(large.iter().map(|(at, _)| *at));
    let ends = large.iter().map(|(at, _)| *at).chain(std::iter::once(range.end));
    let bodies = large.iter().map(|(_, body)| body.as_ref()).chain(std::iter::once(&[][..]));
    let each = begins.zip(ends).zip(bodies).flat_map(|((from, to), body)| [&bytes[from..to], body]);
    each.filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::record::{RecordScan, Scanned};
    use super::super::{ChannelId, MessageHolder, TopicId};
    use super::*;
    use crate::broker::log::UnixMillis;

    /// The changes as they would be written.
    fn changes(outgoing: &mut WriteBatch, salt: u32) -> Vec<Change> {
        outgoing.seal(salt);
        let bytes: Vec<u8> = outgoing.write(|slices| slices.iter().flat_map(|slice| slice.to_vec()).collect());
        let mut changes = Vec::new();
        for found in RecordScan::new(&bytes, salt, 0, None) {
            let Scanned::Record { kind: RecordKind::Changes, payload, .. } = found else {
                panic!("no other record is there")
            };
            let mut fields = PayloadReader(payload);
            while let Some(change) = fields.change().unwrap() {
                changes.push(change);
            }
        }
        changes
    }

    #[test]
    fn changes_that_cannot_be_written_shrink_to_one_per_copy() {
        let mut outgoing = WriteBatch::default();
        let (a, b) = (ChannelId(2), ChannelId(3));
        outgoing.push_change(&Change::ChannelPaused(a, true));
        for n in 0..200_000_u64 {
            outgoing.push_change(&Change::Requeued(if n % 2 == 0 { a } else { b }, n % 100, n as u16, None));
            outgoing.condense();
            if n % 5_000 == 0 {
                // as in a write that fails
                outgoing.seal(7);
            }
            assert!(outgoing.len() <= MIN_CONDENSED + 100, "{} bytes", outgoing.len());
        }
        outgoing.push_change(&Change::Finished(a, 4));
        outgoing.condensed = 0;
        outgoing.bytes.reserve(MIN_CONDENSED);
        while outgoing.len() < MIN_CONDENSED {
            outgoing.push_change(&Change::Requeued(b, 1, 9, Some(UnixMillis(5))));
        }
        outgoing.condense();
        let changes = changes(&mut outgoing, 7);
        assert_eq!(changes.len(), 2 + 100, "{changes:?}");
        assert_eq!(changes[..2], [Change::ChannelPaused(a, true), Change::ChannelPaused(a, true)], "repeated once");
        assert!(
            changes.contains(&Change::Finished(a, 4))
                && changes.contains(&Change::Requeued(b, 1, 9, Some(UnixMillis(5))))
        );
        assert!(!changes.iter().any(|change| matches!(change, Change::Requeued(id, 4, ..) if *id == a)));
    }

    #[test]
    fn records_sealed_in_steps_equal_records_sealed_at_once() {
        let mut outgoing = WriteBatch::default();
        let mut expected = Vec::new();
        let bodies = [Bodies::one("x".into())];
        for n in 0..150_000_u64 {
            let change = Change::Finished(ChannelId(2), n);
            outgoing.push_change(&change);
            expected.push(change);
            if n % 10_000 == 0 {
                let mark = outgoing.mark();
                let (topic, timestamp, holder) = (TopicId(1), 0, MessageHolder::Channels);
                outgoing.push_batch(&PublishedBatch { topic, first: 1, timestamp, due: None, holder, parts: &bodies });
                outgoing.seal(if n % 20_000 == 0 { 7 } else { 8 });
                outgoing.rewind(mark);
            }
        }
        assert!(outgoing.records.len() > 1);
        assert!(changes(&mut outgoing, 7) == expected);
        assert!(changes(&mut outgoing, 8) == expected);
    }
}

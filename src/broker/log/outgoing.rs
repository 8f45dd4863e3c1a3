//! What is to be written next: records that gather, and go out in one write.
//!
//! What is small is copied, which is cheaper than a system's handling of one more slice; what is large is not.

use std::io::{self, IoSlice};

use bytes::Bytes;

use super::payload::{self, Put};
use super::record::{self, HEAD, Kind};
use super::{Batch, Change, Relocated, catalog::Catalog};
use crate::proto::Bodies;

/// From so many bytes on nothing is copied.
const LARGE: usize = 4096;
/// A record of changes that has so many bytes gets no more.
const FULL: usize = 1 << 20;
/// Memory that is kept for the next write.
const KEPT: usize = 1 << 20;

/// Records without their headers' content, which depends on where they go.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// Where each record begins.
    records: Vec<(Kind, usize)>,
    /// What of the last record belongs into `bytes`, and where.
    large: Vec<(usize, Bytes)>,
    large_bytes: usize,
    /// The noted changes that concern the catalog.
    catalog_changes: Vec<Change>,
}

/// To go back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    bytes: usize,
    records: usize,
}

impl Outgoing {
    /// Adds a change.
    pub(super) fn change(&mut self, change: &Change) {
        match self.records.last() {
            Some((Kind::Changes, begin)) if self.bytes.len() - begin < FULL => {}
            _ => self.begin(Kind::Changes),
        }
        payload::put_change(&mut self.bytes, change);
        if Catalog::heeds(change) {
            self.catalog_changes.push(change.clone());
        }
    }

    /// Adds a batch.
    pub(super) fn batch(&mut self, batch: &Batch<'_>) {
        self.begin(Kind::Batch);
        payload::put_batch_head(&mut self.bytes, batch);
        self.bodies(batch.bodies);
    }

    /// Adds messages that are copied forward, and says where the first body's size is, counted from the beginning.
    pub(super) fn relocated(&mut self, messages: &Relocated<'_>) -> usize {
        self.begin(Kind::Relocated);
        payload::put_relocated_head(&mut self.bytes, messages);
        let place = self.len();
        self.bodies(messages.bodies);
        place
    }

    fn bodies(&mut self, bodies: &Bodies) {
        match bodies.count() {
            1 => self.body(bodies.bytes()),
            _ => self.sized(bodies.bytes()),
        }
    }

    fn begin(&mut self, kind: Kind) {
        self.records.push((kind, self.bytes.len()));
        self.bytes.put(&[0; HEAD]);
    }

    fn body(&mut self, body: &Bytes) {
        // an impossible size is refused with all the rest, for its length
        self.bytes.put(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.sized(body);
    }

    /// Adds bytes that have the sizes they need.
    fn sized(&mut self, bytes: &Bytes) {
        if bytes.len() < LARGE {
            self.bytes.put(bytes);
        } else {
            self.large.push((self.bytes.len(), bytes.clone()));
            self.large_bytes += bytes.len();
        }
    }

    /// Bytes in all.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.large_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Where the next record begins.
    pub(super) fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), records: self.records.len() }
    }

    /// Bytes of the changes that were noted; without a batch.
    pub(super) fn noted(&self) -> usize {
        let is_changes = self.records.last().is_none_or(|(kind, _)| *kind == Kind::Changes);
        if is_changes { self.bytes.len() } else { self.records.last().map_or(0, |(_, begin)| *begin) }
    }

    /// Forgets the record that was added after `mark`: a batch, or messages that are copied forward.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.records.truncate(mark.records);
        self.forget_bodies();
    }

    /// All was written: begins again, and gives the changes that concern the catalog.
    pub(super) fn clear(&mut self) -> Vec<Change> {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.records.clear();
        self.forget_bodies();
        std::mem::take(&mut self.catalog_changes)
    }

    fn forget_bodies(&mut self) {
        self.large.clear();
        self.large_bytes = 0;
    }

    /// Puts the headers in, for a segment with this salt.
    pub(super) fn seal(&mut self, salt: u32) {
        for n in 0..self.records.len() {
            let (kind, begin) = self.records[n];
            let head = match self.records.get(n + 1) {
                Some((_, end)) => record::head(kind, salt, [&self.bytes[begin + HEAD..*end]].into_iter()),
                None => record::head(kind, salt, pieces(&self.bytes, &self.large, begin + HEAD)),
            };
            self.bytes[begin..begin + HEAD].copy_from_slice(&head);
        }
    }

    /// All, as one write takes it.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        pieces(&self.bytes, &self.large, 0).map(IoSlice::new).collect()
    }

    /// How long it is, if a segment can take it.
    pub(super) fn checked_len(&self) -> io::Result<u32> {
        let fits = u32::try_from(self.len()).ok().filter(|length| *length < u32::MAX / 2);
        fits.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "above 2 GiB at once: publish less"))
    }
}

/// The bytes from `begin` on, with the bodies that belong between them.
fn pieces<'a>(bytes: &'a [u8], large: &'a [(usize, Bytes)], begin: usize) -> impl Iterator<Item = &'a [u8]> {
    let begins = std::iter::once(begin).chain(large.iter().map(|(at, _)| *at));
    let ends = large.iter().map(|(at, _)| *at).chain(std::iter::once(bytes.len()));
    let bodies = large.iter().map(|(_, body)| body.as_ref()).chain(std::iter::once(&[][..]));
    let each = begins.zip(ends).zip(bodies).flat_map(|((from, to), body)| [&bytes[from..to], body]);
    each.filter(|piece| !piece.is_empty())
}

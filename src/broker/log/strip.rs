//! Stripping: rewrites a segment that has no live messages, without the dead ones.
//!
//! The segment's changes may be about messages in older segments: without the change that finished
//! a message, it would be delivered again after a restart. So these changes stay, in their place in
//! the log's order; all else is dropped.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;

use super::Change;
use super::payload::{MalformedRecord, PayloadReader, put_change};
use super::record::{self, RECORD_HEADER_BYTES, RecordHeader, RecordKind};
use super::replace::replace;
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, file_path};
use super::segments::IdRange;

/// Approximate maximum length of a record of changes.
const MAX_CHANGES_BYTES: usize = 1 << 20;

/// Rewrites a segment with only the changes of messages in `keep`, and of topics and channels;
/// returns its new length. `end` is its good length. `sync` is called with the new file before it
/// replaces the old one.
///
/// # Errors
///
/// Fails if the file cannot be read, if its checksums are wrong, or if the new file cannot be
/// written. The old file is unchanged then.
pub(super) fn strip(
    directory: &Path,
    number: u32,
    end: u32,
    keep: &[IdRange],
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<u32> {
    let path = file_path(directory, number);
    let stripped = read(&path, end, keep)?;
    let length = u32::try_from(stripped.len()).map_err(io::Error::other)?;
    replace(&path, |file| file.write_all(&stripped), sync)?;
    Ok(length)
}

/// Reads a segment; returns the bytes of the new file.
fn read(path: &Path, end: u32, keep: &[IdRange]) -> io::Result<Vec<u8>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
    let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
    let mut begin = Vec::new();
    file.by_ref().take(SEGMENT_HEADER_BYTES as u64).read_to_end(&mut begin)?;
    let old = SegmentHeader::decode(&begin).map_err(|_| bad())?;
    let mut at = u64::from(old.length);
    file.seek(io::SeekFrom::Start(at))?;
    let new = SegmentHeader { salt: fastrand::u32(..), ..SegmentHeader::new(old.number, old.previous) };
    let mut out = StrippedSegment { bytes: vec![0; SEGMENT_HEADER_BYTES], salt: new.salt, changes: Vec::new() };
    while at < u64::from(end) {
        let mut head = [0; RECORD_HEADER_BYTES];
        file.read_exact(&mut head)?;
        let head = RecordHeader::read(old.salt, &head).ok_or_else(bad)?;
        at += RECORD_HEADER_BYTES as u64 + u64::from(head.length);
        match head.kind {
            RecordKind::Batch | RecordKind::Carried | RecordKind::Relocated => {
                file.seek_relative(head.length.into())?
            }
            RecordKind::Snapshot | RecordKind::Changes => {
                let mut payload = vec![0; head.length as usize];
                file.read_exact(&mut payload)?;
                if !head.fits(old.salt, &payload) {
                    return Err(bad());
                }
                out.take(head.kind, &payload, keep).map_err(|MalformedRecord| bad())?;
            }
        }
    }
    out.flush();
    let length = u32::try_from(out.bytes.len()).map_err(io::Error::other)?;
    out.bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&SegmentHeader { end: length, ..new }.encode());
    Ok(out.bytes)
}

/// The new file in progress.
struct StrippedSegment {
    bytes: Vec<u8>,
    salt: u32,
    /// Changes for the next record.
    changes: Vec<u8>,
}

impl StrippedSegment {
    fn take(&mut self, kind: RecordKind, payload: &[u8], keep: &[IdRange]) -> Result<(), MalformedRecord> {
        if kind == RecordKind::Snapshot {
            self.flush();
            self.record(kind, payload);
            return Ok(());
        }
        let mut fields = PayloadReader(payload);
        while let Some(change) = fields.change()? {
            if is_needed(&change, keep) {
                put_change(&mut self.changes, &change);
            }
            if self.changes.len() >= MAX_CHANGES_BYTES {
                self.flush();
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            self.record(RecordKind::Changes, &changes);
        }
    }

    fn record(&mut self, kind: RecordKind, payload: &[u8]) {
        self.bytes.extend_from_slice(&record::head(kind, self.salt, std::iter::once(payload)));
        self.bytes.extend_from_slice(payload);
    }
}

/// True for changes of topics and channels, and of messages in `keep`.
fn is_needed(change: &Change, keep: &[IdRange]) -> bool {
    let id = match change {
        Change::Finished(_, id) | Change::Requeued(_, id, ..) => id,
        Change::TopicCreated(..)
        | Change::TopicDeleted(_)
        | Change::TopicPaused(..)
        | Change::TopicFenced(..)
        | Change::TopicEmptied(_)
        | Change::TopicDistributed(_)
        | Change::ChannelCreated(..)
        | Change::ChannelDeleted(_)
        | Change::ChannelPaused(..)
        | Change::ChannelEmptied(_) => return true,
    };
    keep.iter().any(|(low, high)| (low..=high).contains(&id))
}

//! Segments: the files of a log, `0000000001.log` and so on, each written from front to back and
//! never changed.
//!
//! ```text
//!  0            8            12         16             20                 24        28        32
//!  │ magic (8)  │ number (4) │ salt (4) │ previous (4) │ previous end (4) │ end (4) │ crc (4) │ the same again │ Snapshot │ Snapshot │ records …
//! ```
//!
//! A segment begins with the catalog, so that older segments can be removed. It also names the
//! segment written before it, and how many bytes of that one are good: bytes after them are a
//! failed write that could not be undone. The header and the Snapshot are written twice, so that a
//! damaged byte in them costs nothing. A segment that was [stripped](super::strip) has its own end
//! in the header.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::catalog::Catalog;
use super::payload::{PayloadWriter, put_snapshot};
use super::record::{self, RECORD_HEADER_BYTES, RecordKind};

/// Bytes before the first record.
pub(super) const SEGMENT_HEADER_BYTES: usize = 2 * HEADER_COPY_BYTES;
/// Bytes of one of the header's two copies.
const HEADER_COPY_BYTES: usize = 32;
/// Bytes of the header of version 2, which is written once.
const HEADER_2_BYTES: usize = 28;
const MAGIC: [u8; 7] = *b"mqueue ";
const VERSION: u8 = b'3';
const VERSION_2: u8 = b'2';

/// The path of a segment's file.
pub(super) fn file_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.log"))
}

/// The number in a segment's file name; `None` for other files.
pub(super) fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 10)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Number of a segment, and its good length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extent {
    /// The segment's number; 0 is never used.
    pub(super) number: u32,
    /// The end of its last record.
    pub(super) end: u32,
}

/// Header of a segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u32,
    pub(super) salt: u32,
    /// The segment written before this one.
    pub(super) previous: Extent,
    /// The file's length, if the segment was stripped; else 0.
    pub(super) end: u32,
    /// Bytes before the first record, which depend on the version.
    pub(super) length: u32,
    /// True if one of the two copies is damaged.
    pub(super) has_damaged_copy: bool,
}

/// Reason why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// The file is shorter than a header, or all zeros: it was never used.
    Unwritten,
    /// The header has a version that this program does not know.
    OtherVersion,
    /// The header's checksum is wrong.
    Damaged,
}

impl SegmentHeader {
    /// The header of a new segment.
    pub(super) fn new(number: u32, previous: Extent) -> Self {
        let length = SEGMENT_HEADER_BYTES as u32;
        Self { number, salt: fastrand::u32(..), previous, end: 0, length, has_damaged_copy: false }
    }

    /// Encodes the header.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.put_u8(VERSION);
        for field in [self.number, self.salt, self.previous.number, self.previous.end, self.end] {
            out.put_u32(field);
        }
        out.put_u32(crc32fast::hash(&out));
        out.extend_from_within(..);
        out
    }

    /// Decodes the header at the beginning of a segment.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        if bytes.len() < HEADER_2_BYTES || bytes.iter().all(|b| *b == 0) {
            return Err(BadHeader::Unwritten);
        }
        let is_3 = |copy: &&[u8]| Self::decode_3(copy).is_ok();
        let copies =
            [bytes.get(..HEADER_COPY_BYTES), bytes.get(HEADER_COPY_BYTES..SEGMENT_HEADER_BYTES)].into_iter().flatten();
        match copies.clone().find(is_3).map(Self::decode_3) {
            Some(Ok(header)) if bytes.len() >= SEGMENT_HEADER_BYTES => {
                let has_damaged_copy = bytes[..HEADER_COPY_BYTES] != bytes[HEADER_COPY_BYTES..SEGMENT_HEADER_BYTES];
                return Ok(Self { has_damaged_copy, ..header });
            }
            Some(_) => return Err(BadHeader::Unwritten),
            None => {}
        }
        let all = copies.map(Self::decode_3).chain([Self::decode_2(&bytes[..HEADER_2_BYTES])]);
        // too short for a record of any version
        let nothing = if bytes.len() < SEGMENT_HEADER_BYTES { BadHeader::Unwritten } else { BadHeader::Damaged };
        let mut found = Err(nothing);
        for header in all {
            found = match (found, header) {
                (Err(BadHeader::OtherVersion), _) | (_, Err(BadHeader::OtherVersion)) => Err(BadHeader::OtherVersion),
                (found, Err(_)) => found,
                (_, header) => header,
            };
        }
        found
    }

    fn decode_3(copy: &[u8]) -> Result<Self, BadHeader> {
        let field = |at: usize| field(copy, at);
        match (copy[..7] == MAGIC, field(HEADER_COPY_BYTES - 4) == crc32fast::hash(&copy[..HEADER_COPY_BYTES - 4])) {
            (true, true) if copy[7] == VERSION => Ok(Self {
                number: field(8),
                salt: field(12),
                previous: Extent { number: field(16), end: field(20) },
                end: field(24),
                length: SEGMENT_HEADER_BYTES as u32,
                has_damaged_copy: false,
            }),
            (true, true) => Err(BadHeader::OtherVersion),
            (false, _) | (_, false) => Err(BadHeader::Damaged),
        }
    }

    fn decode_2(copy: &[u8]) -> Result<Self, BadHeader> {
        let field = |at: usize| field(copy, at);
        match (copy[..7] == MAGIC, field(HEADER_2_BYTES - 4) == crc32fast::hash(&copy[..HEADER_2_BYTES - 4])) {
            (true, true) if copy[7] == VERSION_2 => Ok(Self {
                number: field(8),
                salt: field(12),
                previous: Extent { number: field(16), end: field(20) },
                end: 0,
                length: HEADER_2_BYTES as u32,
                has_damaged_copy: false,
            }),
            (true, true) => Err(BadHeader::OtherVersion),
            (false, _) | (_, false) => Err(BadHeader::Damaged),
        }
    }

    /// True if the header has the current version.
    pub(super) fn is_current(&self) -> bool {
        self.length == SEGMENT_HEADER_BYTES as u32
    }
}

fn field(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The segment being written.
#[derive(Debug)]
pub(super) struct Segment {
    number: u32,
    salt: u32,
    file: Arc<File>,
    /// The position of the next record.
    end: u32,
    /// The position after the Snapshot.
    begin: u32,
    /// The segment written before this one.
    previous: Extent,
    /// True after a failed write that could not be undone: nothing more may be written.
    is_abandoned: bool,
    /// The position up to which the disk has given space, which no other program can take;
    /// [`UNRESERVED`] if that is not known.
    allocated: u64,
}

/// The position of a segment that takes its space as it grows.
const UNRESERVED: u64 = u64::MAX;

impl Segment {
    /// Creates a segment. Fails if the file exists or cannot be written, and then leaves what there is
    /// of it.
    pub(super) fn create(directory: &Path, header: SegmentHeader, catalog: &Catalog) -> io::Result<Self> {
        let path = file_path(directory, header.number);
        let file = OpenOptions::new().append(true).read(true).create_new(true).mode(0o600).open(&path)?;
        let mut snapshot = Vec::new();
        put_snapshot(&mut snapshot, catalog);
        let mut bytes = header.encode();
        let head = record::head(RecordKind::Snapshot, header.salt, [snapshot.as_slice()].into_iter());
        // twice: a damaged byte in one of them costs nothing
        for _ in 0..2 {
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(&snapshot);
        }
        let end = u32::try_from(bytes.len()).map_err(|_| io::Error::other("the catalog is above 4 GiB"))?;
        (&file).write_all(&bytes)?;
        let SegmentHeader { number, salt, previous, .. } = header;
        let (file, is_abandoned, allocated) = (Arc::new(file), false, UNRESERVED);
        Ok(Self { number, salt, file, end, begin: end, previous, is_abandoned, allocated })
    }

    /// Reopens a segment that was read, and that has its Snapshot, to append to it.
    pub(super) fn resume(directory: &Path, header: SegmentHeader, end: u32) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).read(true).open(file_path(directory, header.number))?;
        let begin = header.length + RECORD_HEADER_BYTES as u32;
        let SegmentHeader { number, salt, previous, .. } = header;
        let (file, is_abandoned, allocated) = (Arc::new(file), false, UNRESERVED);
        Ok(Self { number, salt, file, end, begin, previous, is_abandoned, allocated })
    }

    pub(super) fn salt(&self) -> u32 {
        self.salt
    }

    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    pub(super) fn extent(&self) -> Extent {
        Extent { number: self.number, end: self.end }
    }

    /// The segment written before this one.
    pub(super) fn previous(&self) -> Extent {
        self.previous
    }

    /// Bytes after the Snapshot.
    pub(super) fn written(&self) -> u32 {
        self.end - self.begin
    }

    /// True if the segment has only the Snapshot.
    pub(super) fn is_bare(&self) -> bool {
        self.end == self.begin
    }

    /// True if `length` more bytes fit within `limit`, the Snapshot not counted; an empty segment
    /// takes as much as 4 GiB allow. The limit is at least the Snapshot's length: otherwise most of
    /// what is written would be Snapshots.
    pub(super) fn has_room(&self, length: u32, limit: u32) -> bool {
        let limit = u64::from(limit).max(u64::from(self.begin));
        let within = u64::from(self.end - self.begin) + u64::from(length) <= limit;
        !self.is_abandoned && self.end.checked_add(length).is_some() && (within || self.is_bare())
    }

    /// Writes all of `slices`, `length` bytes in total, or nothing. If the write fails and its
    /// bytes cannot be truncated, the segment is abandoned.
    pub(super) fn append(&mut self, mut slices: &mut [IoSlice<'_>], length: u32) -> io::Result<()> {
        while !slices.is_empty() {
            match (&*self.file).write_vectored(slices) {
                Ok(0) => return Err(self.undo_write(io::ErrorKind::WriteZero.into())),
                Ok(written) => IoSlice::advance_slices(&mut slices, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.undo_write(error)),
            }
        }
        self.end += length;
        Ok(())
    }

    fn undo_write(&mut self, error: io::Error) -> io::Error {
        self.is_abandoned = self.file.set_len(self.end.into()).is_err();
        // the space after the end was given back
        if self.allocated != UNRESERVED {
            self.allocated = 0;
        }
        error
    }

    /// Lets [`allocate`](Self::allocate) allocate space from now on.
    pub(super) fn begin_allocating(&mut self) {
        self.allocated = 0;
    }

    /// Allocates space for `length` more bytes and at least `least` after them. If it has to ask
    /// the disk, it asks for more: `most`, so that this is rare. Fails if the disk is full.
    pub(super) fn allocate(&mut self, length: u32, least: u64, most: u64) -> io::Result<()> {
        let needed = u64::from(self.end) + u64::from(length);
        if needed + least <= self.allocated {
            return Ok(());
        }
        let mut result = Ok(());
        // what was allocated before a restart is asked for again, which takes nothing from a full
        // disk
        for ahead in [most + most / 2, most, least] {
            let begin = self.allocated.max(self.end.into());
            result = allocate(&self.file, begin, needed + ahead.max(least));
            match &result {
                Ok(()) => {
                    self.allocated = needed + ahead.max(least);
                    break;
                }
                Err(error) if is_full(error) => {}
                // the file system cannot do that
                Err(_) => {
                    self.allocated = UNRESERVED;
                    return Ok(());
                }
            }
        }
        result
    }

    /// Allocates `bytes` more bytes, which were just freed, or as many of them as the disk has.
    pub(super) fn allocate_more(&mut self, bytes: u64) {
        if self.allocated == UNRESERVED || self.is_abandoned {
            return;
        }
        let begin = self.allocated.max(self.end.into());
        // some of the space may be needed to describe the rest, and others may take some
        for eighths in [8, 7, 4, 2, 1] {
            let end = begin + bytes / 8 * eighths;
            match allocate(&self.file, begin, end) {
                Ok(()) => return self.allocated = end,
                Err(error) if is_full(&error) => {}
                Err(_) => return self.allocated = UNRESERVED,
            }
        }
    }

    /// True if space for `length` more bytes is allocated.
    pub(super) fn has_allocated(&self, length: u32) -> bool {
        let after = self.end.checked_add(length).map(u64::from);
        !self.is_abandoned && self.allocated != UNRESERVED && after.is_some_and(|after| after <= self.allocated)
    }

    /// Bytes that are missing to `ahead` allocated bytes after the end.
    pub(super) fn missing(&self, ahead: u64) -> u64 {
        (u64::from(self.end) + ahead).saturating_sub(self.allocated)
    }

    /// Gives back the space after the end: nothing more is written.
    pub(super) fn release(&self) {
        if self.allocated != UNRESERVED {
            let _ = self.file.set_len(self.end.into());
        }
    }
}

/// Allocates the space of a range of a file, without changing its length.
fn allocate(file: &File, begin: u64, end: u64) -> io::Result<()> {
    let offset = |at: u64| i64::try_from(at).map_err(io::Error::other);
    let (begin, length) = (offset(begin)?, offset(end.saturating_sub(begin))?);
    if length == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, begin, length) {
            Err(Errno::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// True if the disk is full, or the user's quota used up.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        let previous = Extent { number: 1, end: 28 };
        let length = SEGMENT_HEADER_BYTES as u32;
        SegmentHeader { number: 2, salt: 0x0403_0201, previous, end: 5, length, has_damaged_copy: false }
    }

    #[test]
    fn headers_have_a_stable_encoding() {
        let bytes = header().encode();
        assert_eq!(bytes[..28], *b"mqueue 3\x02\0\0\0\x01\x02\x03\x04\x01\0\0\0\x1c\0\0\0\x05\0\0\0");
        assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
        assert_eq!(bytes[..32], bytes[32..]);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
    }

    #[test]
    fn a_header_of_version_2_is_read() {
        let mut bytes = b"mqueue 2\x02\0\0\0\x01\x02\x03\x04\x01\0\0\0\x1c\0\0\0".to_vec();
        bytes.put_u32(crc32fast::hash(&bytes));
        let known = SegmentHeader { end: 0, length: 28, ..header() };
        assert_eq!(SegmentHeader::decode(&bytes), Ok(known));
        bytes.extend_from_slice(&[7; 100]);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(known));
        bytes[9] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Damaged));
        assert_eq!(SegmentHeader::decode(&bytes[..40]), Err(BadHeader::Unwritten));
    }

    #[test]
    fn a_damaged_byte_in_a_header_costs_nothing() {
        let good = header().encode();
        for wrong in 0..good.len() {
            let mut bytes = good.clone();
            bytes[wrong] ^= 1;
            let known = SegmentHeader { has_damaged_copy: true, ..header() };
            assert_eq!(SegmentHeader::decode(&bytes), Ok(known), "byte {wrong}");
            bytes[(wrong + 32) % 64] ^= 1;
            assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Damaged), "byte {wrong}, twice");
        }
    }

    #[test]
    fn incomplete_headers_and_other_versions_are_refused() {
        let bytes = header().encode();
        for length in 0..SEGMENT_HEADER_BYTES {
            assert_eq!(SegmentHeader::decode(&bytes[..length]), Err(BadHeader::Unwritten), "{length} bytes");
        }
        assert_eq!(SegmentHeader::decode(&[0; 4096]), Err(BadHeader::Unwritten));
        let mut next = bytes[..28].to_vec();
        next[7] += 1;
        next.put_u32(crc32fast::hash(&next));
        next.extend_from_within(..);
        assert_eq!(SegmentHeader::decode(&next), Err(BadHeader::OtherVersion));
    }

    #[test]
    fn only_names_of_segments_have_a_number() {
        assert_eq!(number_of("0000000012.log"), Some(12));
        for name in ["12.log", "0000000012.log.damaged", "lock", "+000000012.log", "9999999999.log"] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_segment_is_abandoned_if_a_failed_write_cannot_be_undone() {
        let directory = tempfile::tempdir().unwrap();
        let header = SegmentHeader::new(1, Extent::default());
        let mut segment = Segment::create(directory.path(), header, &Catalog::default()).unwrap();
        let end = segment.end;
        // A read-only descriptor allows neither the write nor the truncation.
        let writable =
            std::mem::replace(&mut segment.file, Arc::new(File::open(file_path(directory.path(), 1)).unwrap()));
        assert!(segment.append(&mut [IoSlice::new(b"x")], 1).is_err());
        assert!(!segment.has_room(1, 1000), "abandoned");
        assert_eq!((segment.end, writable.metadata().unwrap().len()), (end, end.into()));
    }
}

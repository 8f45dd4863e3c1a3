//! Reader of bodies in segments.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use tokio::time::Instant;

use super::super::record::{RECORD_HEADER_BYTES, RecordHeader};
use super::super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::{LogLocation, LoggedBodies, file_path};
use crate::io_error::describe;
use crate::proto::Bodies;

/// Maximum number of open segment files; a backlog may have more segments than a process may have
/// files.
const MAX_OPEN_FILES: usize = 32;
/// Maximum length of a record that is cached for the next read after a small part of it was read.
const MAX_CACHED_RECORD: usize = 8 << 20;
/// A record longer than this with a wrong checksum is refused for [`REFUSAL_TIME`] without another
/// read.
const LARGE_RECORD: usize = 64 << 10;
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Error of reading a file, with the position.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct ReadError {
    text: String,
    source: io::Error,
}

/// True if the disk cannot read its own data (EIO).
pub(super) fn is_device_error(error: &io::Error) -> bool {
    let read = error.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>());
    read.is_some_and(|read| read.source.raw_os_error() == Some(Errno::EIO as i32))
}

/// Open files, the most recently used first.
#[derive(Debug)]
pub(super) struct StoredBodyReader {
    path: PathBuf,
    files: VecDeque<(u32, File, u32)>,
    /// The record read last, since messages that were published together may be read one by one.
    kept: Option<CachedRecord>,
    /// Bytes read so far.
    bytes: u64,
}

/// A record that was read, with the result of its check.
#[derive(Debug)]
struct CachedRecord {
    segment: u32,
    record: u32,
    /// The payload, if the checksum is right; else when it was found to be wrong.
    payload: Result<Bytes, Instant>,
}

/// A reader of bodies without the log. It changes nothing, and says nothing about damage: a body
/// that it cannot read may have been relocated, or finished, with its segment removed.
#[derive(Debug)]
pub struct DetachedReader(StoredBodyReader);

impl DetachedReader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(StoredBodyReader::new(path))
    }

    /// Reads bodies, in a record that is read and checked as a whole.
    ///
    /// # Errors
    ///
    /// Fails if the bodies are not there (any more), or if their checksum is wrong.
    pub fn read(&mut self, bodies: &LoggedBodies) -> io::Result<Bodies> {
        self.0.read(bodies.location, bodies.length, bodies.count, bodies.end)
    }
}

impl StoredBodyReader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, files: VecDeque::new(), kept: None, bytes: 0 }
    }

    /// Reads the bodies at a location; `end` is the segment's good length. Fails if there are not
    /// `count` bodies of `length` bytes with their sizes, or if the checksum of their record is
    /// wrong.
    pub(super) fn read(&mut self, location: LogLocation, length: u32, count: u32, end: u32) -> io::Result<Bodies> {
        match self.try_read(location, length, count, end) {
            Err(_) if self.forget_replaced(location.segment) => self.try_read(location, length, count, end),
            result => result,
        }
    }

    fn try_read(&mut self, location: LogLocation, length: u32, count: u32, end: u32) -> io::Result<Bodies> {
        let bad = |reader: &Self| reader.bad_location(location, length, count);
        let begin = location
            .offset
            .checked_sub(location.record)
            .and_then(|offset| offset.checked_sub(RECORD_HEADER_BYTES as u32));
        let Some(begin) = begin.map(|begin| begin as usize) else { return Err(bad(self)) };
        if location.offset.checked_add(length).is_none_or(|after| after > end) {
            return Err(bad(self));
        }
        let end_of_bodies = begin + length as usize;
        match self.kept.as_ref().filter(|kept| (kept.segment, kept.record) == (location.segment, location.record)) {
            Some(CachedRecord { payload: Ok(payload), .. }) => {
                let bodies = payload.get(begin..end_of_bodies).map(Bytes::copy_from_slice);
                return bodies.and_then(|bodies| Bodies::from_sized(bodies, count)).ok_or_else(|| bad(self));
            }
            Some(CachedRecord { payload: Err(when), .. }) if when.elapsed() < REFUSAL_TIME => return Err(bad(self)),
            Some(_) | None => {}
        }
        let at = |error: io::Error, reader: &Self| {
            let (path, LogLocation { offset, .. }) = (file_path(&reader.path, location.segment), location);
            let text = format!("byte {offset} of {} cannot be read: {}", path.display(), describe(&error));
            io::Error::new(error.kind(), ReadError { text, source: error })
        };
        let mut head = [0; RECORD_HEADER_BYTES];
        let salt =
            self.read_at(location.segment, &mut head, location.record.into()).map_err(|error| at(error, self))?;
        let head = RecordHeader::read(salt, &head)
            .filter(|head| u64::from(location.record) + u64::from(head.length) < end.into());
        let Some(head) = head.filter(|head| end_of_bodies <= head.length as usize) else {
            return Err(bad(self));
        };
        let mut payload = vec![0; head.length as usize];
        let begin_of_payload = u64::from(location.record) + RECORD_HEADER_BYTES as u64;
        self.read_at(location.segment, &mut payload, begin_of_payload).map_err(|error| at(error, self))?;
        let (fits, payload, bodies) = (head.fits(salt, &payload), Bytes::from(payload), begin..end_of_bodies);
        // copy a small part of a large record, so that the whole record is not kept in memory
        let is_small = bodies.len() < payload.len() / 2;
        let (segment, record) = (location.segment, location.record);
        if !fits {
            let payload = Err(Instant::now());
            self.kept = (head.length as usize > LARGE_RECORD).then_some(CachedRecord { segment, record, payload });
            return Err(bad(self));
        }
        if is_small && payload.len() <= MAX_CACHED_RECORD {
            self.kept = Some(CachedRecord { segment, record, payload: Ok(payload.clone()) });
        }
        let bytes = if is_small { Bytes::copy_from_slice(&payload[bodies]) } else { payload.slice(bodies) };
        Bodies::from_sized(bytes, count).ok_or_else(|| bad(self))
    }

    /// Fills `bytes` from a segment's file; returns the salt of its records.
    fn read_at(&mut self, segment: u32, bytes: &mut [u8], begin: u64) -> io::Result<u32> {
        self.bytes += bytes.len() as u64;
        let (file, salt) = self.file(segment)?;
        file.read_exact_at(bytes, begin)?;
        Ok(salt)
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Closes a segment's file, which is about to be removed.
    pub(super) fn forget(&mut self, segment: u32) {
        self.files.retain(|(number, ..)| *number != segment);
        self.kept.take_if(|kept| kept.segment == segment);
    }

    /// Closes a segment's file if it was [written again](super::super::unsynced) since it was opened;
    /// returns true then.
    fn forget_replaced(&mut self, segment: u32) -> bool {
        let open = self.files.iter().find(|(number, ..)| *number == segment);
        let is_replaced = open.is_some_and(|(_, file, _)| file.metadata().is_ok_and(|about| about.nlink() == 0));
        if is_replaced {
            self.forget(segment);
        }
        is_replaced
    }

    /// A segment's open file, and the salt of its records.
    fn file(&mut self, segment: u32) -> io::Result<(&File, u32)> {
        let found = match self.files.iter().position(|(number, ..)| *number == segment) {
            Some(0) => return Ok((&self.files[0].1, self.files[0].2)),
            Some(at) => self.files.remove(at).expect("it was just found"),
            None => {
                let path = file_path(&self.path, segment);
                let file = File::open(&path)?;
                let mut begin = vec![
                    0;
                    SEGMENT_HEADER_BYTES
                        .min(usize::try_from(file.metadata()?.len()).unwrap_or(SEGMENT_HEADER_BYTES))
                ];
                file.read_exact_at(&mut begin, 0)?;
                let bad = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{} has no header", path.display()));
                let salt = SegmentHeader::decode(&begin).map_err(bad)?.salt;
                (segment, file, salt)
            }
        };
        self.files.push_front(found);
        self.files.truncate(MAX_OPEN_FILES);
        Ok((&self.files[0].1, self.files[0].2))
    }

    fn bad_location(&self, LogLocation { segment, offset, .. }: LogLocation, length: u32, count: u32) -> io::Error {
        let path = file_path(&self.path, segment);
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "byte {offset} of {} does not begin a record of this batch (messages: {count}, bytes: {length})",
                path.display()
            ),
        )
    }
}

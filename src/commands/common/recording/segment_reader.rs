//! Reads one segment, finished or not, damaged or not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mqueue::proto::{Message, TopicName};

use super::block::{self, BLOCK_HEAD, BLOCK_MARK, BlockHead, MAX_BLOCK};
use super::index::{self, BlockPlace, SEGMENT_END, SegmentEnd, TimeRange};
use super::segment_header::{BOTH_HEADERS, RecordingHeader};
use super::segment_writer::SegmentWriter;
use super::{DamagedPart, RecordingError};

/// Bytes that are searched at once for the next good block.
const SEARCH_BYTES: usize = 1 << 20;

/// A segment.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    path: PathBuf,
    file: File,
    header: RecordingHeader,
    length: u64,
    end: Option<SegmentEnd>,
}

/// The blocks of a segment.
#[derive(Debug, Default)]
pub(crate) struct FoundBlocks {
    pub(crate) blocks: Vec<BlockPlace>,
    /// Parts between the blocks that cannot be read.
    pub(crate) damaged: Vec<DamagedPart>,
    /// Bytes at the end that are no complete block: its writer was killed, or writes it now.
    pub(crate) torn: u64,
    /// The end of the last block.
    good: u64,
}

impl SegmentReader {
    /// Opens the file; reads its header and its end.
    pub(crate) fn open(path: &Path) -> Result<Self, RecordingError> {
        let file = File::open(path).map_err(RecordingError::io(path))?;
        let length = file.metadata().map_err(RecordingError::io(path))?.len();
        let head = read(&file, 0, BOTH_HEADERS.min(length as usize)).map_err(RecordingError::io(path))?;
        let header = RecordingHeader::decode(&head).ok_or_else(|| RecordingError::NoSegment(path.to_owned()))?;
        let end = match length.checked_sub(SEGMENT_END as u64).filter(|at| *at >= BOTH_HEADERS as u64) {
            Some(at) => {
                let bytes = read(&file, at, SEGMENT_END).map_err(RecordingError::io(path))?;
                index::decode_end(&bytes, length, header.salt)
            }
            None => None,
        };
        Ok(Self { path: path.to_owned(), file, header, length, end })
    }

    /// The stream whose messages the segment has.
    pub(crate) fn stream(&self) -> &TopicName {
        &self.header.stream
    }

    /// Returns true if the segment has its index: nothing is written to it any more.
    pub(crate) fn is_finished(&self) -> bool {
        self.end.is_some()
    }

    /// The publish times and the number of its messages, if the segment is finished.
    pub(crate) fn summary(&self) -> Option<(TimeRange, u64)> {
        self.end.map(|end| (end.times, end.messages))
    }

    /// Returns the blocks: those of the index, or those that are found one after the other.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn blocks(&self) -> Result<FoundBlocks, RecordingError> {
        self.indexed().transpose().unwrap_or_else(|| self.walk()).map_err(RecordingError::io(&self.path))
    }

    fn indexed(&self) -> io::Result<Option<FoundBlocks>> {
        let Some(end) = &self.end else { return Ok(None) };
        let length = (self.length - end.index_at) as usize - SEGMENT_END;
        let entries = index::decode_entries(end, &read(&self.file, end.index_at, length)?, self.header.salt);
        let good = end.index_at;
        Ok(entries.map(|blocks| FoundBlocks { blocks, good, ..FoundBlocks::default() }))
    }

    /// Finds the blocks one after the other. Only heads are read.
    fn walk(&self) -> io::Result<FoundBlocks> {
        let mut found = FoundBlocks { good: BOTH_HEADERS as u64, ..FoundBlocks::default() };
        let until = self.end.map_or(self.length, |end| end.index_at);
        let mut at = found.good;
        while at < until {
            let head = self.head_at(at, until)?;
            let at_block = head.map(|head| (at, head));
            let Some((offset, head)) = at_block.map_or_else(|| self.next_block(at + 1, until), |it| Ok(Some(it)))?
            else {
                break;
            };
            if offset > at {
                found.damaged.push(self.damaged(at, offset - at, "an unknown number of messages is lost"));
            }
            let bytes = BLOCK_HEAD as u32 + head.stored;
            found.blocks.push(BlockPlace { offset, bytes, count: head.count, times: head.times });
            at = offset + u64::from(bytes);
            found.good = at;
        }
        found.torn = until - found.good;
        if self.end.is_some() && found.torn > 0 {
            let (good, torn) = (found.good, std::mem::take(&mut found.torn));
            found.damaged.push(self.damaged(good, torn, "an unknown number of messages is lost"));
        }
        Ok(found)
    }

    /// Returns the head of the block at `at`, if there is a whole block.
    fn head_at(&self, at: u64, until: u64) -> io::Result<Option<BlockHead>> {
        if until - at < BLOCK_HEAD as u64 {
            return Ok(None);
        }
        let head = BlockHead::decode(self.header.salt, &read(&self.file, at, BLOCK_HEAD)?);
        Ok(head.filter(|head| at + BLOCK_HEAD as u64 + u64::from(head.stored) <= until))
    }

    /// Searches for the next block from `at` on.
    fn next_block(&self, mut at: u64, until: u64) -> io::Result<Option<(u64, BlockHead)>> {
        while at + BLOCK_HEAD as u64 <= until {
            let length = SEARCH_BYTES.min((until - at) as usize);
            let piece = read(&self.file, at, length)?;
            for mark in memchr::memmem::find_iter(&piece, &BLOCK_MARK) {
                let offset = at + mark as u64;
                if let Some(head) = self.head_at(offset, until)? {
                    return Ok(Some((offset, head)));
                }
            }
            // a mark may lie across two pieces
            at += (length - (BLOCK_MARK.len() - 1).min(length - 1)) as u64;
        }
        Ok(None)
    }

    /// Reads the messages of a block.
    ///
    /// # Errors
    /// The block is damaged, or cannot be read.
    pub(crate) fn messages(&self, place: &BlockPlace) -> Result<Vec<Message>, DamagedPart> {
        let lost = |why: &str| {
            let times = mqueue::plural::count(u64::from(place.count), "message");
            self.damaged(place.offset, place.bytes.into(), &format!("{times} lost ({why})"))
        };
        if place.bytes < BLOCK_HEAD as u32
            || place.bytes > MAX_BLOCK
            || place.offset + u64::from(place.bytes) > self.length
        {
            return Err(lost("its place is outside of the file"));
        }
        let bytes = read(&self.file, place.offset, place.bytes as usize).map_err(|error| lost(&error.to_string()))?;
        let head = BlockHead::decode(self.header.salt, &bytes).ok_or_else(|| lost("its head"))?;
        if head.stored as usize != bytes.len() - BLOCK_HEAD {
            return Err(lost("its length"));
        }
        block::unpack(&head, self.header.salt, &bytes[BLOCK_HEAD..]).map_err(lost)
    }

    /// Completes an unfinished segment: cuts off an incomplete block at its end, and writes the
    /// index. The segment must not be written to by another program.
    pub(crate) fn complete(self) -> Result<FoundBlocks, RecordingError> {
        let mut found = self.blocks()?;
        // a crash of the machine may leave a block's head without its contents
        while let Some(last) = found.blocks.last().copied() {
            if self.messages(&last).is_ok() {
                break;
            }
            found.blocks.pop();
            found.torn += found.good - last.offset;
            found.good = last.offset;
        }
        let (path, salt) = (self.path.clone(), self.header.salt);
        let finish = || {
            let file = File::options().read(true).write(true).open(&path)?;
            SegmentWriter::at(path.clone(), file, salt, found.good, found.blocks.clone())?.finish()
        };
        finish().map_err(RecordingError::io(&path))?;
        Ok(found)
    }

    fn damaged(&self, at: u64, bytes: u64, what: &str) -> DamagedPart {
        DamagedPart { path: self.path.clone(), at, bytes, what: what.to_owned() }
    }
}

fn read(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

//! Writes one segment: blocks, each synced before its messages are finished, and the index.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mqueue::proto::{Message, TopicName};

use super::block::{BLOCK_HEAD, BlockHead, salted_crc};
use super::index::{self, BlockPlace, TimeRange};
use super::segment_header::RecordingHeader;
use super::{MESSAGE_HEAD, add_message};

/// The compression level of zstd: its default.
const LEVEL: i32 = 3;

/// A segment that is being written.
pub(crate) struct SegmentWriter {
    path: PathBuf,
    file: File,
    salt: u32,
    /// The synced length of the file.
    end: u64,
    blocks: Vec<BlockPlace>,
    compressor: zstd::bulk::Compressor<'static>,
    /// The uncompressed contents of a block; kept for its capacity.
    contents: Vec<u8>,
    /// A block's head and contents, as they are written.
    stored: Vec<u8>,
}

impl SegmentWriter {
    /// Creates the file, with its headers. The folder is synced with the first block.
    pub(crate) fn create(path: PathBuf, stream: &TopicName) -> io::Result<Self> {
        let header = RecordingHeader { stream: stream.clone(), salt: fastrand::u32(..) };
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let (bytes, salt) = (header.encode(), header.salt);
        file.write_all_at(&bytes, 0)?;
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        let (contents, stored) = (Vec::new(), Vec::new());
        Ok(Self { path, file, salt, end: bytes.len() as u64, blocks: Vec::new(), compressor, contents, stored })
    }

    /// Continues with the index of an unfinished segment, whose good blocks end at `end`.
    pub(super) fn at(path: PathBuf, file: File, salt: u32, end: u64, blocks: Vec<BlockPlace>) -> io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        Ok(Self { path, file, salt, end, blocks, compressor, contents: Vec::new(), stored: Vec::new() })
    }

    /// The segment's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.end
    }

    /// Writes these messages as one block, and syncs it. After an error the block is not part of
    /// the segment.
    pub(crate) fn append(&mut self, messages: &[Message]) -> io::Result<()> {
        let Some(times) = messages.iter().map(|message| TimeRange::of(message.timestamp)).reduce(TimeRange::with)
        else {
            return Ok(());
        };
        let count = messages.len();
        self.contents.clear();
        messages.iter().for_each(|message| add_message(message, &mut self.contents));
        self.stored.clear();
        self.stored.resize(BLOCK_HEAD + zstd::zstd_safe::compress_bound(self.contents.len()), 0);
        let length = self.compressor.compress_to_buffer(&self.contents, &mut self.stored[BLOCK_HEAD..])?;
        self.stored.truncate(BLOCK_HEAD + length);
        let head = BlockHead {
            stored: u32::try_from(length).map_err(io::Error::other)?,
            size: u32::try_from(self.contents.len()).map_err(io::Error::other)?,
            count: u32::try_from(count).map_err(io::Error::other)?,
            times,
            crc: salted_crc(self.salt, &self.stored[BLOCK_HEAD..]),
        };
        self.stored[..BLOCK_HEAD].copy_from_slice(&head.encode(self.salt));
        let written = self.file.write_all_at(&self.stored, self.end).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // a part of the block is of no use, and takes room on a full disk
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        if self.blocks.is_empty() {
            sync_folder(&self.path)?;
        }
        let bytes = u32::try_from(self.stored.len()).map_err(io::Error::other)?;
        self.blocks.push(BlockPlace { offset: self.end, bytes, count: head.count, times });
        self.end += u64::from(bytes);
        Ok(())
    }

    /// Ends the segment after an error: it keeps its blocks, and without any it is removed.
    pub(crate) fn give_up(self) -> io::Result<()> {
        if self.blocks.is_empty() { std::fs::remove_file(&self.path) } else { self.finish() }
    }

    /// Writes the index, after which the segment is complete.
    pub(crate) fn finish(self) -> io::Result<()> {
        let index = index::encode(&self.blocks, self.end, self.salt);
        self.file.set_len(self.end)?;
        self.file.write_all_at(&index, self.end)?;
        self.file.sync_data()
    }
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentWriter").field("path", &self.path).field("end", &self.end).finish_non_exhaustive()
    }
}

/// Returns the bytes that a message takes in a block, uncompressed.
pub(crate) fn uncompressed_bytes(message: &Message) -> usize {
    MESSAGE_HEAD + message.body.len()
}

/// Syncs the folder of a file, so that the file's name survives a crash of the machine.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

//! Checkpoint: the contents of a log, written when its broker goes to sleep, so that the next
//! opening reads this file and no segments.
//!
//! ```text
//!  0            8         12
//!  │ magic (8)  │ crc (4) │ count (4) │ ( number (4) │ header (64) │ end (4) │ ids (1, 8, 8) │ changes (8) │ messages (8) )*
//!  │ length (4) │ Snapshot
//!  │ count (4)  │ ( id (8) │ count (4) │ topic (4) │ timestamp (8) │ location (12) │ length (4) │ due (8) │ count (4) │ copy (14)* )*
//! ```
//!
//! It is made by reading the log as an opening does, so both have the same result. It holds as long
//! as the segments are what they were: the same files, by the salts in their headers, with the same
//! headers and lengths. Any write, stripping or removal changes one of these, so a checkpoint that
//! is left over is ignored. Bodies are not read; their checksums are verified when they are
//! delivered.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::catalog::Catalog;
use super::payload::{MalformedRecord, PayloadReader, PayloadWriter, put_snapshot, read_snapshot};
use super::segment::{Extent, SEGMENT_HEADER_BYTES, file_path};
use super::segments::SegmentContents;
use super::{LogLocation, Recovered, RecoveredBatch, TopicId};

const MAGIC: [u8; 8] = *b"mqueuec1";
/// Bytes before what the checksum covers.
const BEGIN: usize = MAGIC.len() + 4;
/// The largest checkpoint: a larger one takes as long as the segments.
const MAX_BYTES: usize = 256 << 20;

/// A segment at the time of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckpointSegment {
    pub(super) extent: Extent,
    /// The first bytes of the file, in which the salt is.
    header: [u8; SEGMENT_HEADER_BYTES],
    pub(super) contents: SegmentContents,
}

impl CheckpointSegment {
    /// Describes a segment by its file. Fails if the file cannot be read, or is shorter than a
    /// header.
    pub(super) fn of(path: &Path, extent: Extent, contents: SegmentContents) -> io::Result<Self> {
        Ok(Self { extent, header: read_header(&File::open(file_path(path, extent.number))?)?, contents })
    }

    /// True if the file is what it was.
    fn is_unchanged(&self, path: &Path) -> io::Result<bool> {
        let file = File::open(file_path(path, self.extent.number))?;
        Ok(file.metadata()?.len() == u64::from(self.extent.end) && read_header(&file)? == self.header)
    }
}

fn read_header(file: &File) -> io::Result<[u8; SEGMENT_HEADER_BYTES]> {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    Ok(header)
}

/// The contents of a log.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) segments: Vec<CheckpointSegment>,
    pub(super) catalog: Catalog,
    pub(super) batches: Vec<RecoveredBatch>,
}

fn checkpoint_path(path: &Path) -> PathBuf {
    path.join("checkpoint")
}

impl Checkpoint {
    /// Writes the checkpoint of the log at `path`, whose segments are synced. The file is there as a
    /// whole or not at all, also after a crash of the machine.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let bytes = self.encode();
        if bytes.len() > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the checkpoint would be above 256 MiB"));
        }
        let (to, new) = (checkpoint_path(path), path.join("checkpoint.new"));
        let written = (|| {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            fs::rename(&new, to)?;
            File::open(path)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// Takes the checkpoint out of the log's folder; `None` if there is none, or if it is not of the
    /// segments that are there.
    pub(super) fn take(path: &Path, numbers: &[u32]) -> Option<Self> {
        let file = checkpoint_path(path);
        let is_small = fs::metadata(&file).is_ok_and(|it| it.len() <= MAX_BYTES as u64);
        let bytes = is_small.then(|| fs::read(&file).ok()).flatten();
        // what is left over would be ignored; it is of no use to anybody
        let _ = fs::remove_file(&file);
        let checkpoint = Self::decode(&bytes?).ok()?;
        let is_of_these = checkpoint.segments.iter().map(|segment| segment.extent.number).eq(numbers.iter().copied());
        let is_unchanged = |segment: &CheckpointSegment| segment.is_unchanged(path).unwrap_or(false);
        (is_of_these && checkpoint.segments.iter().all(is_unchanged)).then_some(checkpoint)
    }

    /// The recovered contents, and the catalog.
    pub(super) fn into_recovered(self) -> (Recovered, Catalog) {
        let Self { catalog, batches, .. } = self;
        let (last_id, next_number) = (catalog.last_id, catalog.next_number);
        (Recovered { topics: catalog.recovered(), batches, last_id, next_number }, catalog)
    }

    fn encode(&self) -> Vec<u8> {
        let count = |length: usize| u32::try_from(length).expect("there are fewer than 2^32");
        let mut out = MAGIC.to_vec();
        out.put_u32(0);
        out.put_u32(count(self.segments.len()));
        for CheckpointSegment { extent, header, contents } in &self.segments {
            out.put_u32(extent.number);
            out.put(header);
            out.put_u32(extent.end);
            let (low, high) = contents.ids.unwrap_or_default();
            out.put_u8(u8::from(contents.ids.is_some()));
            [low, high, contents.notes, contents.messages].into_iter().for_each(|number| out.put_u64(number));
        }
        let mut snapshot = Vec::new();
        put_snapshot(&mut snapshot, &self.catalog);
        out.put_u32(count(snapshot.len()));
        out.put(&snapshot);
        out.put_u32(count(self.batches.len()));
        for RecoveredBatch { id, count: messages, topic, timestamp, location, length, due, copies } in &self.batches {
            out.put_u64(*id);
            out.put_u32(*messages);
            out.put_u32(topic.0);
            out.put(&timestamp.to_le_bytes());
            [location.segment, location.offset, location.record, *length].into_iter().for_each(|it| out.put_u32(it));
            out.put_due(*due);
            out.put_u32(count(copies.len()));
            copies.iter().for_each(|copy| out.put_copy(copy));
        }
        let crc = crc32fast::hash(&out[BEGIN..]).to_le_bytes();
        out[MAGIC.len()..BEGIN].copy_from_slice(&crc);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, MalformedRecord> {
        let (begin, rest) = bytes.split_at_checked(BEGIN).ok_or(MalformedRecord)?;
        if begin[..MAGIC.len()] != MAGIC || begin[MAGIC.len()..] != crc32fast::hash(rest).to_le_bytes() {
            return Err(MalformedRecord);
        }
        let mut fields = PayloadReader(rest);
        let segments = (0..fields.u32()?).map(|_| segment(&mut fields)).collect::<Result<_, _>>()?;
        let length = fields.u32()?;
        let catalog = read_snapshot(fields.take(length as usize)?)?;
        let batches = (0..fields.u32()?).map(|_| batch(&mut fields)).collect::<Result<_, _>>()?;
        if fields.0.is_empty() { Ok(Self { segments, catalog, batches }) } else { Err(MalformedRecord) }
    }
}

fn segment(fields: &mut PayloadReader<'_>) -> Result<CheckpointSegment, MalformedRecord> {
    let (number, header, end) = (fields.u32()?, fields.array()?, fields.u32()?);
    let has_ids = fields.bool()?;
    let ids = (fields.u64()?, fields.u64()?);
    let contents = SegmentContents { ids: has_ids.then_some(ids), notes: fields.u64()?, messages: fields.u64()? };
    Ok(CheckpointSegment { extent: Extent { number, end }, header, contents })
}

fn batch(fields: &mut PayloadReader<'_>) -> Result<RecoveredBatch, MalformedRecord> {
    Ok(RecoveredBatch {
        id: fields.u64()?,
        count: fields.u32()?,
        topic: TopicId(fields.u32()?),
        timestamp: fields.array().map(i64::from_le_bytes)?,
        location: LogLocation { segment: fields.u32()?, offset: fields.u32()?, record: fields.u32()? },
        length: fields.u32()?,
        due: fields.due()?,
        copies: (0..fields.u32()?).map(|_| fields.copy()).collect::<Result<_, _>>()?,
    })
}

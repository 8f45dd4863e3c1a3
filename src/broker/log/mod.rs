//! The log: the broker writes messages and changes to it before it acknowledges them, so a crash
//! loses nothing.
//!
//! [`Log`] is the interface that the state writes to and reads from; it is implemented on a disk,
//! or by nothing (`--memory`).
//!
//! Only durable topics and channels are logged, never ephemeral ones. A message is written once,
//! with its body, for all channels. Each later change of a channel's copy is a short record that
//! names the channel and the message. Delivery is not logged: after a crash, messages in flight are
//! queued again.

mod catalog;
mod checkpoint;
mod disk;
mod memory;
mod payload;
mod record;
mod recovered;
mod replace;
mod replay;
mod report;
mod reserve;
mod segment;
mod segments;
mod strip;
mod sync;
mod unsynced;
mod write_batch;

use std::io;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::disk::{BackupError, DetachedReader, DiskLog, LogOptions, OpenError, backup, verify};
pub use self::memory::MemoryLog;
use self::payload::BATCH_HEAD_BYTES;
use self::record::RECORD_HEADER_BYTES;
pub use self::recovered::{Recovered, RecoveredBatch, RecoveredChannel, RecoveredTopic};
pub use self::report::{Damage, RecoveryReport, Torn};
pub use self::sync::Synced;
use crate::duration_histogram::DurationCounts;
use crate::proto::{Bodies, ChannelName, TopicName};

/// Number of a topic; never reused in one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub u32);

/// Number of a channel of any topic; never reused in one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u32);

/// A time in milliseconds since 1970. Deferred copies are due by the wall clock, so that they stay
/// due at the same time after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// Bytes of a batch's record before its first body's size.
const BATCH_BEGIN: usize = RECORD_HEADER_BYTES + BATCH_HEAD_BYTES;

/// Approximate bytes of a batch in the log besides its bodies, with their sizes.
pub const BATCH_OVERHEAD: u64 = 64;

/// Maximum bytes of messages that are stored as one unit: read back, checked and relocated together.
/// More messages that are published together are several units; one larger message is one.
pub const MAX_UNIT_BYTES: usize = 512 << 10;

/// Location of a message's body, which its size precedes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogLocation {
    /// The segment's number.
    pub segment: u32,
    /// Offset of the size's first byte in the segment.
    pub offset: u32,
    /// Offset of the first byte of the record that has the body.
    pub record: u32,
}

impl LogLocation {
    /// The location of the first body after this part, which begins here, in its batch's next part.
    pub fn next_part(self, part: &Bodies) -> Self {
        // a segment, whose offsets have 32 bits, has both parts
        let record = self.offset + part.sized_length() as u32;
        Self { record, offset: record + BATCH_BEGIN as u32, ..self }
    }
}

/// Consecutive bodies in the log, as they were at one moment: their segment may be removed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedBodies {
    location: LogLocation,
    /// Bytes of the bodies with their sizes, and their number.
    length: u32,
    count: u32,
    /// The segment's good length.
    end: u32,
}

/// Messages published together, in one write, with a record for each part. A failed write leaves
/// none of them; a crash in its middle may leave the first parts.
#[derive(Debug, Clone, Copy)]
pub struct PublishedBatch<'a> {
    /// The topic that they are published to.
    pub topic: TopicId,
    /// The id of the first; the others count up from it.
    pub first: u64,
    /// When they were published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// When they are due, if they are deferred.
    pub due: Option<UnixMillis>,
    /// The holder of the messages.
    pub holder: MessageHolder,
    /// The bodies, in the order of the ids.
    pub parts: &'a [Bodies],
}

impl PublishedBatch<'_> {
    /// The number of messages.
    pub fn count(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.count())).sum()
    }
}

/// Holder of the messages of a [`PublishedBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageHolder {
    /// The topic, because it is paused, or has no channel yet.
    Topic,
    /// Every durable channel that the topic has at this moment; each has a copy.
    Channels,
}

/// A channel's copy of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelCopy {
    /// The channel.
    pub channel: ChannelId,
    /// The number of deliveries.
    pub attempts: u16,
    /// When the copy is due, if it is deferred; `None` if it is queued.
    pub due: Option<UnixMillis>,
}

/// A channel's copies of consecutive messages of a [`Relocated`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRun {
    /// The channel, its attempts and the due time; the same for all these messages.
    pub copy: ChannelCopy,
    /// The number of the first message, counted from 0.
    pub index: u32,
    /// The number of messages.
    pub count: u32,
}

/// Consecutive messages of a batch, rewritten so that their old segment can be removed. The record
/// replaces all that is known of the copies that it names. It says nothing about other copies of
/// the same messages.
#[derive(Debug)]
pub struct Relocated<'a> {
    /// The segment that had them; `None` for a new message of one channel.
    pub from: Option<u32>,
    /// The topic.
    pub topic: TopicId,
    /// The id of the first; the others count up from it.
    pub first: u64,
    /// When they were published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// When they are due, if the topic holds them and they are deferred.
    pub due: Option<UnixMillis>,
    /// The holder: the topic or its channels.
    pub holder: MessageHolder,
    /// The copies of durable channels; empty if the topic holds the messages.
    pub copies: &'a [CopyRun],
    /// The bodies, in the order of the ids.
    pub bodies: &'a Bodies,
}

/// Size of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogUsage {
    /// Bytes of all segments.
    pub bytes: u64,
    /// Bytes of the segments that are needed by messages still held by a topic or a channel.
    pub live_bytes: u64,
    /// Number of segments.
    pub segments: u64,
    /// Bytes of disk space reserved for finishing and deleting messages when the disk is full.
    pub reserve_bytes: u64,
    /// Bytes that were written and are not yet synced; `None` if the log is never synced.
    pub unsynced_bytes: Option<u64>,
    /// Space of the file system that has the log.
    pub disk: DiskSpace,
}

/// Space of a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// Size in bytes.
    pub bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
}

/// A change to a topic, a channel or a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A topic was created.
    TopicCreated(TopicId, TopicName),
    /// A topic was deleted, with its channels and messages.
    TopicDeleted(TopicId),
    /// A topic or channel was paused (`true`) or unpaused.
    TopicPaused(TopicId, bool),
    /// A topic refuses FPUB with a lower epoch from now on.
    TopicFenced(TopicId, u64),
    /// The messages that the topic itself held were dropped.
    TopicEmptied(TopicId),
    /// The messages that the topic held were passed to its durable channels, a copy each; dropped,
    /// if it has only ephemeral channels.
    TopicDistributed(TopicId),
    /// A channel was created.
    ChannelCreated(TopicId, ChannelId, ChannelName),
    /// A channel was deleted, with its copies.
    ChannelDeleted(ChannelId),
    /// A topic or channel was paused (`true`) or unpaused.
    ChannelPaused(ChannelId, bool),
    /// The copies of a channel were dropped.
    ChannelEmptied(ChannelId),
    /// A copy was finished.
    Finished(ChannelId, u64),
    /// A copy was requeued, with this number of attempts; deferred until the due time, if there is
    /// one.
    Requeued(ChannelId, u64, u16, Option<UnixMillis>),
}

/// A log with one owner. Calls may write to the page cache of a file, and never wait for a disk to
/// sync.
pub trait Log: Send {
    /// Writes a batch after all changes noted before it. Returns the location of the first body;
    /// the others follow in the same segment, those of another part at [`LogLocation::next_part`].
    /// Returns `None` if the batch is kept in memory only.
    ///
    /// Fails if the batch cannot be written; none of it is recovered after a restart then.
    ///
    fn publish(&mut self, batch: &PublishedBatch<'_>) -> io::Result<Option<LogLocation>>;

    /// Notes a change, which is written with the next batch, or by [`Log::flush`].
    fn note(&mut self, change: &Change);

    /// Writes the noted changes. On failure they are kept, and are tried again with the next write.
    fn flush(&mut self) -> io::Result<()>;

    /// Rewrites messages; returns the new location of the first body.
    fn relocate(&mut self, messages: &Relocated<'_>) -> io::Result<Option<LogLocation>>;

    /// Reads `count` consecutive bodies, of `length` bytes with their sizes.
    fn read(&mut self, location: LogLocation, length: u32, count: u32) -> io::Result<Bodies>;

    /// Describes `count` consecutive bodies, of `length` bytes with their sizes, for
    /// [`detached_reader`](Log::detached_reader).
    fn logged_bodies(&self, location: LogLocation, length: u32, count: u32) -> LoggedBodies {
        LoggedBodies { location, length, count, end: 0 }
    }

    /// A reader that works without the log, on another thread; `None` if nothing is stored.
    fn detached_reader(&self) -> Option<DetachedReader> {
        None
    }

    /// Adds live messages to a segment: they need `bytes` bytes of it, [`BATCH_OVERHEAD`] included.
    fn hold(&mut self, segment: u32, messages: u32, bytes: u64);

    /// Subtracts live messages from a segment, and `bytes` bytes that are no longer needed.
    fn spent(&mut self, segment: u32, messages: u32, bytes: u64);

    /// Ends recovery: every recovered message that is needed has been added with [`Log::hold`], so
    /// the rest can be removed.
    fn recovered(&mut self);

    /// The segment that compaction should rewrite next, if there is one.
    fn compaction_candidate(&mut self) -> Option<u32>;

    /// Excludes a segment from compaction for a while, because some of its messages cannot be
    /// relocated now.
    fn postpone_compaction(&mut self, segment: u32);

    /// When to ask for a [candidate](Log::compaction_candidate) again, even if nothing changes;
    /// `None` if there is nothing to compact until something changes.
    fn next_compaction(&self) -> Option<Instant>;

    /// Makes the next opening quick, before the broker goes to sleep. Takes as long as opening the
    /// log does. Failure changes nothing.
    fn checkpoint(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The size of the log.
    fn usage(&self) -> LogUsage;

    /// The times of syncs; `None` if the log is never synced.
    fn sync_times(&self) -> Option<DurationCounts> {
        None
    }

    /// The reason why publishing would fail now. Cheap as long as all is well; after a failure,
    /// tries the failed operation again, at most once a second.
    fn failure(&mut self) -> Option<String>;

    /// Notifies when data written earlier turns out not to be on the disk: a
    /// [failure](Log::failure) that no write caused.
    fn failure_notify(&self) -> Arc<Notify>;

    /// Bytes read and written so far, by which callers limit their share of the time.
    fn io_bytes(&self) -> u64;

    /// The position up to which the log is written; it only grows. What is synced up to a position
    /// survives a crash of the machine.
    fn position(&self) -> u64;
}

/// When the log is synced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Before a publish is acknowledged.
    Always,
    /// At intervals. A crash of the machine loses what was written since the last sync; a crash of
    /// the process loses nothing.
    Interval,
    /// When the operating system decides.
    Never,
}

//! The log: what the broker writes down before it says OK, so that a crash loses nothing.
//!
//! [`Log`] is the door through which the state writes and reads; behind it stands a disk, or nothing (`--memory`).
//!
//! Only what is to outlive the process passes here: nothing of an ephemeral topic or channel does. A message is written once, with its
//! body, however many channels hold a copy; what happens to a copy is a short record that names the channel and the message.
//! What is in flight is not written: after a crash it is waiting again.

mod catalog;
mod disk;
mod memory;
mod payload;
mod record;
mod recovered;
mod replay;
mod report;
mod reserve;
mod segment;
mod segments;
mod strip;
mod sync;
mod write_batch;

use std::io;
use std::sync::Arc;

use tokio::sync::Notify;

pub use self::disk::{DiskLog, LogOptions, OpenError};
pub use self::memory::MemoryLog;
pub use self::recovered::{Recovered, RecoveredBatch, RecoveredChannel, RecoveredTopic};
pub use self::report::{Damage, RecoveryReport, Torn};
pub use self::sync::Synced;
use crate::proto::{Bodies, ChannelName, TopicName};

/// A topic, for as long as it exists; never given again in one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub u32);

/// A channel of any topic, for as long as it exists; never given again in one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u32);

/// Milliseconds since 1970: when a deferred copy is due, whatever happens to the process meanwhile.
pub type UnixMillis = u64;

/// Where a message's body lies, behind its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogLocation {
    /// The segment's number.
    pub segment: u32,
    /// The first byte of the size in it.
    pub offset: u32,
    /// The first byte of the record that the body is a part of.
    pub record: u32,
}

/// Messages published together: all are written, or none.
#[derive(Debug, Clone, Copy)]
pub struct PublishedBatch<'a> {
    /// Where to.
    pub topic: TopicId,
    /// The id of the first; the others count up from it.
    pub first: u64,
    /// When they were published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// When they are to be delivered, if not at once.
    pub due: Option<UnixMillis>,
    /// Who has them now.
    pub holder: MessageHolder,
    /// The bodies.
    pub bodies: &'a Bodies,
}

/// Who has the messages of a [`PublishedBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageHolder {
    /// The topic: it is paused, or has no channel yet.
    Topic,
    /// Every durable channel that the topic has at this moment, a copy each.
    Channels,
}

/// A channel's copy of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelCopy {
    /// Whose.
    pub channel: ChannelId,
    /// How often it was delivered.
    pub attempts: u16,
    /// When it is to be delivered; waiting without it.
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

/// Consecutive messages of a batch, written anew so that the segment they were in can go. The record replaces what was known of the
/// copies that it names; other copies of the messages may be elsewhere.
#[derive(Debug)]
pub struct Relocated<'a> {
    /// The segment that they were in; `None` for a new message of one channel.
    pub from: Option<u32>,
    /// The topic.
    pub topic: TopicId,
    /// The id of the first; the others count up from it.
    pub first: u64,
    /// When they were published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// When they are due, where the topic holds them and they are deferred.
    pub due: Option<UnixMillis>,
    /// The topic or its channels.
    pub holder: MessageHolder,
    /// The copies of durable channels; none if the topic holds the messages.
    pub copies: &'a [CopyRun],
    /// The bodies.
    pub bodies: &'a Bodies,
}

/// The size of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogUsage {
    /// Bytes of all segments.
    pub bytes: u64,
    /// Bytes of them that messages need which somebody holds.
    pub live_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes that are kept free for finishing and deleting messages when the disk is full.
    pub reserve_bytes: u64,
    /// The disk that it is on.
    pub disk: DiskSpace,
}

/// Room in a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes of all of it.
    pub bytes: u64,
    /// Bytes that may still be written.
    pub free_bytes: u64,
}

/// What changes, messages aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A topic came to be.
    TopicCreated(TopicId, TopicName),
    /// It went, with its channels and messages.
    TopicDeleted(TopicId),
    /// It was paused, or goes on.
    TopicPaused(TopicId, bool),
    /// From now on it takes no FPUB with an epoch below this one.
    TopicFenced(TopicId, u64),
    /// What the topic itself held was thrown away.
    TopicEmptied(TopicId),
    /// What the topic held went to its durable channels, a copy each (none, if it has only ephemeral ones).
    TopicDistributed(TopicId),
    /// A channel came to be.
    ChannelCreated(TopicId, ChannelId, ChannelName),
    /// It went, with its copies.
    ChannelDeleted(ChannelId),
    /// It was paused, or goes on.
    ChannelPaused(ChannelId, bool),
    /// Its copies were thrown away.
    ChannelEmptied(ChannelId),
    /// A copy is done.
    Finished(ChannelId, u64),
    /// A copy waits again, after so many attempts; until it is due, if it is deferred.
    Requeued(ChannelId, u64, u16, Option<UnixMillis>),
}

/// The log's door. One owner; a call may write to a file's cache, and never waits for a disk to sync.
pub trait Log: Send {
    /// Writes a batch, after all changes noted before it, and says where its first body lies; the others follow in the same segment.
    /// `None`: it is kept nowhere but in memory.
    ///
    /// Fails if it cannot be written; then nothing of it will be there after a restart.
    fn publish(&mut self, batch: &PublishedBatch<'_>) -> io::Result<Option<LogLocation>>;

    /// Notes a change. It is written with the next batch, or by [`Log::flush`].
    fn note(&mut self, change: &Change);

    /// Writes what was noted. Fails if it cannot; it is then tried again with the next.
    fn flush(&mut self) -> io::Result<()>;

    /// Writes messages anew, and says where the first body lies now.
    fn relocate(&mut self, messages: &Relocated<'_>) -> io::Result<Option<LogLocation>>;

    /// `count` bodies that follow each other, of `length` bytes with their sizes, as they were written.
    fn read(&mut self, place: LogLocation, length: u32, count: u32) -> io::Result<Bodies>;

    /// `messages` more of this segment are held; they need `bytes` bytes of it.
    fn hold(&mut self, segment: u32, messages: u32, bytes: u64);

    /// `messages` of this segment are no longer held, and `bytes` bytes no longer needed.
    fn spent(&mut self, segment: u32, messages: u32, bytes: u64);

    /// All that was recovered is held by now: the rest can go.
    fn recovered(&mut self);

    /// The segment whose messages should be relocated so that the segment can go, if there is one.
    fn compaction_candidate(&mut self) -> Option<u32>;

    /// Some messages of this segment cannot be relocated now: it is not a victim again for a while.
    fn postpone_compaction(&mut self, segment: u32);

    /// The size of the log.
    fn usage(&self) -> LogUsage;

    /// Why messages would not be taken now. Cheap as long as all is well; else what failed is tried again, at most once a second.
    fn failure(&mut self) -> Option<String>;

    /// Told when what was written before turns out not to be on the disk: there is [trouble](Log::failure), though nobody wrote.
    fn failure_notify(&self) -> Arc<Notify>;

    /// Bytes that were read and written so far: what a caller that shares its time with others counts.
    fn io_bytes(&self) -> u64;

    /// How much has been written, as a position that only grows: what is synced up to here survives the machine, too.
    fn position(&self) -> u64;
}

/// When the log is synced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Before a producer is told OK.
    Always,
    /// At intervals: a crash of the machine loses what came since, one of the process nothing.
    Interval,
    /// When the system likes.
    Never,
}

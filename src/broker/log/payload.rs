//! Payloads of records: the fields of each kind, packed and little-endian (except the bodies'
//! sizes, which are as on the wire).
//!
//! ```text
//!  Batch     topic (4) │ first id (8) │ timestamp (8) │ due (8) │ holder (1) │ count (4) │ ( size (4) │ body )*
//!  Relocated topic (4) │ first id (8) │ timestamp (8) │ due (8) │ holder (1) │ count (4) │ count (4)
//!            │ ( channel (4) │ attempts (2) │ due (8) │ index (4) │ count (4) )* │ ( size (4) │ body )*
//!  Carried   topic (4) │ id (8) │ timestamp (8) │ due (8) │ count (4) │ ( channel (4) │ attempts (2) │ due (8) )* │ size (4) │ body
//!  Changes   ( tag (1) │ fields )*
//!  Snapshot  last id (8) │ next number (4) │ count (4) │ ( id (4) │ paused (1) │ name │ count (4) │ ( id (4) │ paused (1) │ name )* )*
//!            │ ( id (4) │ epoch (8) )*
//! ```
//!
//! A name is its length (1) and its characters. A `due` of 0 is none. A Snapshot's inner list has a
//! topic's channels; its last list has the topics with a fence.

use super::catalog::Catalog;
use super::{Change, ChannelCopy, ChannelId, CopyRun, MessageHolder, PublishedBatch, Relocated, TopicId, UnixMillis};
use crate::proto::{ChannelName, TopicName};

/// Bytes of a Batch before its first body's length.
pub(super) const BATCH_HEAD_BYTES: usize = 4 + 8 + 8 + 8 + 1 + 4;
/// A record with the right checksum and a malformed payload: written by another version, or a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MalformedRecord;

/// Appends numbers and names to a payload.
pub(super) trait PayloadWriter {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, n: u8) {
        self.put(&[n]);
    }

    fn put_u16(&mut self, n: u16) {
        self.put(&n.to_le_bytes());
    }

    fn put_u32(&mut self, n: u32) {
        self.put(&n.to_le_bytes());
    }

    fn put_u64(&mut self, n: u64) {
        self.put(&n.to_le_bytes());
    }

    fn put_due(&mut self, due: Option<UnixMillis>) {
        self.put_u64(due.map_or(0, |due| due.0.max(1)));
    }

    fn put_copy(&mut self, copy: &ChannelCopy) {
        self.put_u32(copy.channel.0);
        self.put_u16(copy.attempts);
        self.put_due(copy.due);
    }

    fn put_holder(&mut self, holder: MessageHolder) {
        self.put_u8(match holder {
            MessageHolder::Topic => 0,
            MessageHolder::Channels => 1,
        });
    }

    fn put_name(&mut self, name: &str) {
        self.put_u8(u8::try_from(name.len()).expect("a name has at most 64 characters"));
        self.put(name.as_bytes());
    }
}

impl PayloadWriter for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Appends a change.
pub(super) fn put_change(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::TopicCreated(id, name) => {
            put_tagged(out, 1, id.0);
            out.put_name(name.as_str());
        }
        Change::TopicDeleted(id) => put_tagged(out, 2, id.0),
        Change::TopicPaused(id, paused) => {
            put_tagged(out, 3, id.0);
            out.put_u8(u8::from(*paused));
        }
        Change::TopicEmptied(id) => put_tagged(out, 4, id.0),
        Change::TopicDistributed(id) => put_tagged(out, 5, id.0),
        Change::ChannelCreated(topic, id, name) => {
            put_tagged(out, 6, topic.0);
            out.put_u32(id.0);
            out.put_name(name.as_str());
        }
        Change::ChannelDeleted(id) => put_tagged(out, 7, id.0),
        Change::ChannelPaused(id, paused) => {
            put_tagged(out, 8, id.0);
            out.put_u8(u8::from(*paused));
        }
        Change::ChannelEmptied(id) => put_tagged(out, 9, id.0),
        Change::Finished(channel, id) => {
            put_tagged(out, 10, channel.0);
            out.put_u64(*id);
        }
        Change::Requeued(channel, id, attempts, due) => {
            put_tagged(out, 11, channel.0);
            out.put_u64(*id);
            out.put_u16(*attempts);
            out.put_due(*due);
        }
        Change::TopicFenced(id, epoch) => {
            put_tagged(out, 12, id.0);
            out.put_u64(*epoch);
        }
    }
}

fn put_tagged(out: &mut Vec<u8>, tag: u8, id: u32) {
    out.put_u8(tag);
    out.put_u32(id);
}

/// Appends a Batch up to its first body's length: `count` messages of `batch`, from the id `first`
/// on.
pub(super) fn put_batch_head(out: &mut Vec<u8>, batch: &PublishedBatch<'_>, first: u64, count: u32) {
    out.put_u32(batch.topic.0);
    out.put_u64(first);
    out.put(&batch.timestamp.to_le_bytes());
    out.put_due(batch.due);
    out.put_holder(batch.holder);
    out.put_u32(count);
}

/// Appends a Relocated up to its first body's length.
pub(super) fn put_relocated_head(out: &mut Vec<u8>, messages: &Relocated<'_>) {
    out.put_u32(messages.topic.0);
    out.put_u64(messages.first);
    out.put(&messages.timestamp.to_le_bytes());
    out.put_due(messages.due);
    out.put_holder(messages.holder);
    out.put_u32(messages.bodies.count());
    out.put_u32(u32::try_from(messages.copies.len()).expect("there are fewer than 2^32 copies"));
    for CopyRun { copy, index, count } in messages.copies {
        out.put_copy(copy);
        out.put_u32(*index);
        out.put_u32(*count);
    }
}

/// Appends a Snapshot.
pub(super) fn put_snapshot(out: &mut Vec<u8>, catalog: &Catalog) {
    let count = |n: usize| u32::try_from(n).expect("there are fewer than 2^32 topics and channels");
    out.put_u64(catalog.last_id);
    out.put_u32(catalog.next_number);
    out.put_u32(count(catalog.topics.len()));
    for (id, topic) in &catalog.topics {
        put_named(out, id.0, topic.paused, topic.name.as_str());
        out.put_u32(count(topic.channels.len()));
        for (id, channel) in &topic.channels {
            put_named(out, id.0, channel.paused, channel.name.as_str());
        }
    }
    for (id, topic) in catalog.topics.iter().filter(|(_, topic)| topic.fence > 0) {
        out.put_u32(id.0);
        out.put_u64(topic.fence);
    }
}

fn put_named(out: &mut Vec<u8>, id: u32, paused: bool, name: &str) {
    out.put_u32(id);
    out.put_u8(u8::from(paused));
    out.put_name(name);
}

/// The unread part of a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct PayloadReader<'a>(pub(super) &'a [u8]);

impl<'a> PayloadReader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], MalformedRecord> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(MalformedRecord)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedRecord> {
        self.take(N)?.try_into().map_err(|_| MalformedRecord)
    }

    fn u8(&mut self) -> Result<u8, MalformedRecord> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, MalformedRecord> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, MalformedRecord> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, MalformedRecord> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MalformedRecord),
        }
    }

    pub(super) fn due(&mut self) -> Result<Option<UnixMillis>, MalformedRecord> {
        Ok(Some(self.u64()?).filter(|due| *due != 0).map(UnixMillis))
    }

    fn name(&mut self) -> Result<&'a str, MalformedRecord> {
        let length = self.u8()?;
        std::str::from_utf8(self.take(length.into())?).map_err(|_| MalformedRecord)
    }

    fn topic_name(&mut self) -> Result<TopicName, MalformedRecord> {
        TopicName::new(self.name()?).map_err(|_| MalformedRecord)
    }

    fn channel_name(&mut self) -> Result<ChannelName, MalformedRecord> {
        ChannelName::new(self.name()?).map_err(|_| MalformedRecord)
    }

    fn holder(&mut self) -> Result<MessageHolder, MalformedRecord> {
        Ok(if self.bool()? { MessageHolder::Channels } else { MessageHolder::Topic })
    }

    fn copy_run(&mut self) -> Result<CopyRun, MalformedRecord> {
        Ok(CopyRun { copy: self.copy()?, index: self.u32()?, count: self.u32()? })
    }

    pub(super) fn copy(&mut self) -> Result<ChannelCopy, MalformedRecord> {
        let channel = ChannelId(self.u32()?);
        Ok(ChannelCopy { channel, attempts: self.array().map(u16::from_le_bytes)?, due: self.due()? })
    }

    /// The next change of a Changes record; `None` at its end.
    pub(super) fn change(&mut self) -> Result<Option<Change>, MalformedRecord> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (tag, id) = (self.u8()?, self.u32()?);
        let (topic, channel) = (TopicId(id), ChannelId(id));
        Ok(Some(match tag {
            1 => Change::TopicCreated(topic, self.topic_name()?),
            2 => Change::TopicDeleted(topic),
            3 => Change::TopicPaused(topic, self.bool()?),
            4 => Change::TopicEmptied(topic),
            5 => Change::TopicDistributed(topic),
            6 => Change::ChannelCreated(topic, ChannelId(self.u32()?), self.channel_name()?),
            7 => Change::ChannelDeleted(channel),
            8 => Change::ChannelPaused(channel, self.bool()?),
            9 => Change::ChannelEmptied(channel),
            10 => Change::Finished(channel, self.u64()?),
            11 => Change::Requeued(channel, self.u64()?, self.array().map(u16::from_le_bytes)?, self.due()?),
            12 => Change::TopicFenced(topic, self.u64()?),
            _ => return Err(MalformedRecord),
        }))
    }

    /// Skips the next body, and returns its length, which is big-endian, as on the wire.
    pub(super) fn body(&mut self) -> Result<u32, MalformedRecord> {
        let length = self.array().map(u32::from_be_bytes)?;
        self.take(length as usize)?;
        Ok(length)
    }
}

/// Fields of a Batch, without its bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) topic: TopicId,
    pub(super) first: u64,
    pub(super) timestamp: i64,
    pub(super) due: Option<UnixMillis>,
    pub(super) holder: MessageHolder,
    pub(super) count: u32,
}

impl BatchHead {
    /// Reads the fields; the bodies are left.
    pub(super) fn read(fields: &mut PayloadReader<'_>) -> Result<Self, MalformedRecord> {
        let (topic, first) = (TopicId(fields.u32()?), fields.u64()?);
        let (timestamp, due) = (fields.array().map(i64::from_le_bytes)?, fields.due()?);
        let holder = fields.holder()?;
        Ok(Self { topic, first, timestamp, due, holder, count: fields.u32()? })
    }
}

/// Fields of a Carried, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CarriedHead {
    pub(super) topic: TopicId,
    pub(super) id: u64,
    pub(super) timestamp: i64,
    pub(super) due: Option<UnixMillis>,
    pub(super) copies: Vec<ChannelCopy>,
}

impl CarriedHead {
    /// Reads the fields; the body is left.
    pub(super) fn read(fields: &mut PayloadReader<'_>) -> Result<Self, MalformedRecord> {
        let (topic, id) = (TopicId(fields.u32()?), fields.u64()?);
        let (timestamp, due) = (fields.array().map(i64::from_le_bytes)?, fields.due()?);
        let copies = (0..fields.u32()?).map(|_| fields.copy()).collect::<Result<_, _>>()?;
        Ok(Self { topic, id, timestamp, due, copies })
    }
}

/// Fields of a Relocated, without its bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelocatedHead {
    /// The fields that a Batch has, too.
    pub(super) batch: BatchHead,
    pub(super) copies: Vec<CopyRun>,
}

impl RelocatedHead {
    /// Reads the fields; the bodies are left.
    pub(super) fn read(fields: &mut PayloadReader<'_>) -> Result<Self, MalformedRecord> {
        let batch = BatchHead::read(fields)?;
        let copies = (0..fields.u32()?).map(|_| fields.copy_run()).collect::<Result<_, _>>()?;
        Ok(Self { batch, copies })
    }
}

/// Reads a Snapshot.
pub(super) fn read_snapshot(payload: &[u8]) -> Result<Catalog, MalformedRecord> {
    let mut fields = PayloadReader(payload);
    let (last_id, next_number) = (fields.u64()?, fields.u32()?);
    let mut catalog = Catalog { last_id, next_number, ..Catalog::default() };
    for _ in 0..fields.u32()? {
        let (topic, paused) = (TopicId(fields.u32()?), fields.bool()?);
        catalog.add_topic(topic, fields.topic_name()?, paused);
        for _ in 0..fields.u32()? {
            let (channel, paused) = (ChannelId(fields.u32()?), fields.bool()?);
            catalog.add_channel(topic, channel, fields.channel_name()?, paused);
        }
    }
    while !fields.0.is_empty() {
        let (topic, epoch) = (TopicId(fields.u32()?), fields.u64()?);
        catalog.topics.get_mut(&topic).ok_or(MalformedRecord)?.fence = epoch;
    }
    Ok(catalog)
}

#[cfg(test)]
mod tests;

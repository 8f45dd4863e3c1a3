//! Replay: computes the live messages, topics and channels from the records, in their order. Pure.
//!
//! - A snapshot replaces the catalog; it changes nothing, unless records before it were damaged.
//! - A Relocated record sets a message's location and the copies that it names. Other copies of the
//!   message stay as they are: they may have been relocated before, or will be. A Carried record
//!   replaces all that was known of its message. Changes of unknown messages (finished, or in a
//!   segment that was removed) are ignored.
//! - A message of an unknown topic, which takes damage, is held by that topic: if a later snapshot
//!   has the topic, the message is delivered again rather than lost. Messages whose topic or
//!   channels are still unknown at the end are lost, and are counted.
//!
//! Memory is bounded by the number of messages held at one time. A finished message is removed at
//! once. Messages of emptied channels and deleted topics are swept out whenever the number of
//! messages has doubled.

mod messages;

use std::collections::{BTreeMap, HashMap, HashSet};

use self::messages::{ReplayedCopies, ReplayedMessage, ReplayedMessages};
use super::catalog::Catalog;
use super::payload::{self, BATCH_HEAD_BYTES, BatchHead, CarriedHead, MalformedRecord, PayloadReader, RelocatedHead};
use super::record::{RECORD_HEADER_BYTES, RecordKind};
use super::report::Damage;
use super::segments::SegmentContents;
use super::{Change, ChannelCopy, ChannelId, LogLocation, MessageHolder, Recovered, TopicId};
use crate::proto::Bodies;

/// State of a replay after the records so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    catalog: Catalog,
    messages: ReplayedMessages,
    /// Messages that topics hold or held, as first ids and counts; `messages` knows whether a topic
    /// still holds them.
    of_topic: HashMap<TopicId, Vec<(u64, u32)>>,
    /// When each channel was last emptied; its earlier copies are gone.
    emptied: HashMap<ChannelId, u64>,
    /// Topics and channels that messages name and that were not known then, without deleted ones.
    unknown_topics: HashSet<TopicId>,
    unknown_channels: HashSet<ChannelId>,
    /// Summary of the records of each segment.
    pub(super) contents: BTreeMap<u32, SegmentContents>,
    /// Logical clock: counts records and changes.
    now: u64,
}

impl Replay {
    /// Replays the record at `at` of a segment. Fails, having replayed a part of it, if the record
    /// is malformed.
    pub(super) fn replay_record(
        &mut self,
        segment: u32,
        at: usize,
        kind: RecordKind,
        payload: &[u8],
    ) -> Result<(), MalformedRecord> {
        match kind {
            RecordKind::Snapshot => self.snapshot(payload),
            RecordKind::Changes => {
                self.contents.entry(segment).or_default().notes += payload.len() as u64;
                let mut fields = PayloadReader(payload);
                while let Some(change) = fields.change()? {
                    self.change(&change);
                }
                Ok(())
            }
            RecordKind::Batch => self.batch(segment, at, payload),
            RecordKind::Carried => self.carried(segment, at, payload),
            RecordKind::Relocated => self.relocated(segment, at, payload),
        }
    }

    /// Ends the replay; returns the recovered contents, the catalog to continue with, and the
    /// messages that are lost because nothing undamaged names their topics or channels.
    pub(super) fn finish(mut self) -> (Recovered, Catalog, Vec<Damage>) {
        self.sweep();
        let lost = self.drop_unknown();
        let recovered = Recovered {
            topics: self.catalog.recovered(),
            batches: self.messages.into_recovered(),
            last_id: self.catalog.last_id,
            next_number: self.catalog.next_number,
        };
        (recovered, self.catalog, lost)
    }

    fn snapshot(&mut self, payload: &[u8]) -> Result<(), MalformedRecord> {
        let mut catalog = payload::read_snapshot(payload)?;
        catalog.last_id = catalog.last_id.max(self.catalog.last_id);
        catalog.next_number = catalog.next_number.max(self.catalog.next_number);
        self.catalog = catalog;
        self.messages.forget_channels();
        Ok(())
    }

    fn batch(&mut self, segment: u32, at: usize, payload: &[u8]) -> Result<(), MalformedRecord> {
        let mut fields = PayloadReader(payload);
        let head = BatchHead::read(&mut fields)?;
        self.note_topic(head.topic);
        let known = self.catalog.topics.get(&head.topic);
        let copies = match (known, head.holder) {
            (Some(topic), MessageHolder::Channels) => self.messages.channels_of(head.topic, topic),
            (None, _) | (_, MessageHolder::Topic) => ReplayedCopies::Topic,
        };
        self.now += 1;
        let mut lengths = Vec::new();
        for _ in 0..head.count {
            lengths.push(fields.body()?);
        }
        let BatchHead { topic, timestamp, due, first, count, .. } = head;
        let location = location(segment, at, RECORD_HEADER_BYTES + BATCH_HEAD_BYTES)?;
        let bytes = payload.len().saturating_sub(BATCH_HEAD_BYTES) as u64;
        self.contents.entry(segment).or_default().add_messages(first, count.into(), bytes);
        if let Some(length) = lengths.first().copied() {
            let message = ReplayedMessage { topic, timestamp, location, length, due, born: self.now, copies };
            if self.is_held(first, count, &message) {
                self.messages.insert_together(first, message, lengths);
            }
        }
        self.catalog.add_ids(head.first, head.count.into());
        if self.messages.is_sweep_due() {
            self.sweep();
        }
        Ok(())
    }

    fn carried(&mut self, segment: u32, at: usize, payload: &[u8]) -> Result<(), MalformedRecord> {
        let mut fields = PayloadReader(payload);
        let CarriedHead { topic, id, timestamp, due, copies } = CarriedHead::read(&mut fields)?;
        let location = location(segment, at, RECORD_HEADER_BYTES + payload.len() - fields.0.len())?;
        self.contents.entry(segment).or_default().add_messages(id, 1, fields.0.len() as u64);
        let length = fields.body()?;
        self.note_topic(topic);
        self.note_channels(copies.iter().map(|copy| copy.channel));
        self.now += 1;
        let copies = if copies.is_empty() { ReplayedCopies::Topic } else { ReplayedCopies::Each(copies) };
        let message = ReplayedMessage { topic, timestamp, location, length, due, born: self.now, copies };
        if self.is_held(id, 1, &message) {
            self.messages.insert(id, message);
        }
        self.catalog.add_ids(id, 1);
        Ok(())
    }

    fn relocated(&mut self, segment: u32, at: usize, payload: &[u8]) -> Result<(), MalformedRecord> {
        let mut fields = PayloadReader(payload);
        let RelocatedHead { batch, copies } = RelocatedHead::read(&mut fields)?;
        let BatchHead { topic, first, timestamp, due, holder, count } = batch;
        let mut location = location(segment, at, RECORD_HEADER_BYTES + payload.len() - fields.0.len())?;
        self.contents.entry(segment).or_default().add_messages(first, count.into(), fields.0.len() as u64);
        self.note_topic(topic);
        self.note_channels(copies.iter().map(|run| run.copy.channel));
        self.now += 1;
        for index in 0..count {
            let (id, length) = (first + u64::from(index), fields.body()?);
            let of_it = copies.iter().filter(|run| index >= run.index && index - run.index < run.count);
            let copies = match holder {
                MessageHolder::Topic => ReplayedCopies::Topic,
                MessageHolder::Channels => {
                    ReplayedCopies::Each(of_it.map(|run| run.copy).collect::<Vec<ChannelCopy>>())
                }
            };
            let message = ReplayedMessage { topic, timestamp, location, length, due, born: self.now, copies };
            match &message.copies {
                ReplayedCopies::Each(copies) if copies.is_empty() => {}
                ReplayedCopies::Each(_) | ReplayedCopies::Fresh(_) => {
                    let (catalog, emptied, unknown) = (&self.catalog, &self.emptied, &self.unknown_channels);
                    let has = |channel, born| copy_exists(catalog, emptied, unknown, channel, born);
                    self.messages.relocate(id, message, has);
                }
                ReplayedCopies::Topic => {
                    self.is_held(id, 1, &message);
                    self.messages.insert(id, message);
                }
            }
            location.offset = location.offset.checked_add(Bodies::SIZE as u32 + length).ok_or(MalformedRecord)?;
        }
        self.catalog.add_ids(first, count.into());
        if self.messages.is_sweep_due() {
            self.sweep();
        }
        Ok(())
    }

    /// True if a topic or a channel holds these messages. Records those that a topic holds.
    fn is_held(&mut self, id: u64, count: u32, message: &ReplayedMessage) -> bool {
        match message.copies {
            ReplayedCopies::Topic => self.of_topic.entry(message.topic).or_default().push((id, count)),
            ReplayedCopies::Fresh(ref channels) => return !channels.is_empty(),
            ReplayedCopies::Each(_) => {}
        }
        true
    }

    fn change(&mut self, change: &Change) {
        self.now += 1;
        self.catalog.apply(change);
        match change {
            Change::TopicEmptied(topic) => {
                let held = self.of_topic.remove(topic).into_iter().flatten();
                held.for_each(|(id, count)| self.messages.empty(id, count));
            }
            Change::TopicDistributed(id) => {
                let Some(topic) = self.catalog.topics.get(id) else { return };
                let copies = self.messages.channels_of(*id, topic);
                let held = self.of_topic.remove(id).into_iter().flatten();
                held.for_each(|(id, count)| self.messages.distribute(id, count, &copies, self.now));
            }
            Change::ChannelEmptied(channel) => {
                self.emptied.insert(*channel, self.now);
            }
            Change::Finished(channel, id) => self.messages.finish(*id, *channel),
            Change::Requeued(channel, id, attempts, due) => self.messages.requeue(*id, *channel, *attempts, *due),
            Change::TopicDeleted(topic) => {
                self.of_topic.remove(topic);
                self.unknown_topics.remove(topic);
                self.messages.forget_channels();
            }
            Change::ChannelDeleted(channel) => {
                self.unknown_channels.remove(channel);
                self.messages.forget_channels();
            }
            Change::ChannelCreated(..) => self.messages.forget_channels(),
            Change::TopicCreated(..)
            | Change::TopicPaused(..)
            | Change::TopicFenced(..)
            | Change::ChannelPaused(..) => {}
        }
    }

    /// Removes messages of deleted topics, and copies of deleted or emptied channels. Those of
    /// unknown ones stay: a later snapshot may have them.
    fn sweep(&mut self) {
        let (catalog, emptied, unknown) = (&self.catalog, &self.emptied, &self.unknown_channels);
        let has = |channel, born| copy_exists(catalog, emptied, unknown, channel, born);
        let is_known = |topic: TopicId| catalog.topics.contains_key(&topic) || self.unknown_topics.contains(&topic);
        self.messages.retain(|message| is_known(message.topic) && message.keep_copies(has));
        self.emptied.retain(|channel, _| catalog.owners.contains_key(channel) || unknown.contains(channel));
    }

    /// Removes messages of topics and channels that are still unknown; returns their numbers.
    fn drop_unknown(&mut self) -> Vec<Damage> {
        let catalog = &self.catalog;
        self.unknown_topics.retain(|topic| !catalog.topics.contains_key(topic));
        self.unknown_channels.retain(|channel| !catalog.owners.contains_key(channel));
        if self.unknown_topics.is_empty() && self.unknown_channels.is_empty() {
            return Vec::new();
        }
        let before = self.messages.count_by_topic();
        self.unknown_topics.clear();
        self.unknown_channels.clear();
        self.sweep();
        let after = self.messages.count_by_topic();
        let lost = before.into_iter().map(|(topic, count)| (topic, count - after.get(&topic).copied().unwrap_or(0)));
        let unknown = |(topic, messages): (TopicId, u64)| {
            let name = self.catalog.topics.get(&topic).map(|it| it.name.clone());
            Damage::Unknown { topic: topic.0, name, messages }
        };
        lost.filter(|(_, messages)| *messages > 0).map(unknown).collect()
    }

    fn note_topic(&mut self, topic: TopicId) {
        if !self.catalog.topics.contains_key(&topic) {
            self.unknown_topics.insert(topic);
        }
    }

    fn note_channels(&mut self, channels: impl Iterator<Item = ChannelId>) {
        self.unknown_channels.extend(channels.filter(|channel| !self.catalog.owners.contains_key(channel)));
    }
}

/// True if a channel still has its copies from `born`: it exists, or a later snapshot may have it,
/// and it was not emptied since.
fn copy_exists(
    catalog: &Catalog,
    emptied: &HashMap<ChannelId, u64>,
    unknown: &HashSet<ChannelId>,
    channel: ChannelId,
    born: u64,
) -> bool {
    let exists = catalog.owners.contains_key(&channel) || unknown.contains(&channel);
    exists && emptied.get(&channel).is_none_or(|then| *then < born)
}

/// The location of a body that begins `offset` bytes after its record.
fn location(segment: u32, record: usize, offset: usize) -> Result<LogLocation, MalformedRecord> {
    let number = |at: usize| u32::try_from(at).map_err(|_| MalformedRecord);
    Ok(LogLocation { segment, offset: number(record + offset)?, record: number(record)? })
}

#[cfg(test)]
mod tests;

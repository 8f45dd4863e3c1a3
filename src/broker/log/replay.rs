//! From records, in their order, to what is still of use. Pure.
//!
//! - A snapshot replaces the catalog; it says what is known already, unless something before it was damaged.
//! - A relocated message has a new place, and the copies that its record names are as it says; the other copies of the message are as
//!   they were, for they may have been relocated before, or will be. A carried message replaces all that was known of it. What is said of a message that is not known (it was finished, or in a
//!   segment that is gone) is of no use.
//! - A message of a topic that is not known, which takes damage, is the topic's: should a later snapshot know the topic, it is
//!   delivered once more rather than lost.
//!
//! Memory is bounded by what was held at one time: a finished message is forgotten at once, and those of emptied channels and deleted
//! topics, which nobody looks for, are swept out each time the messages have doubled in number.

mod messages;

use std::collections::{BTreeMap, HashMap};

use self::messages::{ReplayedCopies, ReplayedMessage, ReplayedMessages};
use super::catalog::Catalog;
use super::payload::{self, BATCH_HEAD_BYTES, BatchHead, CarriedHead, MalformedRecord, PayloadReader, RelocatedHead};
use super::record::{RECORD_HEADER_BYTES, RecordKind};
use super::segments::SegmentContents;
use super::{Change, ChannelCopy, ChannelId, LogLocation, MessageHolder, Recovered, TopicId};
use crate::proto::Bodies;

/// What the records so far add up to.
#[derive(Debug, Default)]
pub(super) struct Replay {
    catalog: Catalog,
    messages: ReplayedMessages,
    /// What topics hold themselves, or held: the holder is the message's to say. First ids, and how many follow.
    of_topic: HashMap<TopicId, Vec<(u64, u32)>>,
    /// When a channel was last emptied: copies from before are gone.
    emptied: HashMap<ChannelId, u64>,
    /// What the records of each segment are about.
    pub(super) contents: BTreeMap<u32, SegmentContents>,
    /// Counts what happened.
    now: u64,
}

impl Replay {
    /// Takes the record at `at` of a segment. Fails, and has done a part of it, if it makes no sense.
    pub(super) fn take(
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

    /// What is left, and the catalog to go on from.
    pub(super) fn finish(mut self) -> (Recovered, Catalog) {
        self.sweep();
        let recovered = Recovered {
            topics: self.catalog.recovered(),
            batches: self.messages.into_recovered(),
            last_id: self.catalog.last_id,
            next_number: self.catalog.next_number,
        };
        (recovered, self.catalog)
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
        let place = place(segment, at, RECORD_HEADER_BYTES + BATCH_HEAD_BYTES)?;
        self.contents.entry(segment).or_default().saw(first, count.into());
        if let Some(length) = lengths.first().copied() {
            let message = ReplayedMessage { topic, timestamp, place, length, due, born: self.now, copies };
            if self.is_held(first, count, &message) {
                self.messages.insert_together(first, message, lengths);
            }
        }
        self.catalog.saw_ids(head.first, head.count.into());
        if self.messages.have_doubled() {
            self.sweep();
        }
        Ok(())
    }

    fn carried(&mut self, segment: u32, at: usize, payload: &[u8]) -> Result<(), MalformedRecord> {
        let mut fields = PayloadReader(payload);
        let CarriedHead { topic, id, timestamp, due, copies } = CarriedHead::read(&mut fields)?;
        let place = place(segment, at, RECORD_HEADER_BYTES + payload.len() - fields.0.len())?;
        self.contents.entry(segment).or_default().saw(id, 1);
        let length = fields.body()?;
        self.now += 1;
        let copies = if copies.is_empty() { ReplayedCopies::Topic } else { ReplayedCopies::Each(copies) };
        let message = ReplayedMessage { topic, timestamp, place, length, due, born: self.now, copies };
        if self.is_held(id, 1, &message) {
            self.messages.insert(id, message);
        }
        self.catalog.saw_ids(id, 1);
        Ok(())
    }

    fn relocated(&mut self, segment: u32, at: usize, payload: &[u8]) -> Result<(), MalformedRecord> {
        let mut fields = PayloadReader(payload);
        let RelocatedHead { batch, copies } = RelocatedHead::read(&mut fields)?;
        let BatchHead { topic, first, timestamp, due, holder, count } = batch;
        let mut place = place(segment, at, RECORD_HEADER_BYTES + payload.len() - fields.0.len())?;
        self.contents.entry(segment).or_default().saw(first, count.into());
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
            let message = ReplayedMessage { topic, timestamp, place, length, due, born: self.now, copies };
            match &message.copies {
                ReplayedCopies::Each(copies) if copies.is_empty() => {}
                ReplayedCopies::Each(_) | ReplayedCopies::Fresh(_) => {
                    let (catalog, emptied) = (&self.catalog, &self.emptied);
                    self.messages.relocate(id, message, |channel, born| is_there(catalog, emptied, channel, born));
                }
                ReplayedCopies::Topic => {
                    self.is_held(id, 1, &message);
                    self.messages.insert(id, message);
                }
            }
            place.offset = place.offset.checked_add(Bodies::SIZE as u32 + length).ok_or(MalformedRecord)?;
        }
        self.catalog.saw_ids(first, count.into());
        if self.messages.have_doubled() {
            self.sweep();
        }
        Ok(())
    }

    /// True if anybody holds these messages. Notes what a topic holds.
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
                self.messages.forget_channels();
            }
            Change::ChannelCreated(..) | Change::ChannelDeleted(_) => self.messages.forget_channels(),
            Change::TopicCreated(..)
            | Change::TopicPaused(..)
            | Change::TopicFenced(..)
            | Change::ChannelPaused(..) => {}
        }
    }

    /// Forgets what nobody holds: messages of topics that are gone, and copies of channels that are gone or were emptied.
    fn sweep(&mut self) {
        let (catalog, emptied) = (&self.catalog, &self.emptied);
        let has = |channel, born| is_there(catalog, emptied, channel, born);
        self.messages.retain(|message| catalog.topics.contains_key(&message.topic) && message.keep_copies(has));
        self.emptied.retain(|channel, _| catalog.owners.contains_key(channel));
    }
}

/// True if a channel has its copies that came to be at a time: it is there, and was not emptied since.
fn is_there(catalog: &Catalog, emptied: &HashMap<ChannelId, u64>, channel: ChannelId, born: u64) -> bool {
    catalog.owners.contains_key(&channel) && emptied.get(&channel).is_none_or(|then| *then < born)
}

/// The place of a body that begins `offset` bytes after its record.
fn place(segment: u32, record: usize, offset: usize) -> Result<LogLocation, MalformedRecord> {
    let number = |at: usize| u32::try_from(at).map_err(|_| MalformedRecord);
    Ok(LogLocation { segment, offset: number(record + offset)?, record: number(record)? })
}

#[cfg(test)]
mod tests;

//! Messages of a replay. A message takes four bytes as long as no message published with it has
//! changed, then about a hundred; bodies are never kept.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use super::super::catalog::CatalogTopic;
use super::super::{ChannelCopy, ChannelId, LogLocation, RecoveredBatch, TopicId, UnixMillis};
use crate::proto::Bodies;

/// Minimum number of messages for a sweep.
const MIN_SWEPT: usize = 10_000;

/// A message as known from the records so far.
#[derive(Debug, Clone)]
pub(super) struct ReplayedMessage {
    pub(super) topic: TopicId,
    pub(super) timestamp: i64,
    pub(super) location: LogLocation,
    pub(super) length: u32,
    pub(super) due: Option<UnixMillis>,
    /// When its copies were created.
    pub(super) born: u64,
    pub(super) copies: ReplayedCopies,
}

/// Holders of a message.
#[derive(Debug, Clone)]
pub(super) enum ReplayedCopies {
    /// The topic.
    Topic,
    /// These channels, each with an unchanged copy that is due when the message is. The list is
    /// shared by messages and never modified.
    Fresh(Rc<[ChannelId]>),
    /// These copies.
    Each(Vec<ChannelCopy>),
}

impl ReplayedMessage {
    /// Keeps the copies for which `has`, called with the channel and the creation time, is true;
    /// returns false if no copy is left.
    pub(super) fn keep_copies(&mut self, has: impl Fn(ChannelId, u64) -> bool) -> bool {
        let born = self.born;
        match &mut self.copies {
            ReplayedCopies::Topic => true,
            ReplayedCopies::Fresh(channels) => {
                if !channels.iter().all(|channel| has(*channel, born)) {
                    *channels = channels.iter().copied().filter(|channel| has(*channel, born)).collect();
                }
                !channels.is_empty()
            }
            ReplayedCopies::Each(copies) => {
                copies.retain(|copy| has(copy.channel, born));
                !copies.is_empty()
            }
        }
    }

    /// Replaces the topic as the holder by copies of its channels, if the topic is the holder.
    fn distribute(&mut self, copies: &ReplayedCopies, now: u64) {
        if matches!(self.copies, ReplayedCopies::Topic) {
            (self.copies, self.born) = (copies.clone(), now);
        }
    }

    /// The copies as a list that may be modified, if channels hold the message.
    fn copies(&mut self) -> Option<&mut Vec<ChannelCopy>> {
        if let ReplayedCopies::Fresh(channels) = &self.copies {
            let due = self.due.take();
            let copy = |channel: &ChannelId| ChannelCopy { channel: *channel, attempts: 0, due };
            self.copies = ReplayedCopies::Each(channels.iter().map(copy).collect());
        }
        match &mut self.copies {
            ReplayedCopies::Each(copies) => Some(copies),
            ReplayedCopies::Fresh(_) | ReplayedCopies::Topic => None,
        }
    }
}

/// Messages that were published together and are all unchanged: the first one, and the lengths of
/// all bodies.
#[derive(Debug)]
struct UntouchedBatch {
    first: ReplayedMessage,
    lengths: Box<[u32]>,
}

/// Messages by id.
#[derive(Debug, Default)]
pub(super) struct ReplayedMessages {
    held: HashMap<u64, ReplayedMessage, BuildHasherDefault<MessageIdHasher>>,
    /// Unchanged batches, by the id of the first message.
    whole: BTreeMap<u64, UntouchedBatch>,
    /// The number of messages in `whole`.
    in_whole: usize,
    /// The lists of topics' channels that messages share.
    channels: HashMap<TopicId, Rc<[ChannelId]>>,
    /// The number of messages after the last sweep.
    swept: usize,
}

impl ReplayedMessages {
    /// A copy for every channel of the topic.
    pub(super) fn channels_of(&mut self, id: TopicId, topic: &CatalogTopic) -> ReplayedCopies {
        ReplayedCopies::Fresh(
            self.channels.entry(id).or_insert_with(|| topic.channels.keys().copied().collect()).clone(),
        )
    }

    /// Drops the shared lists of channels after a change of the catalog.
    pub(super) fn forget_channels(&mut self) {
        self.channels.clear();
    }

    pub(super) fn insert(&mut self, id: u64, message: ReplayedMessage) {
        self.split_batch(id);
        self.held.insert(id, message);
    }

    /// Sets a message's new location and copies; keeps the other copies that it had and for which
    /// `has` is true.
    pub(super) fn relocate(&mut self, id: u64, message: ReplayedMessage, has: impl Fn(ChannelId, u64) -> bool) {
        self.split_batch(id);
        let known = self.held.get_mut(&id).and_then(|known| if known.keep_copies(has) { Some(known) } else { None });
        let (mut copies, relocated) =
            match (known.and_then(ReplayedMessage::copies).map(std::mem::take), message.copies) {
                (before, ReplayedCopies::Each(relocated)) => (before.unwrap_or_default(), relocated),
                (_, ReplayedCopies::Fresh(_) | ReplayedCopies::Topic) => return,
            };
        copies.retain(|copy| relocated.iter().all(|other| other.channel != copy.channel));
        copies.extend(relocated);
        copies.sort_unstable_by_key(|copy| copy.channel);
        self.held.insert(id, ReplayedMessage { copies: ReplayedCopies::Each(copies), ..message });
    }

    /// Inserts messages that were published together: the first one, and the lengths of all bodies.
    pub(super) fn insert_together(&mut self, id: u64, first: ReplayedMessage, lengths: Vec<u32>) {
        match lengths[..] {
            [] => {}
            [_] => self.insert(id, first),
            _ => {
                self.in_whole += lengths.len();
                self.whole.insert(id, UntouchedBatch { first, lengths: lengths.into() });
            }
        }
    }

    /// Splits the unchanged batch of a message, because the message is about to change.
    fn split_batch(&mut self, id: u64) {
        let found = self.whole.range(..=id).next_back().filter(|(first, it)| id - **first < it.lengths.len() as u64);
        let Some(first_id) = found.map(|(first, _)| *first) else { return };
        let UntouchedBatch { first, lengths } = self.whole.remove(&first_id).expect("it was found");
        self.in_whole -= lengths.len();
        let mut location = first.location;
        for (id, length) in (first_id..).zip(lengths) {
            self.held.insert(id, ReplayedMessage { location, length, ..first.clone() });
            location.offset += Bodies::SIZE as u32 + length;
        }
    }

    /// Drops those of the messages that the topic holds.
    pub(super) fn empty(&mut self, id: u64, count: u32) {
        if let Some(whole) = self.whole.get(&id) {
            if matches!(whole.first.copies, ReplayedCopies::Topic) {
                self.in_whole -= whole.lengths.len();
                self.whole.remove(&id);
            }
            return;
        }
        for id in id..id + u64::from(count) {
            if self.is_held_by_topic(id) {
                self.held.remove(&id);
            }
        }
    }

    /// Passes those of the messages that the topic holds to channels.
    pub(super) fn distribute(&mut self, id: u64, count: u32, copies: &ReplayedCopies, now: u64) {
        let ReplayedCopies::Fresh(channels) = copies else { return };
        if channels.is_empty() {
            return self.empty(id, count);
        }
        let whole = self.whole.get_mut(&id).map(|whole| &mut whole.first);
        let singles = if whole.is_some() { 0..0 } else { id..id + u64::from(count) };
        whole.into_iter().for_each(|message| message.distribute(copies, now));
        for id in singles {
            self.held.get_mut(&id).into_iter().for_each(|message| message.distribute(copies, now));
        }
    }

    fn is_held_by_topic(&self, id: u64) -> bool {
        self.held.get(&id).is_some_and(|message| matches!(message.copies, ReplayedCopies::Topic))
    }

    pub(super) fn finish(&mut self, id: u64, channel: ChannelId) {
        self.split_batch(id);
        let Some(message) = self.held.get_mut(&id) else { return };
        let last = match &message.copies {
            ReplayedCopies::Topic => false,
            ReplayedCopies::Fresh(channels) => **channels == [channel],
            ReplayedCopies::Each(copies) => copies.iter().all(|copy| copy.channel == channel),
        };
        if last {
            self.held.remove(&id);
        } else if let Some(copies) = message.copies() {
            copies.retain(|copy| copy.channel != channel);
        }
    }

    pub(super) fn requeue(&mut self, id: u64, channel: ChannelId, attempts: u16, due: Option<UnixMillis>) {
        self.split_batch(id);
        let copies = self.held.get_mut(&id).and_then(ReplayedMessage::copies).into_iter().flatten();
        copies.filter(|copy| copy.channel == channel).for_each(|copy| *copy = ChannelCopy { channel, attempts, due });
    }

    pub(super) fn len(&self) -> usize {
        self.held.len() + self.in_whole
    }

    /// True if the number of messages has doubled since the last sweep.
    pub(super) fn is_sweep_due(&self) -> bool {
        self.len() > MIN_SWEPT.max(2 * self.swept)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut ReplayedMessage) -> bool) {
        self.held.retain(|_, message| keep(message));
        self.whole.retain(|_, whole| keep(&mut whole.first));
        self.in_whole = self.whole.values().map(|whole| whole.lengths.len()).sum();
        self.swept = self.len();
    }

    /// The number of messages of each topic.
    pub(super) fn count_by_topic(&self) -> BTreeMap<TopicId, u64> {
        let singles = self.held.values().map(|message| (message.topic, 1));
        let whole = self.whole.values().map(|whole| (whole.first.topic, whole.lengths.len() as u64));
        let mut counts = BTreeMap::new();
        singles.chain(whole).for_each(|(topic, count)| *counts.entry(topic).or_default() += count);
        counts
    }

    /// All messages, sorted by id.
    pub(super) fn into_recovered(self) -> Vec<RecoveredBatch> {
        let recovered = |id, mut message: ReplayedMessage, count, length| {
            let copies = message.copies().map(std::mem::take).unwrap_or_default();
            let ReplayedMessage { topic, timestamp, location, due, .. } = message;
            RecoveredBatch { id, count, topic, timestamp, location, length, due, copies }
        };
        let sized = |length: u32| length + Bodies::SIZE as u32;
        let singles = self.held.into_iter().map(|(id, message)| {
            let length = sized(message.length);
            recovered(id, message, 1, length)
        });
        let whole = self.whole.into_iter().map(|(id, UntouchedBatch { first, lengths })| {
            let count = u32::try_from(lengths.len()).expect("a batch has fewer than 2^32 messages");
            recovered(id, first, count, lengths.iter().copied().map(sized).sum())
        });
        let mut batches: Vec<_> = singles.chain(whole).collect();
        batches.sort_unstable_by_key(|batch| batch.id);
        batches
    }
}

/// Hasher for the broker's message ids, which count up, with jumps of 2^22 as time passes. Groups
/// of sixteen neighbouring ids stay together, for the cache's sake. A product spreads the groups,
/// and also fills the seven highest bits, which the hash map uses as tags.
#[derive(Default)]
struct MessageIdHasher(u64);

impl Hasher for MessageIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
        const TAG_BITS: u64 = 0x7F << 57;
        let product = (id >> 4).wrapping_mul(MULTIPLIER);
        let slot = ((product ^ (product >> 32)) << 4) | (id & 15);
        self.0 = (slot & !TAG_BITS) | (id.wrapping_mul(MULTIPLIER) & TAG_BITS);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn hashes_of_ids_are_spread_for_small_and_large_steps() {
        for step in [1, 16, 1 << 12, 1 << 22, (1 << 22) + 1, 1000] {
            let hash = |n: u64| {
                let mut hasher = MessageIdHasher::default();
                hasher.write_u64(77 + n * step);
                hasher.finish()
            };
            let tags: HashSet<u64> = (0..10_000).map(|n| hash(n) >> 57).collect();
            let mut groups = [0; 1024];
            (0..10_000).for_each(|n| groups[(hash(n) >> 4) as usize % 1024] += 1);
            // 10,000 ids in groups of sixteen are 625 throws at 1024 buckets, which fill 470 of
            // them on average; other steps leave none empty.
            let taken = groups.iter().filter(|count| **count > 0).count();
            let fullest = groups.iter().max();
            assert!(
                taken > 400 && fullest < Some(&100),
                "step {step}: {taken} groups are taken, the fullest by {fullest:?}"
            );
            assert_eq!(tags.len(), 128, "{step}");
        }
    }
}

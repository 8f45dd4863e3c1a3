//! Recovery: builds the state from the contents of a log.

use std::collections::HashMap;

use super::super::log::{Log, LogLocation, Recovered, RecoveredBatch, TopicId, UnixMillis};
use super::channel::{Channel, QueuedRun};
use super::time::Millis;
use super::topic::{HeldRun, Topic};
use super::{BrokerState, Now, StateLimits};
use crate::proto::TopicName;

/// Maximum bytes of adjacent log batches that become one batch and are read back together.
const MAX_JOINED_BYTES: u32 = 256 << 10;

impl BrokerState {
    /// Builds the state from a log: all messages are queued again; deferred ones stay deferred
    /// until they are due.
    pub fn recover(limits: StateLimits, log: Box<dyn Log>, mut recovered: Recovered, now: Now) -> Self {
        let mut state = Self::new(limits, log);
        state.store.batches.reserve_ids_up_to(recovered.last_id);
        state.next_number = recovered.next_number.max(1);
        let mut names: HashMap<TopicId, TopicName> = HashMap::new();
        for known in recovered.topics {
            let mut topic = Topic::new(known.id, false);
            (topic.paused, topic.fence) = (known.paused, known.fence);
            for known_channel in known.channels {
                let mut channel = Channel::new(known_channel.id, known.name.clone(), known_channel.name.clone());
                channel.paused = known_channel.paused;
                topic.channels.insert(known_channel.name, known_channel.id);
                state.channels.insert(known_channel.id, channel);
            }
            names.insert(known.id, known.name.clone());
            state.topics.insert(known.name, topic);
        }
        // no delay is longer: a later due time means that the clock was set back after the message
        // was deferred
        let last = now.due_in(Millis(state.store.limits.max_req_timeout));
        let mut capped = 0;
        let mut cap = |due: &mut Option<UnixMillis>, count: u32| {
            if due.is_some_and(|due| due > last) {
                *due = Some(last);
                capped += count;
            }
        };
        for batch in &mut recovered.batches {
            cap(&mut batch.due, batch.count);
            batch.copies.iter_mut().for_each(|copy| cap(&mut copy.due, batch.count));
        }
        if capped > 0 {
            tracing::warn!(
                messages = capped,
                "the clock was set back; deferred messages become due after at most --max-req-timeout"
            );
        }
        for together in recovered.batches.chunk_by(are_adjacent).flat_map(within_limit) {
            state.add_batches(together, &names, now);
        }
        // messages held by a topic that awaited its channels before the restart
        names.values().for_each(|name| state.distribute(name, now));
        state.recover_index();
        state.store.log.recovered();
        state
    }

    /// Adds adjacent batches that have the same holders, as one batch.
    fn add_batches(&mut self, together: &[RecoveredBatch], names: &HashMap<TopicId, TopicName>, now: Now) {
        let RecoveredBatch { id, topic, timestamp, location, due, ref copies, .. } = together[0];
        let store = &mut self.store;
        let length = together.iter().map(|batch| batch.length).sum();
        let count = together.iter().map(|batch| batch.count).sum();
        let run = store.batches.recover(id, timestamp, location, length, count);
        store.batches.hold(run.key, copies.len().max(1) as u64 * u64::from(count));
        store.batches.hold_in_log(run.key, &mut *store.log);
        if copies.is_empty() {
            let topic = self.topics.get_mut(&names[&topic]).expect("it has a name");
            topic.hold(HeldRun { run, due }, store);
        }
        for copy in copies {
            let channel = self.channels.get_mut(&copy.channel).expect("a copy is a channel's");
            match copy.due {
                Some(due) => channel.defer(run, copy.attempts, due, store, now),
                None => channel.enqueue(QueuedRun { run, attempts: copy.attempts }, store),
            }
        }
    }
}

/// True if `next` follows `batch` in the log, was published with it, and has the same due time and
/// copies.
fn are_adjacent(batch: &RecoveredBatch, next: &RecoveredBatch) -> bool {
    let after = LogLocation { offset: batch.location.offset + batch.length, ..batch.location };
    next.id == batch.id + u64::from(batch.count)
        && next.location == after
        && next.timestamp == batch.timestamp
        && (next.topic, next.due) == (batch.topic, batch.due)
        && next.copies == batch.copies
}

/// Splits batches into chunks of at most [`MAX_JOINED_BYTES`] bytes, or one larger batch.
fn within_limit(mut batches: &[RecoveredBatch]) -> impl Iterator<Item = &[RecoveredBatch]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fit = batches.iter().take_while(|batch| {
            bytes += batch.length;
            bytes <= MAX_JOINED_BYTES
        });
        let count = fit.count().max(1).min(batches.len());
        let (taken, rest) = batches.split_at(count);
        batches = rest;
        (!taken.is_empty()).then_some(taken)
    })
}

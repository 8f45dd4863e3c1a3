//! The deferred copies of a channel, by the id of the first message of each run. The oldest is known
//! at any time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Deref;

use super::super::log::UnixMillis;
use super::channel::ById;
use super::message_store::MessageRun;
use super::time::Micros;

/// Deferred copies.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeferredRun {
    pub(super) run: MessageRun,
    pub(super) attempts: u16,
    pub(super) due: UnixMillis,
    pub(super) until: Micros,
}

type Runs = HashMap<u64, DeferredRun, ById>;

/// The deferred runs of a channel.
#[derive(Debug, Default)]
pub(super) struct DeferredRuns {
    all: Runs,
    /// The ids of `all`, and of runs that are not deferred any more; the lowest is deferred.
    by_age: BinaryHeap<Reverse<u64>>,
}

/// Ids in the heap that may be too many.
const SPARE_IDS: usize = 64;

impl DeferredRuns {
    pub(super) fn insert(&mut self, id: u64, run: DeferredRun) {
        self.all.insert(id, run);
        self.by_age.push(Reverse(id));
        self.forget_some();
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<DeferredRun> {
        let removed = self.all.remove(&id)?;
        while self.by_age.peek().is_some_and(|Reverse(oldest)| !self.all.contains_key(oldest)) {
            self.by_age.pop();
        }
        self.forget_some();
        Some(removed)
    }

    /// Removes ids that are not deferred any more, if they are more than the others: a constant time
    /// for each change.
    fn forget_some(&mut self) {
        if self.by_age.len() > 2 * self.all.len() + SPARE_IDS {
            let mut ids = std::mem::take(&mut self.by_age).into_vec();
            ids.retain(|Reverse(id)| self.all.contains_key(id));
            ids.sort_unstable();
            ids.dedup();
            ids.shrink_to(2 * ids.len());
            self.by_age = ids.into();
        }
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut DeferredRun> {
        self.all.get_mut(&id)
    }

    /// Removes and returns all runs.
    pub(super) fn take(&mut self) -> Runs {
        std::mem::take(self).all
    }

    /// The run that was published first: ids grow with time.
    pub(super) fn oldest(&self) -> Option<&DeferredRun> {
        self.by_age.peek().and_then(|Reverse(id)| self.all.get(id))
    }

    /// The number of ids that are kept to know the oldest.
    pub(super) fn kept_ids(&self) -> usize {
        self.by_age.len()
    }
}

impl Deref for DeferredRuns {
    type Target = Runs;

    fn deref(&self) -> &Runs {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::super::message_store::MessageStore;
    use super::*;
    use crate::broker::log::MemoryLog;
    use crate::proto::Bodies;

    #[test]
    fn the_oldest_is_known_whatever_comes_and_goes() {
        let mut store = MessageStore::new(1 << 20);
        let run = store.insert(1, 0, Bodies::one("x".into()), None, 1, &mut MemoryLog);
        let deferred = |due: u64| DeferredRun { run, attempts: 0, due: UnixMillis(due), until: due };
        let (mut runs, mut random) = (DeferredRuns::default(), fastrand::Rng::with_seed(7));
        for _ in 0..20_000 {
            let id = random.u64(..200);
            match random.u32(..5) {
                0..3 => runs.insert(id, deferred(id)),
                _ => drop(runs.remove(id)),
            }
            assert_eq!(runs.oldest().map(|run| run.until), runs.keys().min().copied());
            assert!(runs.kept_ids() <= 2 * runs.len() + SPARE_IDS, "{} of {}", runs.kept_ids(), runs.len());
        }
        assert!(!runs.take().is_empty());
        assert!(runs.oldest().is_none() && runs.is_empty());
    }
}

//! Counts of deliveries that this process requeued untried, by message. Pure.
//!
//! nsqd counts deliveries, not tries. A consumer can subtract the deliveries that it requeued
//! itself, but not those that other processes requeued. For mqueue's broker nothing is counted
//! here: its BACK takes the attempt back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::client::Address;
use crate::proto::MessageId;

/// Messages in one generation. Two generations are kept, so at most twice as many messages are
/// known.
const GENERATION: usize = 5_000;

/// Counts of deliveries that were requeued untried. Clones share the counts, so consumers that
/// follow one another in a process know them.
#[derive(Debug, Clone, Default)]
pub struct GivenBack(Arc<Mutex<GivenBackCounts>>);

#[derive(Debug, Default)]
struct GivenBackCounts {
    young: HashMap<(Address, MessageId), u16>,
    /// The previous generation, dropped when `young` is full.
    old: HashMap<(Address, MessageId), u16>,
}

impl GivenBack {
    /// Counts a delivery of this message that was requeued untried.
    pub(super) fn count_requeue(&self, nsqd: &Address, id: MessageId) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (nsqd.clone(), id);
        let before = counts.count(&key);
        if counts.young.len() >= GENERATION && !counts.young.contains_key(&key) {
            counts.old = std::mem::take(&mut counts.young);
        }
        counts.young.insert(key, before.saturating_add(1));
    }

    /// A function that returns the counts of one nsqd's messages; `None` if there are none at all,
    /// which is the usual case.
    pub(super) fn counter(&self, nsqd: &Address) -> Option<impl Fn(MessageId) -> u16 + use<>> {
        let is_empty = self.0.lock().unwrap_or_else(PoisonError::into_inner).young.is_empty();
        (!is_empty).then(|| {
            let (counts, nsqd) = (self.0.clone(), nsqd.clone());
            move |id| {
                let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                counts.count(&(nsqd.clone(), id))
            }
        })
    }
}

impl GivenBackCounts {
    fn count(&self, key: &(Address, MessageId)) -> u16 {
        self.young.get(key).or_else(|| self.old.get(key)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> MessageId {
        MessageId::from_slice(format!("{number:016x}").as_bytes()).unwrap()
    }

    #[test]
    fn requeues_are_counted_for_each_nsqd() {
        let [one, other]: [Address; 2] = ["a:1", "b:1"].map(|address| address.parse().unwrap());
        let given_back = GivenBack::default();
        assert!(given_back.counter(&one).is_none());
        given_back.clone().count_requeue(&one, id(1));
        given_back.count_requeue(&one, id(1));
        let count = |nsqd: &Address, number| given_back.counter(nsqd).unwrap()(id(number));
        assert_eq!((count(&one, 1), count(&one, 2), count(&other, 1)), (2, 0, 0));
    }

    #[test]
    fn the_oldest_counts_are_forgotten_first() {
        let nsqd: Address = "a:1".parse().unwrap();
        let given_back = GivenBack::default();
        for number in 0..3 * GENERATION {
            given_back.count_requeue(&nsqd, id(number));
            // a message that is requeued again and again stays known
            given_back.count_requeue(&nsqd, id(7));
        }
        let counts = given_back.0.lock().unwrap();
        assert!(counts.young.len() + counts.old.len() <= 2 * GENERATION);
        assert_eq!(counts.count(&(nsqd.clone(), id(0))), 0);
        assert_eq!(counts.count(&(nsqd.clone(), id(3 * GENERATION - 1))), 1);
        assert_eq!(counts.count(&(nsqd, id(7))), 1 + 3 * GENERATION as u16);
    }
}

//! Saying a thing once, for as long as it holds.

use std::collections::BTreeSet;

/// What holds, of one kind.
#[derive(Debug)]
pub(super) struct LogOnce<T>(BTreeSet<T>);

impl<T: Ord + Clone> LogOnce<T> {
    pub(super) fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// What holds now. Returns what did not hold before.
    pub(super) fn news(&mut self, now: BTreeSet<T>) -> Vec<T> {
        let news = now.difference(&self.0).cloned().collect();
        self.0 = now;
        news
    }

    /// What held the last time.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

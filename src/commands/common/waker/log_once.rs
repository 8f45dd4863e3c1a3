//! Logging a condition once, for as long as it lasts.

use std::collections::BTreeSet;

/// The current conditions of one kind.
#[derive(Debug)]
pub(crate) struct LogOnce<T>(BTreeSet<T>);

impl<T: Ord + Clone> LogOnce<T> {
    pub(crate) fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// Replaces the current conditions; returns the new ones.
    pub(crate) fn news(&mut self, now: BTreeSet<T>) -> Vec<T> {
        let news = now.difference(&self.0).cloned().collect();
        self.0 = now;
        news
    }

    /// Returns the current conditions.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

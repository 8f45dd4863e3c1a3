//! A list that Go's JSON may write as `null`.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// A list or `null`. nsqd sends `null` for a list that was not requested, and `[]` for an empty
/// list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct List<T>(Option<Vec<T>>);

impl<T> Default for List<T> {
    /// `null`.
    fn default() -> Self {
        Self(None)
    }
}

impl<T> List<T> {
    /// Keeps only the items for which `keep` returns true.
    pub fn retain_mut(&mut self, keep: impl FnMut(&mut T) -> bool) {
        if let Some(items) = &mut self.0 {
            items.retain_mut(keep);
        }
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(Some(items.into_iter().collect()))
    }
}

impl<T> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.unwrap_or_default().into_iter()
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

//! Dead letters in their stream: counting, reading, redriving and dropping them, for `mqueue errors`
//! and the web page.
//!
//! ```text
//!  LetterSelection ─▶ count ─▶ Letters (a consumer) ─┬─▶ shown, then requeued
//!                                                    └─▶ act: printed, published by its route, or dropped; then FIN
//! ```

pub(crate) mod act;
pub(crate) mod letters;
mod parts;
pub(crate) mod routes;

use mqueue::proto::{ChannelName, TopicName};

/// The dead letters of a stream that a command is about.
#[derive(Debug, Clone)]
pub(crate) struct LetterSelection {
    /// The stream whose messages were given up.
    pub(crate) stream: TopicName,
    /// The stream of the dead letters.
    pub(crate) dead_letters: TopicName,
    /// The group that keeps dead letters for this program.
    pub(crate) group: ChannelName,
    /// A text in the body, the reason or the group's name.
    pub(crate) filter: Option<String>,
    /// The maximum redriven a second.
    pub(crate) rate: Option<u32>,
    /// The maximum in flight at once, without a rate.
    pub(crate) max_in_flight: u32,
}

/// An action on dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LetterAction {
    /// Prints them, and removes them.
    Get,
    /// Publishes them again, and removes them.
    Redrive,
    /// Removes them.
    Drop,
}

impl LetterAction {
    /// The verb.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Redrive => "redrive",
            Self::Drop => "drop",
        }
    }

    /// The past participle.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Get => "printed and removed",
            Self::Redrive => "published again",
            Self::Drop => "dropped",
        }
    }
}

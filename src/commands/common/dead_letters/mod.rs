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

use serde::Deserialize;

use mqueue::proto::{ChannelName, TopicName, excerpt};
use mqueue::worker::DeadLetter;

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
    /// A single letter.
    pub(crate) only: Option<LetterName>,
    /// The maximum redriven a second.
    pub(crate) rate: Option<u32>,
    /// The maximum in flight at once, without a rate.
    pub(crate) max_in_flight: u32,
}

/// The name of a single letter. Its copies, and its parts, have the same.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LetterName {
    /// The id of the message that was given up, as it is shown; of a message that is no letter, its
    /// own.
    pub(crate) id: String,
    /// The group that gave it up.
    pub(crate) group: Option<String>,
    /// The time of its death, in milliseconds since 1970.
    #[serde(default)]
    pub(crate) died: i64,
}

impl LetterName {
    /// Returns the name of a letter; `None` stands for a message that is none, with this id.
    pub(crate) fn of(letter: Option<&DeadLetter>, id: &str) -> Self {
        match letter {
            // the id is a peer's text
            Some(letter) => Self {
                id: excerpt(letter.id.as_bytes()),
                group: Some(letter.group.to_string()),
                died: letter.died / 1_000_000,
            },
            None => Self { id: id.to_owned(), group: None, died: 0 },
        }
    }
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

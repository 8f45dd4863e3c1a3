//! Reassembly of letters that were too large for one message, and were published in parts.

use std::collections::HashMap;

use bytes::BytesMut;

use super::letters::Letter;
use mqueue::worker::DeadLetter;

/// The fields that all parts of one letter share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PartKey {
    stream: String,
    group: String,
    id: String,
    died: i64,
    of: u32,
}

impl PartKey {
    /// Returns the key and the part's number; `None` if the letter is whole, or its part number is
    /// invalid.
    fn of(letter: &DeadLetter) -> Option<(Self, u32)> {
        let part = letter.part.filter(|part| (1..=part.of).contains(&part.number))?;
        let (stream, group) = (letter.stream.to_string(), letter.group.to_string());
        let key = Self { stream, group, id: letter.id.clone(), died: letter.died, of: part.of };
        Some((key, part.number))
    }
}

/// The parts of letters that are not complete yet.
#[derive(Default)]
pub(super) struct Parts(HashMap<PartKey, Vec<(u32, Letter)>>);

impl Parts {
    /// Adds a letter. Returns it if it is whole, and returns the whole letter if this was the last
    /// part.
    pub(super) fn join(&mut self, letter: Letter) -> Option<Letter> {
        let Some((key, number)) = letter.letter.as_ref().and_then(PartKey::of) else { return Some(letter) };
        let of = key.of as usize;
        let parts = self.0.entry(key.clone()).or_default();
        // a duplicate of a part gets the same reply as the first
        match parts.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(at) => parts[at].1.deliveries.extend(letter.deliveries),
            Err(at) => parts.insert(at, (number, letter)),
        }
        if parts.len() < of {
            return None;
        }
        let parts = self.0.remove(&key)?;
        let mut body = BytesMut::new();
        parts.iter().for_each(|(_, part)| body.extend_from_slice(part.body()));
        let whole = parts.first().and_then(|(_, part)| part.letter.clone());
        let whole = whole.map(|mut letter| {
            (letter.part, letter.body) = (None, body.freeze());
            letter
        });
        let deliveries = parts.into_iter().flat_map(|(_, part)| part.deliveries).collect();
        Some(Letter { deliveries, letter: whole })
    }

    /// Takes all parts of incomplete letters.
    pub(super) fn take_incomplete(&mut self) -> Vec<Letter> {
        self.0.drain().flat_map(|(_, parts)| parts).map(|(_, part)| part).collect()
    }
}

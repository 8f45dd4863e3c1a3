//! All messages, each kept once however many hold it.

use std::borrow::Cow;
use std::io;

use bytes::Bytes;
use slab::Slab;

use super::super::log::{BODY_HEAD, Log, Place};
use crate::proto::MessageId;

/// Names a message as long as anybody holds it.
pub(super) type Key = u32;

/// A message. There may be millions: this is 64 bytes.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    /// When it was published, in nanoseconds since 1970.
    pub(super) timestamp: i64,
    /// Its body, if it is in memory; else empty, which no message is.
    body: Bytes,
    length: u32,
    /// How many hold it: the topic, or channels.
    holders: u32,
    /// Where the log has it, or [`NOWHERE`].
    place: Place,
}

/// No log has segments so high.
const NOWHERE: Place = Place { segment: u32::MAX, offset: u32::MAX };

impl Entry {
    /// True if its body has to be read from the log.
    pub(super) fn is_on_disk(&self) -> bool {
        self.body.is_empty()
    }

    /// Where the log has it.
    pub(super) fn place(&self) -> Option<Place> {
        (self.place != NOWHERE).then_some(self.place)
    }
}

/// The messages, and how much memory their bodies take.
#[derive(Debug)]
pub(super) struct Messages {
    entries: Slab<Entry>,
    /// Bytes of bodies in memory.
    resident: usize,
    /// Beyond so many bytes a body stays in the log, if it is there.
    limit: usize,
    last_id: u64,
}

impl Messages {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: Slab::new(), resident: 0, limit, last_id: 0 }
    }

    /// The first of `count` ids, which nobody had before. As nsqd's (`guid.go`) they grow with time, so that those of a broker that forgot all
    /// (`--memory`) differ from those before.
    pub(super) fn reserve_ids(&mut self, count: u64, unix_nanos: i64) -> u64 {
        const EPOCH: u64 = 1_288_834_974_288;
        let ticks = u64::try_from(unix_nanos >> 20).unwrap_or(0).saturating_sub(EPOCH);
        let first = (ticks << 22).max(self.last_id + 1);
        self.last_id = first + count - 1;
        first
    }

    /// No id up to this one is given again.
    pub(super) fn never_below(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// True if a body of that size finds room in memory.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.resident.saturating_add(bytes) <= self.limit
    }

    /// Keeps a message for `holders`.
    pub(super) fn insert(&mut self, id: u64, timestamp: i64, body: Bytes, place: Option<Place>, holders: u32) -> Key {
        let length = u32::try_from(body.len()).expect("a body is far below 4 GiB");
        let body = if place.is_none() || self.has_room(body.len()) { body } else { Bytes::new() };
        self.resident += body.len();
        self.add(Entry { id, timestamp, body, length, holders, place: place.unwrap_or(NOWHERE) })
    }

    /// Keeps a message whose body is in the log.
    pub(super) fn recover(&mut self, id: u64, timestamp: i64, place: Place, length: u32, holders: u32) -> Key {
        self.add(Entry { id, timestamp, body: Bytes::new(), length, holders, place })
    }

    fn add(&mut self, entry: Entry) -> Key {
        Key::try_from(self.entries.insert(entry)).expect("memory ends before 4 billion messages")
    }

    pub(super) fn get(&self, key: Key) -> &Entry {
        &self.entries[key as usize]
    }

    /// Its body, from memory or from the log.
    pub(super) fn body(&self, key: Key, log: &mut dyn Log) -> io::Result<Cow<'_, Bytes>> {
        let entry = self.get(key);
        match entry.is_on_disk() {
            true => log.read(entry.place, entry.length).map(Cow::Owned),
            false => Ok(Cow::Borrowed(&entry.body)),
        }
    }

    /// One more holds it.
    pub(super) fn hold(&mut self, key: Key, more: u32) {
        self.entries[key as usize].holders += more;
    }

    /// One less holds it; with the last it is gone.
    pub(super) fn release(&mut self, key: Key, log: &mut dyn Log) {
        let entry = &mut self.entries[key as usize];
        entry.holders -= 1;
        if entry.holders == 0 {
            let entry = self.entries.remove(key as usize);
            self.resident -= entry.body.len();
            if let Some(place) = entry.place() {
                log.spent(place.segment);
            }
        }
    }

    /// The log has the message elsewhere now; or no more, and then its body is kept here.
    pub(super) fn moved(&mut self, key: Key, place: Option<Place>, body: Bytes) {
        let entry = &mut self.entries[key as usize];
        entry.place = place.unwrap_or(NOWHERE);
        if place.is_none() && entry.is_on_disk() {
            self.resident += body.len();
            entry.body = body;
        }
    }

    /// How many hold each.
    pub(super) fn holders(&self) -> std::collections::HashMap<Key, u32> {
        self.entries.iter().map(|(key, entry)| (key as Key, entry.holders)).collect()
    }
}

/// Where the body after one of `length` bytes lies.
pub(super) fn next_place(place: Place, length: usize) -> Place {
    let length = u32::try_from(length).expect("a body is far below 4 GiB");
    Place { offset: place.offset + length + BODY_HEAD, ..place }
}

/// An id on the wire: sixteen hexadecimal digits.
pub(super) fn to_wire(id: u64) -> MessageId {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    MessageId(std::array::from_fn(|at| DIGITS[(id >> (60 - 4 * at)) as usize & 15]))
}

/// Reads what [`to_wire`] wrote; `None` for what it cannot have written.
pub(super) fn from_wire(id: &MessageId) -> Option<u64> {
    id.0.iter().try_fold(0, |sum, digit| match digit {
        b'0'..=b'9' => Some(sum << 4 | u64::from(digit - b'0')),
        b'a'..=b'f' => Some(sum << 4 | u64::from(digit - b'a' + 10)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_travel_as_hexadecimal_and_back() {
        for id in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(to_wire(id).to_string(), format!("{id:016x}"));
            assert_eq!(from_wire(&to_wire(id)), Some(id));
        }
        assert_eq!(from_wire(&MessageId(*b"0123456789ABCDEF")), None);
    }

    #[test]
    fn a_message_takes_64_bytes_besides_its_body() {
        assert_eq!(
            (size_of::<Entry>(), size_of::<Option<Entry>>()),
            (64, 64),
            "and the list of free places takes no more"
        );
    }

    #[test]
    fn ids_grow_though_the_clock_goes_back() {
        let mut messages = Messages::new(0);
        let first = messages.reserve_ids(10, 1_800_000_000_000_000_000);
        assert_eq!(messages.reserve_ids(1, 1_700_000_000_000_000_000), first + 10);
        assert!(messages.reserve_ids(1, 1_900_000_000_000_000_000) > first + 11);
    }
}

//! Generated events: `UUID TIMESTAMP EPOCH SEQUENCE`, separated by spaces.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event published by the generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GeneratedEvent {
    /// Random, version 4.
    pub(super) uuid: u128,
    /// Milliseconds since 1970, by the generator's clock.
    pub(super) timestamp: u64,
    /// The generator's epoch, which increases with each change of the generator.
    pub(super) epoch: u64,
    /// The number of the event in its epoch, from 1.
    pub(super) sequence: u64,
}

impl GeneratedEvent {
    /// Creates an event with a new UUID and the current time.
    pub(super) fn new(rng: &mut fastrand::Rng, epoch: u64, sequence: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (version, variant) = (0xf << 76, 0b11 << 62);
        let uuid = rng.u128(..) & !version & !variant | 4 << 76 | 0b10 << 62;
        Self { uuid, timestamp: u64::try_from(now.as_millis()).unwrap_or(u64::MAX), epoch, sequence }
    }

    /// Parses a message's body; `None` if it is not an event.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut words = str::from_utf8(body).ok()?.split(' ');
        let uuid = parse_uuid(words.next()?)?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let event = Self { uuid, timestamp: number()?, epoch: number()?, sequence: number()? };
        words.next().is_none().then_some(event)
    }
}

impl fmt::Display for GeneratedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uuid, timestamp, epoch, sequence } = self;
        let part = |from: u32, digits: u32| (uuid >> (128 - from - 4 * digits)) & ((1 << (4 * digits)) - 1);
        let (a, b, c, d, e) = (part(0, 8), part(32, 4), part(48, 4), part(64, 4), part(80, 12));
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x} {timestamp} {epoch} {sequence}")
    }
}

/// Parses a UUID with its hyphens.
fn parse_uuid(text: &str) -> Option<u128> {
    let is_sound = text.len() == 36
        && text.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        });
    u128::from_str_radix(&text.replace('-', ""), 16).ok().filter(|_| is_sound)
}

/// Returns true for an event of a seed program: a UUID, a blank, and a time in any form.
pub(super) fn begins_with_uuid(body: &[u8]) -> bool {
    let text = str::from_utf8(body).ok();
    text.and_then(|text| text.split_once(' '))
        .is_some_and(|(uuid, time)| parse_uuid(uuid).is_some() && !time.is_empty())
}

/// Returns a generator seeded by the system's randomness, which std uses for its hashers' keys.
pub(super) fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_round_trips() {
        let event = GeneratedEvent::new(&mut rng(), 17, 3);
        let text = event.to_string();
        assert_eq!(GeneratedEvent::parse(text.as_bytes()), Some(event), "{text}");
        assert_eq!((text.as_bytes()[14], text.split(' ').count()), (b'4', 4), "{text}");
        assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
    }

    #[test]
    fn other_bodies_are_not_events() {
        let uuid = "0b7a2f3c-1d2e-4f5a-8b9c-0d1e2f3a4b5c";
        assert!(GeneratedEvent::parse(format!("{uuid} 1 2 3").as_bytes()).is_some());
        for wrong in
            ["", " ", "x 1 2 3", uuid, &format!("{uuid} 1 2"), &format!("{uuid} 1 2 3 4"), &format!("{uuid} 1 2 -3")]
        {
            assert_eq!(GeneratedEvent::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(GeneratedEvent::parse(b"0b7a2f3c+1d2e-4f5a-8b9c-0d1e2f3a4b5c 1 2 3"), None);
        assert_eq!(GeneratedEvent::parse(&[0xff; 60]), None);
        for (text, is_one) in [(" at 2016-11-21 05:57:08.1 +0000 UTC", true), (" 1", true), (" ", false), ("", false)] {
            assert_eq!(begins_with_uuid(format!("{uuid}{text}").as_bytes()), is_one, "{text:?}");
        }
    }
}

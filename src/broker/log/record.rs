//! Records: the parts of a segment, each with its own checksum.
//!
//! ```text
//!  0            4            8      9             12
//!  │ length (4) │ crc (4)    │ kind │ check (3)   │ payload (length)
//! ```
//!
//! Little-endian. `crc` is the CRC-32 of the payload. `check` is the low three bytes of the CRC-32
//! of the nine bytes before it: a header that passes this check tells how far to skip over a
//! damaged payload. Both CRCs start from the segment's salt, a random number that no publisher
//! knows, so bytes within a body are never taken for a record, even if a publisher tries.

use std::ops::Range;

use crc32fast::Hasher;

/// Bytes of a record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 12;

/// Kind of a record's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// The catalog at the beginning of a segment.
    Snapshot = 1,
    /// Changes.
    Changes = 2,
    /// Messages that were published together.
    Batch = 3,
    /// A relocated message, as older versions wrote it.
    Carried = 4,
    /// Relocated messages.
    Relocated = 5,
}

impl RecordKind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Snapshot, Self::Changes, Self::Batch, Self::Carried, Self::Relocated]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Encodes the header of a payload that is given in pieces.
pub(super) fn head<'a>(
    kind: RecordKind,
    salt: u32,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> [u8; RECORD_HEADER_BYTES] {
    let mut hasher = Hasher::new_with_initial(salt);
    let mut length = 0;
    for piece in pieces {
        hasher.update(piece);
        length += piece.len();
    }
    let length = u32::try_from(length).expect("a record is below 4 GiB");
    let mut head = [0; RECORD_HEADER_BYTES];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
    head[8] = kind as u8;
    let check = crc(salt, &head[..9]).to_le_bytes();
    head[9..].copy_from_slice(&check[..3]);
    head
}

/// A record's header whose check is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: RecordKind,
    /// Bytes of the payload.
    pub(super) length: u32,
    crc: u32,
}

impl RecordHeader {
    /// Reads a header; `None` if its check is wrong.
    pub(super) fn read(salt: u32, head: &[u8]) -> Option<Self> {
        let kind = RecordKind::of(*head.get(8)?)?;
        if crc(salt, &head[..9]).to_le_bytes()[..3] != *head.get(9..RECORD_HEADER_BYTES)? {
            return None;
        }
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        Some(Self { kind, length: number(0), crc: number(4) })
    }

    /// True if the payload has the header's length and CRC.
    pub(super) fn fits(&self, salt: u32, payload: &[u8]) -> bool {
        payload.len() == self.length as usize && crc(salt, payload) == self.crc
    }
}

fn crc(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// Result of scanning a segment at one position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned<'a> {
    /// A record with the right checksums.
    Record {
        /// Offset of its header.
        at: usize,
        /// Kind of the payload.
        kind: RecordKind,
        /// The payload.
        payload: &'a [u8],
    },
    /// Bytes with wrong checksums, followed by a good record or within the length that a later
    /// segment vouches for.
    Damaged(Range<usize>),
    /// The rest of the segment has wrong checksums: a write was cut short.
    Torn(usize),
}

/// Iterator over a segment's records, from `at` on.
#[derive(Debug)]
pub(super) struct RecordScan<'a> {
    bytes: &'a [u8],
    salt: u32,
    at: usize,
    /// Where the segment ends by the word of a later segment, if there is one.
    end: Option<usize>,
}

impl<'a> RecordScan<'a> {
    /// Bytes after `end` are not part of the log: that write failed and was reported as failed.
    pub(super) fn new(bytes: &'a [u8], salt: u32, at: usize, end: Option<usize>) -> Self {
        let bytes = &bytes[..end.unwrap_or(bytes.len()).min(bytes.len())];
        Self { bytes, salt, at, end }
    }

    /// The record at `at`, if its checksums are right.
    fn record(&self, at: usize) -> Option<(RecordKind, &'a [u8])> {
        let head = RecordHeader::read(self.salt, self.bytes.get(at..at + RECORD_HEADER_BYTES)?)?;
        let payload = self.bytes.get(at + RECORD_HEADER_BYTES..)?.get(..head.length as usize)?;
        head.fits(self.salt, payload).then_some((head.kind, payload))
    }
}

impl<'a> Iterator for RecordScan<'a> {
    type Item = Scanned<'a>;

    fn next(&mut self) -> Option<Scanned<'a>> {
        let at = self.at;
        if let Some((kind, payload)) = self.record(at) {
            self.at += RECORD_HEADER_BYTES + payload.len();
            return Some(Scanned::Record { at, kind, payload });
        }
        let end = self.end.unwrap_or(self.bytes.len());
        if at >= end {
            return None;
        }
        let next = (at + 1..self.bytes.len()).find(|at| self.record(*at).is_some());
        self.at = next.unwrap_or(end);
        Some(match (next, self.end) {
            (Some(next), _) => Scanned::Damaged(at..next),
            (None, Some(end)) => Scanned::Damaged(at..end),
            (None, None) => Scanned::Torn(at),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: u32 = 7;

    fn written(records: &[(RecordKind, Vec<u8>)]) -> Vec<u8> {
        let each = |(kind, payload): &(RecordKind, Vec<u8>)| {
            [&head(*kind, SALT, [payload.as_slice()].into_iter()), payload.as_slice()].concat()
        };
        records.iter().flat_map(each).collect()
    }

    fn scan(bytes: &[u8], end: Option<usize>) -> Vec<Scanned<'_>> {
        RecordScan::new(bytes, SALT, 0, end).collect()
    }

    #[test]
    fn records_have_a_stable_encoding() {
        let bytes =
            [&head(RecordKind::Changes, 0, [b"1234".as_slice(), b"56789"].into_iter()), b"123456789".as_slice()]
                .concat();
        // cbf43926 is the standard check value of CRC-32
        assert_eq!(bytes[..9], [9, 0, 0, 0, 0x26, 0x39, 0xf4, 0xcb, 2]);
        let check = crc32fast::hash(&bytes[..9]).to_le_bytes();
        assert_eq!(bytes[9..12], check[..3]);
        assert_eq!(RecordScan::new(&bytes, 0, 0, None).count(), 1);
    }

    #[test]
    fn records_with_another_salt_are_ignored() {
        let bytes = written(&[(RecordKind::Batch, b"body".to_vec())]);
        assert_eq!(RecordScan::new(&bytes, SALT + 1, 0, None).collect::<Vec<_>>(), [Scanned::Torn(0)]);
    }

    #[test]
    fn a_damaged_record_hides_none_of_the_others() {
        let mut bytes = written(&[
            (RecordKind::Batch, vec![1; 40]),
            (RecordKind::Batch, vec![2; 40]),
            (RecordKind::Batch, vec![3; 40]),
        ]);
        for wrong in [52, 56, 60, 61, 70] {
            bytes[wrong] ^= 0x40;
            let found = scan(&bytes, None);
            assert_eq!(found[1], Scanned::Damaged(52..104), "byte {wrong}");
            assert!(matches!(found[2], Scanned::Record { at: 104, .. }), "byte {wrong}");
            assert_eq!(found.len(), 3);
            bytes[wrong] ^= 0x40;
        }
    }

    #[test]
    fn bytes_within_the_stated_end_are_damaged_and_not_torn() {
        let bytes = written(&[(RecordKind::Batch, vec![1; 40]), (RecordKind::Batch, vec![2; 40])]);
        assert_eq!(scan(&bytes[..100], None)[1], Scanned::Torn(52));
        assert_eq!(scan(&bytes[..100], Some(104))[1..], [Scanned::Damaged(52..104)]);
        assert_eq!(scan(&bytes[..100], Some(52)).len(), 1, "a failed write is not part of the log");
        assert_eq!(scan(&bytes[..52], Some(104))[1..], [Scanned::Damaged(52..104)]);
    }

    fn any_records() -> impl Strategy<Value = Vec<(RecordKind, Vec<u8>)>> {
        let kind = prop::sample::select(vec![
            RecordKind::Snapshot,
            RecordKind::Changes,
            RecordKind::Batch,
            RecordKind::Carried,
            RecordKind::Relocated,
        ]);
        prop::collection::vec((kind, prop::collection::vec(any::<u8>(), 0..50)), 1..6)
    }

    proptest! {
        #[test]
        fn written_records_are_found(records in any_records()) {
            let bytes = written(&records);
            let found = scan(&bytes, None);
            prop_assert_eq!(found.len(), records.len());
            for (found, (kind, payload)) in found.iter().zip(&records) {
                let Scanned::Record { kind: found_kind, payload: found_payload, .. } = found else { panic!("{found:?}") };
                prop_assert_eq!((found_kind, *found_payload), (kind, payload.as_slice()));
            }
        }

        #[test]
        fn complete_records_before_a_cut_are_found(records in any_records(), cut in any::<prop::sample::Index>()) {
            let bytes = written(&records);
            let kept = cut.index(bytes.len());
            let found = scan(&bytes[..kept], None);
            let whole = (1..=records.len()).take_while(|n| written(&records[..*n]).len() <= kept).count();
            let torn = kept - written(&records[..whole]).len();
            prop_assert_eq!(found.iter().filter(|it| matches!(it, Scanned::Record { .. })).count(), whole);
            prop_assert_eq!(found.len(), whole + usize::from(torn > 0));
        }
    }
}

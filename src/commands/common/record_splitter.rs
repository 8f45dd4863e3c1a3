//! Splits input into records, pure: bytes go in as they arrive, whole records come out.
//!
//! ```text
//!   buffer: [ rest of the last read | read now ………… | space for the next read ]
//!             └─ record ─┘ delimiter └─ record ─┘ …    └ never empty ┘
//! ```
//!
//! Records are slices of the read buffer. A record longer than allowed is skipped up to its
//! delimiter, and the buffer does not grow for it.

use bytes::{Bytes, BytesMut};
use memchr::memmem::{Finder, find_iter};

/// Size of a read: two fills of a pipe, and one command to the publisher.
const READ_LEN: usize = 128 * 1024;
/// Free space below which a new buffer is started.
const MIN_FREE_SPACE: usize = 16 * 1024;

/// The records cut from the input so far; see [`RecordSplitter::take`].
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SplitRecords {
    /// The records, none of them empty.
    pub(crate) records: Vec<Bytes>,
    /// Number of further records that were empty.
    pub(crate) empty: u64,
    /// Number of further records that were too long.
    pub(crate) too_long: u64,
}

/// The splitter of one input.
#[derive(Debug)]
pub(crate) struct RecordSplitter {
    /// `None`: the whole input is one record.
    delimiter: Option<Bytes>,
    max: usize,
    buffer: BytesMut,
    /// Bytes of `buffer` that hold input.
    filled: usize,
    /// Bytes of the input in which no delimiter begins.
    scanned: usize,
    /// True while the current record is already too long.
    skipping: bool,
}

impl RecordSplitter {
    /// Makes a splitter for records of at most `max` bytes, each ended by `delimiter` or by the end
    /// of the input.
    pub(crate) fn new(delimiter: Option<Bytes>, max: usize) -> Self {
        Self { delimiter, max, buffer: BytesMut::new(), filled: 0, scanned: 0, skipping: false }
    }

    /// Returns the space to read into; never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.buffer.len() - self.filled < MIN_FREE_SPACE {
            // the buffer doubles for a long unfinished record
            let mut buffer = BytesMut::zeroed(READ_LEN.max(2 * self.filled));
            buffer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
            self.buffer = buffer;
        }
        &mut self.buffer[self.filled..]
    }

    /// Notes that `read` bytes were read into [`RecordSplitter::space`]; returns the records that
    /// are complete now.
    pub(crate) fn take(&mut self, read: usize) -> SplitRecords {
        self.filled += read;
        let mut cut = SplitRecords::default();
        if let Some(delimiter) = self.delimiter.clone() {
            self.take_delimited(&delimiter, &mut cut);
        }
        if self.filled > self.max {
            self.skip_record(&mut cut);
        }
        cut
    }

    /// Ends the input: the rest after the last delimiter is a record, too. The splitter is then
    /// ready for the next input.
    pub(crate) fn end(&mut self) -> SplitRecords {
        let mut cut = SplitRecords::default();
        let rest = self.buffer.split_to(self.filled).freeze();
        let nothing = rest.is_empty() && self.delimiter.is_some();
        if !nothing {
            self.add(rest, &mut cut);
        }
        (self.filled, self.scanned, self.skipping) = (0, 0, false);
        cut
    }

    fn take_delimited(&mut self, delimiter: &[u8], cut: &mut SplitRecords) {
        // the first delimiter may begin in the scanned part; later ones cannot
        let Some(first) = Finder::new(delimiter).find(&self.buffer[self.scanned..self.filled]) else {
            self.scanned = (self.filled + 1).saturating_sub(delimiter.len());
            return;
        };
        let first = self.scanned + first;
        let after = first + delimiter.len();
        let ends: Vec<usize> = find_iter(&self.buffer[after..self.filled], delimiter).map(|at| after + at).collect();
        let last = ends.last().copied().unwrap_or(first) + delimiter.len();
        let block = self.buffer.split_to(last).freeze();
        self.filled -= last;
        self.scanned = (self.filled + 1).saturating_sub(delimiter.len());
        let mut start = 0;
        cut.records.reserve(ends.len() + 1);
        for end in std::iter::once(first).chain(ends) {
            self.add(block.slice(start..end), cut);
            start = end + delimiter.len();
        }
    }

    fn add(&mut self, record: Bytes, cut: &mut SplitRecords) {
        if std::mem::take(&mut self.skipping) {
            // counted when it became too long
        } else if record.is_empty() {
            cut.empty += 1;
        } else if record.len() > self.max {
            cut.too_long += 1;
        } else {
            cut.records.push(record);
        }
    }

    /// Discards the current record, except for bytes that may begin a delimiter.
    fn skip_record(&mut self, cut: &mut SplitRecords) {
        let delimiter = self.delimiter.as_ref().map_or(0, Bytes::len);
        // a record that ends in part of a delimiter may still be short enough
        if !self.skipping && self.filled < self.max + delimiter {
            return;
        }
        if !std::mem::replace(&mut self.skipping, true) {
            cut.too_long += 1;
        }
        let keep = delimiter.saturating_sub(1).min(self.filled);
        let _ = self.buffer.split_to(self.filled - keep);
        (self.filled, self.scanned) = (keep, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(delimiter: Option<&str>, max: usize, parts: &[&[u8]]) -> (Vec<String>, u64, u64) {
        let mut records = RecordSplitter::new(delimiter.map(|text| Bytes::copy_from_slice(text.as_bytes())), max);
        let (mut all, mut empty, mut too_long) = (Vec::new(), 0, 0);
        let mut add = |cut: SplitRecords| {
            all.extend(cut.records.iter().map(|record| String::from_utf8_lossy(record).into_owned()));
            empty += cut.empty;
            too_long += cut.too_long;
        };
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let space = records.space();
                let count = rest.len().min(space.len());
                space[..count].copy_from_slice(&rest[..count]);
                add(records.take(count));
                rest = &rest[count..];
            }
        }
        add(records.end());
        (all, empty, too_long)
    }

    #[test]
    fn cuts_the_same_at_every_split_point() {
        #[allow(clippy::type_complexity, reason = "a table, read once")]
        let cases: &[(Option<&str>, usize, &str, (&[&str], u64, u64))] = &[
            (Some("\n"), 10, "one\ntwo\n\nthree", (&["one", "two", "three"], 1, 0)),
            (Some("\n"), 10, "one\n", (&["one"], 0, 0)),
            (Some("\n"), 10, "\n\n", (&[], 2, 0)),
            (Some("\n"), 10, "", (&[], 0, 0)),
            (Some("--"), 10, "a--b---c--", (&["a", "b", "-c"], 0, 0)),
            (Some("aab"), 10, "xaaabyaab", (&["xa", "y"], 0, 0)),
            (Some("\n"), 4, "four\n5five\nok\nsix6six", (&["four", "ok"], 0, 2)),
            (Some("||"), 4, "four||5five||six6|six|||ok", (&["four", "|ok"], 0, 2)),
            (Some("||"), 4, "four|", (&[], 0, 1)),
            (None, 10, "one\ntwo", (&["one\ntwo"], 0, 0)),
            (None, 10, "", (&[], 1, 0)),
            (None, 3, "four", (&[], 0, 1)),
        ];
        for (delimiter, max, input, (records, empty, too_long)) in cases {
            for first in 0..=input.len() {
                for second in first..=input.len() {
                    let input = input.as_bytes();
                    let parts = [&input[..first], &input[first..second], &input[second..]];
                    let got = cut(*delimiter, *max, &parts);
                    let expected = (records.iter().map(|s| (*s).to_owned()).collect(), *empty, *too_long);
                    assert_eq!(got, expected, "{delimiter:?}, at most {max}, {parts:?}");
                }
            }
        }
    }

    #[test]
    fn a_record_may_be_longer_than_a_read() {
        let long = "x".repeat(10 * READ_LEN);
        let got = cut(Some("\n"), usize::MAX - 1, &[b"a\n", long.as_bytes(), b"\nb"]);
        assert_eq!(got, (vec!["a".to_owned(), long, "b".to_owned()], 0, 0));
    }

    #[test]
    fn a_record_that_is_too_long_does_not_grow_the_buffer() {
        let mut records = RecordSplitter::new(Some(Bytes::from_static(b"\n")), 1000);
        let mut too_long = 0;
        for _ in 0..100 {
            let space = records.space();
            assert!(space.len() <= READ_LEN);
            space.fill(b'x');
            let read = space.len();
            too_long += records.take(read).too_long;
        }
        assert_eq!((too_long, records.end()), (1, SplitRecords::default()));
    }

    #[test]
    fn records_are_slices_of_the_read_buffer() {
        let mut records = RecordSplitter::new(Some(Bytes::from_static(b"\n")), 1000);
        records.space()[..8].copy_from_slice(b"one\ntwo\n");
        let start = records.space().as_ptr();
        assert_eq!(records.take(8).records[0].as_ptr(), start);
    }
}

//! A file of nsqd's disk queue: messages one after the other, without a checksum.
//!
//! ```text
//!  length (4) │ timestamp (8) │ attempts (2) │ id (16, hexadecimal) │ body        big-endian; the length is that of the rest
//! ```

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

/// Bytes before a body, without the length.
const HEAD_BYTES: u64 = 8 + 2 + 16;
/// Bytes before a body.
const RECORD_HEAD_BYTES: usize = 4 + HEAD_BYTES as usize;
/// Maximum length of a body: the highest `--max-msg-size` of the broker.
const MAX_BODY_BYTES: u64 = 1 << 30;
/// Bytes that are searched at a time for the next message after damage.
const SEARCHED_BYTES: u64 = 64 << 10;

/// Fields of a stored message besides its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageHead {
    /// The id; nsqd's are unique within their topic.
    pub(super) id: u64,
    /// When it was published, in nanoseconds since 1970.
    pub(super) timestamp: i64,
    /// The number of deliveries.
    pub(super) attempts: u16,
    /// The length of the body.
    pub(super) length: u32,
}

impl MessageHead {
    /// Decodes the bytes before a body; `None` if no message of nsqd begins like that, or if the
    /// body would exceed the `rest` bytes of the file from the first byte on.
    fn decode(bytes: &[u8; RECORD_HEAD_BYTES], rest: u64) -> Option<Self> {
        let length = u64::from(u32::from_be_bytes(bytes[..4].try_into().ok()?));
        let body = length.checked_sub(HEAD_BYTES).filter(|body| *body <= MAX_BODY_BYTES)?;
        let digit = |byte: &u8| match byte {
            b'0'..=b'9' => Some(u64::from(byte - b'0')),
            b'a'..=b'f' => Some(u64::from(byte - b'a' + 10)),
            _ => None,
        };
        let id = bytes[14..].iter().try_fold(0, |id: u64, byte| Some(id << 4 | digit(byte)?))?;
        let timestamp = i64::from_be_bytes(bytes[4..12].try_into().ok()?);
        let attempts = u16::from_be_bytes(bytes[12..14].try_into().ok()?);
        (4 + length <= rest).then_some(Self { id, timestamp, attempts, length: u32::try_from(body).ok()? })
    }
}

/// Part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum QueueEntry {
    /// A message, whose body is read or skipped next.
    Message(MessageHead),
    /// Bytes that are no message.
    Damaged(Range<u64>),
}

/// Reader of a file, from front to back.
#[derive(Debug)]
pub(super) struct QueueFile {
    file: BufReader<File>,
    at: u64,
    end: u64,
}

impl QueueFile {
    /// Opens a file for reading from the position `at`, or from its end if that is before it.
    pub(super) fn open(path: &Path, at: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        let mut file = BufReader::with_capacity(256 << 10, file);
        let at = at.min(end);
        file.seek(SeekFrom::Start(at))?;
        Ok(Self { file, at, end })
    }

    /// The length of the file.
    pub(super) fn length(&self) -> u64 {
        self.end
    }

    /// The next message, or the bytes up to it that are none; `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<QueueEntry>> {
        if self.at >= self.end {
            return Ok(None);
        }
        match self.head_at(self.at)? {
            Some(head) => {
                self.at += RECORD_HEAD_BYTES as u64;
                Ok(Some(QueueEntry::Message(head)))
            }
            None => {
                let begin = self.at;
                self.at = self.search(begin + 1)?;
                self.file.seek(SeekFrom::Start(self.at))?;
                Ok(Some(QueueEntry::Damaged(begin..self.at)))
            }
        }
    }

    /// Reads the body of the message that [`next`](Self::next) returned.
    pub(super) fn body(&mut self, head: &MessageHead) -> io::Result<Bytes> {
        let mut body = Vec::new();
        self.file.by_ref().take(head.length.into()).read_to_end(&mut body)?;
        if body.len() < head.length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += u64::from(head.length);
        Ok(body.into())
    }

    /// Skips the body of the message that [`next`](Self::next) returned.
    pub(super) fn skip_body(&mut self, head: &MessageHead) -> io::Result<()> {
        self.at += u64::from(head.length);
        self.file.seek_relative(head.length.into())
    }

    /// Reads the head of a message at `at`, where the file is.
    fn head_at(&mut self, at: u64) -> io::Result<Option<MessageHead>> {
        let rest = self.end - at;
        if rest < RECORD_HEAD_BYTES as u64 {
            return Ok(None);
        }
        let mut bytes = [0; RECORD_HEAD_BYTES];
        self.file.read_exact(&mut bytes)?;
        Ok(MessageHead::decode(&bytes, rest))
    }

    /// The first position from `from` on where a message begins; the end of the file without one.
    fn search(&mut self, from: u64) -> io::Result<u64> {
        let mut at = from;
        while at + RECORD_HEAD_BYTES as u64 <= self.end {
            self.file.seek(SeekFrom::Start(at))?;
            let mut bytes = Vec::new();
            self.file.by_ref().take(SEARCHED_BYTES).read_to_end(&mut bytes)?;
            let heads = bytes.windows(RECORD_HEAD_BYTES).zip(at..);
            let is_message = |(head, at): (&[u8], u64)| {
                head.try_into().is_ok_and(|head| MessageHead::decode(head, self.end - at).is_some()).then_some(at)
            };
            if let Some(found) = heads.filter_map(is_message).next() {
                return Ok(found);
            }
            let searched = (bytes.len() + 1).saturating_sub(RECORD_HEAD_BYTES);
            if searched == 0 {
                break;
            }
            at += searched as u64;
        }
        Ok(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as nsqd writes it.
    fn message(id: u64, body: &[u8]) -> Vec<u8> {
        let length = HEAD_BYTES as u32 + body.len() as u32;
        let id = format!("{id:016x}");
        [&length.to_be_bytes()[..], &7_i64.to_be_bytes(), &2_u16.to_be_bytes(), id.as_bytes(), body].concat()
    }

    /// Ids with bodies, and where damage begins and ends.
    type Contents = (Vec<(u64, Bytes)>, Vec<(u64, u64)>);

    /// Reads all of a file.
    fn read(bytes: &[u8], from: u64) -> Contents {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let (mut messages, mut damaged) = (Vec::new(), Vec::new());
        let open = || QueueFile::open(file.path(), from).unwrap();
        let (mut reading, mut skipping) = (open(), open());
        while let Some(found) = reading.next().unwrap() {
            assert_eq!(skipping.next().unwrap().as_ref(), Some(&found), "skipping a body is reading it");
            match found {
                QueueEntry::Message(head) => {
                    messages.push((head.id, reading.body(&head).unwrap()));
                    skipping.skip_body(&head).unwrap();
                }
                QueueEntry::Damaged(range) => damaged.push((range.start, range.end)),
            }
        }
        assert_eq!(skipping.next().unwrap(), None);
        (messages, damaged)
    }

    #[test]
    fn messages_are_read_from_a_position_to_the_end() {
        let all = [message(1, b"one"), message(2, b""), message(3, b"\0\xff")].concat();
        let expected = [(1, "one".into()), (2, Bytes::new()), (3, Bytes::from_static(b"\0\xff"))];
        assert_eq!(read(&all, 0), (expected.to_vec(), vec![]));
        assert_eq!(read(&all, 33), (expected[1..].to_vec(), vec![]));
        assert_eq!(read(&all, all.len() as u64), (vec![], vec![]));
        assert_eq!(read(&all, u64::MAX), (vec![], vec![]));
    }

    #[test]
    fn messages_after_damaged_bytes_are_found_again() {
        let (one, two) = (message(1, b"one"), message(2, b"two"));
        let lengths: [u32; 5] = [0, 25, 1 << 20, u32::MAX, i32::MAX as u32];
        for length in lengths {
            let mut damaged = message(9, &[b'x'; 100_000]);
            damaged[..4].copy_from_slice(&length.to_be_bytes());
            let (begin, end) = (one.len() as u64, (one.len() + damaged.len()) as u64);
            let found = read(&[&one[..], &damaged, &two].concat(), 0);
            assert_eq!(found, (vec![(1, "one".into()), (2, "two".into())], vec![(begin, end)]), "{length}");
        }
        let truncated = [&one[..], &two[..two.len() - 1]].concat();
        assert_eq!(read(&truncated, 0), (vec![(1, "one".into())], vec![(33, 65)]));
        assert_eq!(read(&[&one[..], &[0; 200_000]].concat(), 0), (vec![(1, "one".into())], vec![(33, 200_033)]));
    }

    #[test]
    fn random_bytes_are_read_to_the_end_and_every_byte_is_a_messages_or_damaged() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..300 {
            let mut bytes = Vec::new();
            for _ in 0..random.usize(..20) {
                let mut noise = vec![0; random.usize(..200)];
                random.fill(&mut noise);
                bytes.extend(if random.bool() { message(random.u64(..), &noise) } else { noise });
            }
            for _ in 0..random.usize(..5) {
                let at = random.usize(..=bytes.len());
                bytes.get_mut(at).into_iter().for_each(|byte| *byte = random.u8(..));
            }
            bytes.truncate(random.usize(..=bytes.len()));
            let from = random.u64(..=bytes.len() as u64);
            let (messages, damaged) = read(&bytes, from);
            let of_messages: u64 = messages.iter().map(|(_, body)| RECORD_HEAD_BYTES as u64 + body.len() as u64).sum();
            let of_damage: u64 = damaged.iter().map(|(begin, end)| end - begin).sum();
            assert_eq!(of_messages + of_damage, bytes.len() as u64 - from, "SEED={seed}");
        }
    }
}

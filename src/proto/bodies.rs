//! Message bodies that are sent and stored together.

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

/// Size in bytes below which a copy costs less memory than keeping the read buffer alive.
const LARGE: usize = 64 * 1024;

/// One or more bodies in one contiguous buffer.
///
/// ```text
///  one:   │ body │
///  more:  │ size (4) │ body │ size (4) │ body │ …        as MPUB has them
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Bodies {
    bytes: Bytes,
    count: u32,
}

impl Bodies {
    /// Bytes of the size field in front of each body. A single body has none.
    pub const SIZE: usize = 4;

    /// A single body.
    pub fn one(body: Bytes) -> Self {
        Self { bytes: body, count: 1 }
    }

    /// `count` bodies, each behind its size. `None` if the sizes do not add up to exactly these
    /// bytes.
    pub fn from_sized(bytes: Bytes, count: u32) -> Option<Self> {
        let mut end = 0;
        for _ in 0..count {
            end = body_at(&bytes, end)?.end;
        }
        match count {
            _ if end != bytes.len() => None,
            1 => Some(Self::one(bytes.slice(Self::SIZE..))),
            _ => Some(Self { bytes, count }),
        }
    }

    /// The number of bodies.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The length of all bodies in bytes, without their size fields.
    pub fn length(&self) -> usize {
        match self.count {
            1 => self.bytes.len(),
            count => self.bytes.len() - Self::SIZE * count as usize,
        }
    }

    /// The length of all bodies in bytes, each with its size field.
    pub fn sized_length(&self) -> usize {
        self.length() + Self::SIZE * self.count as usize
    }

    /// The buffer: a single body, or several bodies behind their size fields.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Copies small bodies out of the connection's read buffer, which they would keep alive
    /// otherwise.
    #[must_use]
    pub fn compact(self) -> Self {
        match self.bytes.len() {
            ..LARGE => Self { bytes: Bytes::copy_from_slice(&self.bytes), ..self },
            _ => self,
        }
    }

    /// The range of the body that begins at `offset`, which is 0 or the end of another body. With
    /// several bodies, `offset` is where the size field begins.
    pub fn at(&self, offset: usize) -> Range<usize> {
        match self.count {
            1 => 0..self.bytes.len(),
            _ => body_at(&self.bytes, offset).expect("the sizes were checked"),
        }
    }

    /// `count` consecutive bodies that share the buffer. The first one begins at `offset`, see
    /// [`at`](Self::at).
    pub fn part(&self, offset: usize, count: u32) -> Self {
        let (mut end, mut last) = (offset, 0..0);
        for _ in 0..count {
            last = self.at(end);
            end = last.end;
        }
        match count {
            1 => Self::one(self.bytes.slice(last)),
            _ => Self { bytes: self.bytes.slice(offset..end), count },
        }
    }

    /// Splits the bodies into parts of at most `max_bytes` bytes with their sizes, or of one larger
    /// body. Each part has a buffer of its own, so that none keeps the others in memory.
    pub fn split(&self, max_bytes: usize) -> Vec<Self> {
        let (mut parts, mut begin, mut end, mut count) = (Vec::new(), 0, 0, 0);
        let part = |begin, count| {
            let part = self.part(begin, count);
            Self { bytes: Bytes::copy_from_slice(&part.bytes), ..part }
        };
        for _ in 0..self.count {
            let next = self.at(end).end;
            if count > 0 && next - begin > max_bytes {
                parts.push(part(begin, count));
                (begin, count) = (end, 0);
            }
            (end, count) = (next, count + 1);
        }
        parts.push(part(begin, count));
        parts
    }

    /// The bodies one by one; they share the buffer.
    pub fn iter(&self) -> impl Iterator<Item = Bytes> {
        (0..self.count).scan(0, |offset, _| {
            let at = self.at(*offset);
            *offset = at.end;
            Some(self.bytes.slice(at))
        })
    }
}

/// The range of the body whose size field begins at `offset`; `None` if the buffer ends before it
/// does.
fn body_at(bytes: &[u8], offset: usize) -> Option<Range<usize>> {
    let begin = offset + Bodies::SIZE;
    let size = u32::from_be_bytes(bytes.get(offset..begin)?.try_into().ok()?);
    let end = begin.checked_add(size as usize)?;
    (end <= bytes.len()).then_some(begin..end)
}

impl<B: Into<Bytes>> FromIterator<B> for Bodies {
    /// Keeps a single body as it is; copies several into one buffer.
    fn from_iter<I: IntoIterator<Item = B>>(bodies: I) -> Self {
        let mut bodies = bodies.into_iter().map(Into::<Bytes>::into);
        match (bodies.next(), bodies.next()) {
            (None, _) => Self { bytes: Bytes::new(), count: 0 },
            (Some(only), None) => Self::one(only),
            (Some(first), Some(second)) => {
                let all: Vec<Bytes> = [first, second].into_iter().chain(bodies).collect();
                let mut bytes = BytesMut::with_capacity(all.iter().map(|body| Self::SIZE + body.len()).sum());
                for body in &all {
                    bytes.put_u32(u32::try_from(body.len()).expect("a body is far below 4 GiB"));
                    bytes.put_slice(body);
                }
                let count = u32::try_from(all.len()).expect("what is published at once fits in memory");
                Self { bytes: bytes.freeze(), count }
            }
        }
    }
}

impl fmt::Debug for Bodies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_round_trip_through_one_buffer() {
        for all in [&[][..], &["a"], &["a", "bcd"], &["", "b", ""]] {
            let bodies: Bodies = all.iter().copied().collect();
            assert_eq!(bodies.iter().collect::<Vec<_>>(), all);
            assert_eq!(bodies.count() as usize, all.len());
            assert_eq!(bodies.length(), all.concat().len());
            assert_eq!(bodies.sized_length(), all.concat().len() + 4 * all.len());
            assert_eq!(bodies.clone().compact(), bodies);
        }
    }

    #[test]
    fn a_part_holds_consecutive_bodies() {
        let bodies: Bodies = ["a", "bcd", "ef"].into_iter().collect();
        assert_eq!(bodies.part(5, 2), ["bcd", "ef"].into_iter().collect());
        assert_eq!(bodies.part(5, 1), Bodies::one(Bytes::from_static(b"bcd")));
        assert_eq!(bodies.part(0, 3), bodies);
        let one = Bodies::one(Bytes::from_static(b"x"));
        assert_eq!(one.part(0, 1), one);
    }

    #[test]
    fn a_split_keeps_all_bodies_in_their_order() {
        let bodies: Bodies = ["aaaa", "bb", "", "a longer one than the limit", "c", "dddd"].into_iter().collect();
        let split =
            |max_bytes| bodies.split(max_bytes).iter().map(|part| part.iter().collect()).collect::<Vec<Vec<_>>>();
        assert_eq!(split(14), [vec!["aaaa", "bb"], vec![""], vec!["a longer one than the limit"], vec!["c", "dddd"]]);
        assert_eq!(split(0).len(), 6);
        assert_eq!(split(usize::MAX), [bodies.iter().collect::<Vec<_>>()]);
        assert_eq!(Bodies::one("x".into()).split(0), [Bodies::one("x".into())]);
    }

    #[test]
    fn sizes_that_do_not_add_up_are_refused() {
        let sized = |bytes: &'static [u8], count| Bodies::from_sized(Bytes::from_static(bytes), count);
        assert_eq!(sized(b"\0\0\0\x01a", 1), Some(Bodies::one(Bytes::from_static(b"a"))));
        assert_eq!(sized(b"\0\0\0\x01a\0\0\0\x02bc", 2), Some(["a", "bc"].into_iter().collect()));
        for (bytes, count) in [(&b"\0\0\0\x01a"[..], 2), (b"\0\0\0\x01ab", 1), (b"\xff\xff\xff\xffa", 1), (b"\0\0", 1)]
        {
            assert_eq!(sized(bytes, count), None);
        }
    }
}

//! The protocol of Redis (RESP 2), pure: commands are written, replies are read.

use bytes::{Buf, Bytes, BytesMut};

/// The limit on a line of a reply.
const MAX_LINE: usize = 64 << 10;
/// The limit on a string: that of Redis itself.
const MAX_STRING: usize = 512 << 20;
/// The limit on the elements of an array.
const MAX_ELEMENTS: usize = 1 << 20;
/// The limit on arrays in arrays.
const MAX_DEPTH: usize = 4;

/// A reply of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RedisReply {
    /// `+OK`, and the like.
    Status(String),
    /// An error's code and text.
    Error(String),
    Number(i64),
    Text(Bytes),
    Nothing,
    List(Vec<RedisReply>),
}

impl RedisReply {
    /// Returns a number.
    pub(crate) fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// Bytes that are no reply of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no reply of Redis: is the address right, and is TLS (rediss://) on both sides or on neither?")]
pub(crate) struct MalformedReply;

/// Returns the strings of a list; `None` if it is none.
pub(crate) fn texts(reply: RedisReply) -> Option<Vec<Bytes>> {
    let RedisReply::List(list) = reply else { return None };
    let text = |reply| match reply {
        RedisReply::Text(text) => Some(text),
        _ => None,
    };
    list.into_iter().map(text).collect()
}

/// Appends a command to what is written.
pub(crate) fn add_command(parts: &[&[u8]], out: &mut Vec<u8>) {
    add_length(b'*', parts.len(), out);
    for part in parts {
        add_length(b'$', part.len(), out);
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn add_length(kind: u8, length: usize, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Takes a whole reply from the beginning of what was read; `None` if more has to be read. Texts
/// share the memory of `read`.
pub(crate) fn take_reply(read: &mut BytesMut) -> Result<Option<RedisReply>, MalformedReply> {
    let Some(length) = whole_length(read, 0, 0)? else { return Ok(None) };
    let mut whole = read.split_to(length).freeze();
    parse(&mut whole).map(Some)
}

/// The length of the reply that begins at `at`, as its end.
fn whole_length(read: &[u8], at: usize, depth: usize) -> Result<Option<usize>, MalformedReply> {
    let Some((kind, line, mut end)) = line(read, at)? else { return Ok(None) };
    match kind {
        b'+' | b'-' | b':' => {}
        b'$' => {
            if let Some(length) = length(line, MAX_STRING)? {
                end += length + 2;
            }
        }
        b'*' if depth < MAX_DEPTH => {
            for _ in 0..length(line, MAX_ELEMENTS)?.unwrap_or(0) {
                match whole_length(read, end, depth + 1)? {
                    Some(next) => end = next,
                    None => return Ok(None),
                }
            }
        }
        _ => return Err(MalformedReply),
    }
    Ok((end <= read.len()).then_some(end))
}

/// The kind of a line, its text, and where the next begins.
type ReplyLine<'a> = (u8, &'a [u8], usize);

/// Returns the kind and the rest of the line that begins at `at`, and where the next begins.
fn line(read: &[u8], at: usize) -> Result<Option<ReplyLine<'_>>, MalformedReply> {
    let rest = read.get(at..).unwrap_or_default();
    let Some((&kind, rest)) = rest.split_first() else { return Ok(None) };
    match memchr::memchr(b'\n', &rest[..rest.len().min(MAX_LINE)]) {
        Some(end) if end > 0 && rest[end - 1] == b'\r' => Ok(Some((kind, &rest[..end - 1], at + 1 + end + 1))),
        Some(_) => Err(MalformedReply),
        // what is no reply may have no line, either
        None if !b"+-:$*".contains(&kind) || rest.len() >= MAX_LINE => Err(MalformedReply),
        None => Ok(None),
    }
}

/// Reads a length; `None` is -1, for nothing.
fn length(line: &[u8], most: usize) -> Result<Option<usize>, MalformedReply> {
    match number(line)? {
        -1 => Ok(None),
        length => usize::try_from(length).ok().filter(|length| *length <= most).map(Some).ok_or(MalformedReply),
    }
}

fn number(line: &[u8]) -> Result<i64, MalformedReply> {
    str::from_utf8(line).ok().and_then(|line| line.parse().ok()).ok_or(MalformedReply)
}

fn parse(whole: &mut Bytes) -> Result<RedisReply, MalformedReply> {
    let (kind, text, end) = line(whole, 0)?.ok_or(MalformedReply)?;
    let shown = || mqueue::proto::excerpt(text);
    let reply = match kind {
        b'+' => RedisReply::Status(shown()),
        b'-' => RedisReply::Error(shown()),
        b':' => RedisReply::Number(number(text)?),
        b'$' => match length(text, MAX_STRING)? {
            None => RedisReply::Nothing,
            Some(length) => {
                whole.advance(end);
                let string = whole.split_to(length);
                let is_ended = whole.starts_with(b"\r\n");
                whole.advance(2);
                return if is_ended { Ok(RedisReply::Text(string)) } else { Err(MalformedReply) };
            }
        },
        _ => match length(text, MAX_ELEMENTS)? {
            None => RedisReply::Nothing,
            Some(count) => {
                whole.advance(end);
                return (0..count).map(|_| parse(whole)).collect::<Result<_, _>>().map(RedisReply::List);
            }
        },
    };
    whole.advance(end);
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<RedisReply>, MalformedReply> {
        take_reply(&mut BytesMut::from(bytes))
    }

    #[test]
    fn a_command_is_an_array_of_strings() {
        let mut out = Vec::new();
        add_command(&[b"LPUSH", b"a b", b"\r\n\0"], &mut out);
        assert_eq!(out, b"*3\r\n$5\r\nLPUSH\r\n$3\r\na b\r\n$3\r\n\r\n\0\r\n");
    }

    #[test]
    fn replies_are_read_once_they_are_whole() {
        let text = |text: &'static [u8]| RedisReply::Text(Bytes::from_static(text));
        let bytes: &[u8] = b"*6\r\n+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*2\r\n$0\r\n\r\n*-1\r\n";
        let whole = RedisReply::List(vec![
            RedisReply::Status("OK".to_owned()),
            RedisReply::Error("ERR no".to_owned()),
            RedisReply::Number(-7),
            text(b"a\r\n"),
            RedisReply::Nothing,
            RedisReply::List(vec![text(b""), RedisReply::Nothing]),
        ]);
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), Ok(None), "{length} bytes");
        }
        let mut two = BytesMut::from(&[bytes, b"+more\r"].concat()[..]);
        assert_eq!(take_reply(&mut two), Ok(Some(whole)));
        assert_eq!((take_reply(&mut two), &two[..]), (Ok(None), &b"+more\r"[..]));
    }

    #[test]
    fn other_bytes_and_sizes_beyond_the_limits_are_refused() {
        let deep = b"*1\r\n".repeat(9);
        let long = [b"+".to_vec(), vec![b'x'; MAX_LINE + 1]].concat();
        let others: [&[u8]; 12] = [
            b"HTTP/1.1 400 Bad Request\r\n",
            b"\x15\x03\x01",
            b"+OK\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"$536870913\r\n",
            b"*1048577\r\n",
            b":1x\r\n",
            b"$1\r\nabc",
            b"*99999999999999999999\r\n",
            &deep,
            &long,
        ];
        for bytes in others {
            assert_eq!(read(bytes), Err(MalformedReply), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| b"+-:$*\r\n0123456789x"[random.usize(..18)]).collect();
            let _ = read(&bytes);
        }
    }
}

//! Properties that hold for any input bytes, as functions that panic on a violation. They are the
//! bodies of the fuzz targets (`fuzz/`); a short test runs them over mutated encodings.
//!
//! ```text
//!  input: │ n, mod 8 (1) │ n chunk sizes (1 each) │ the bytes that a peer sends │
//! ```
//!
//! - Bytes that arrive in chunks decode to the same values and the same error as the same bytes at
//!   once, also where decoding is resumed.
//! - A decoder that asks for more bytes leaves the buffer unchanged; a decoder that returns a value
//!   consumes bytes.
//! - A value is encoded to bytes that decode to it again.

use std::fmt::Debug;

use bytes::{Buf, BytesMut};

use super::{Command, DecodeProgress, Frame, FrameError, Limits, MessageId, ProtocolError, WriteBuffer};

/// Small limits, so that mutations reach them.
const LIMITS: Limits = Limits { max_msg_size: 300, max_body_size: 1500, max_req_timeout: 3_600_000, max_line: 256 };
const MAX_FRAME: u32 = 1000;

/// Checks [`Command::decode`] and [`Command::encode`]. Panics on a violation.
pub fn commands(input: &[u8]) {
    for command in decode_both_ways(input, |buffer, progress| Command::decode_resumed(buffer, &LIMITS, progress)) {
        if is_sendable(&command) {
            assert_same(&command, &encoded(|out| command.encode(out)), decode_leniently);
        }
    }
}

/// Checks [`Frame::decode`] and [`Frame::encode`]. Panics on a violation.
pub fn frames(input: &[u8]) {
    for frame in decode_both_ways(input, |buffer, _| Frame::decode(buffer, MAX_FRAME)) {
        assert_same(&frame, &encoded(|out| frame.encode(out)), decode_frame);
    }
}

/// Decodes the output of [`Command::encode`] with no limit on an MPUB's content. The outer size of
/// an MPUB may announce less than its content (nsqd never compares them), so the content alone may
/// exceed [`LIMITS`].
pub(super) fn decode_leniently(buffer: &mut BytesMut) -> Result<Option<Command>, ProtocolError> {
    Command::decode(
        buffer,
        &Limits { max_msg_size: i32::MAX as u32, max_body_size: i32::MAX as u32, ..Limits::default() },
    )
}

/// Decodes a frame of any size that the tests make.
pub(super) fn decode_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    Frame::decode(buffer, i32::MAX as u32)
}

/// The bytes that `write` writes.
pub(super) fn encoded(write: impl FnOnce(&mut WriteBuffer)) -> BytesMut {
    let mut out = WriteBuffer::new();
    write(&mut out);
    out.copy_to_bytes(out.remaining()).into()
}

/// Fails unless `bytes` decode to `value` and nothing else.
pub(super) fn assert_same<T: Debug + PartialEq, E: Debug>(
    value: &T,
    bytes: &BytesMut,
    decode: impl Fn(&mut BytesMut) -> Result<Option<T>, E>,
) {
    let mut buffer = bytes.clone();
    let decoded = decode(&mut buffer).expect("what was encoded is no error");
    assert_eq!(decoded.as_ref(), Some(value), "from {}", bytes.escape_ascii());
    assert!(buffer.is_empty(), "{} bytes too many in {}", buffer.len(), bytes.escape_ascii());
}

/// False for an id that ends in a CR, which a decoder strips from the line (`FIN
/// 0123456789abcde\r\r\n`). No nsqd generates such an id.
fn is_sendable(command: &Command) -> bool {
    match command {
        Command::Fin(MessageId(id)) | Command::Touch(MessageId(id)) => !id.ends_with(b"\r"),
        _ => true,
    }
}

/// The values decoded from a stream of bytes, and where decoding ended.
#[derive(Debug, PartialEq)]
struct DecodedStream<T, E> {
    values: Vec<T>,
    error: Option<E>,
    /// The undecoded rest, which waits for more bytes; empty after an error.
    rest: Vec<u8>,
}

fn decode_both_ways<T, E>(
    input: &[u8],
    decode: impl Fn(&mut BytesMut, &mut DecodeProgress) -> Result<Option<T>, E>,
) -> Vec<T>
where
    T: Debug + PartialEq,
    E: Debug + PartialEq,
{
    let Some((n, rest)) = input.split_first() else { return Vec::new() };
    let (sizes, bytes) = rest.split_at(usize::from(n % 8).min(rest.len()));
    let sizes = sizes.iter().map(|size| usize::from(*size).max(1)).chain(sizes.is_empty().then_some(1));
    let at_once = decode_in(&[bytes.len()], bytes, &decode);
    let in_chunks = decode_in(&sizes.collect::<Vec<_>>(), bytes, &decode);
    assert_eq!(in_chunks, at_once, "chunk by chunk (left) and at once (right)");
    at_once.values
}

/// Decodes `bytes` in chunks of `sizes`, used in a cycle.
fn decode_in<T, E>(
    sizes: &[usize],
    mut bytes: &[u8],
    decode: impl Fn(&mut BytesMut, &mut DecodeProgress) -> Result<Option<T>, E>,
) -> DecodedStream<T, E> {
    let mut stream = DecodedStream { values: Vec::new(), error: None, rest: Vec::new() };
    let (mut buffer, mut progress) = (BytesMut::new(), DecodeProgress::default());
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let (chunk, later) = bytes.split_at(sizes.next().map_or(1, |size| (*size).min(bytes.len())));
        buffer.extend_from_slice(chunk);
        bytes = later;
        loop {
            let before = buffer.clone();
            match decode(&mut buffer, &mut progress) {
                Ok(Some(value)) => stream.values.push(value),
                Ok(None) => break assert_eq!(buffer, before, "the buffer is as it was"),
                Err(error) => return DecodedStream { error: Some(error), ..stream },
            }
            assert!(buffer.len() < before.len(), "a value takes bytes");
        }
    }
    DecodedStream { rest: buffer.to_vec(), ..stream }
}

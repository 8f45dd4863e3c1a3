//! What must hold for any bytes at all, as functions that panic where it does not: the bodies of the fuzz targets
//! (`fuzz/`), also run by a short test over mutated encodings.
//!
//! ```text
//!  input: │ n, mod 8 (1) │ n chunk sizes (1 each) │ the bytes that a peer sends │
//! ```
//!
//! - Bytes that come in chunks decode to the same values, and to the same error, as the same bytes at once, also where decoding
//!   goes on where it stopped.
//! - A decoder that asks for more leaves the buffer as it was; one that gives a value takes bytes for it.
//! - A value is encoded to bytes that decode to it again.

use std::fmt::Debug;

use bytes::{Buf, BytesMut};

use super::{Command, Frame, FrameError, Limits, MessageId, Outgoing, ProtocolError, Unfinished};

/// Small, so that mutations reach them.
const LIMITS: Limits = Limits { max_msg_size: 300, max_body_size: 1500, max_req_timeout: 3_600_000, max_line: 256 };
const MAX_FRAME: u32 = 1000;

/// Checks [`Command::decode`] and [`Command::encode`]. Panics on a violation.
pub fn commands(input: &[u8]) {
    for command in decode_both_ways(input, |buffer, unfinished| Command::decode_on(buffer, &LIMITS, unfinished)) {
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

/// Decodes what [`Command::encode`] wrote; the outer size of an MPUB may say less than its content (nsqd never compares
/// them), so that the content alone may be above [`LIMITS`].
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

/// The bytes that `write` puts out.
pub(super) fn encoded(write: impl FnOnce(&mut Outgoing)) -> BytesMut {
    let mut out = Outgoing::new();
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

/// False where a peer made an id of the CR that a decoder strips from a line (`FIN 0123456789abcde\r\r\n`): no nsqd has one.
fn is_sendable(command: &Command) -> bool {
    match command {
        Command::Fin(MessageId(id)) | Command::Touch(MessageId(id)) => !id.ends_with(b"\r"),
        _ => true,
    }
}

/// What a stream of bytes came to.
#[derive(Debug, PartialEq)]
struct Outcome<T, E> {
    values: Vec<T>,
    error: Option<E>,
    /// What waits for more bytes; nothing after an error.
    rest: Vec<u8>,
}

fn decode_both_ways<T, E>(
    input: &[u8],
    decode: impl Fn(&mut BytesMut, &mut Unfinished) -> Result<Option<T>, E>,
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

/// Decodes `bytes` as they come in chunks of `sizes`, over and over.
fn decode_in<T, E>(
    sizes: &[usize],
    mut bytes: &[u8],
    decode: impl Fn(&mut BytesMut, &mut Unfinished) -> Result<Option<T>, E>,
) -> Outcome<T, E> {
    let mut outcome = Outcome { values: Vec::new(), error: None, rest: Vec::new() };
    let (mut buffer, mut unfinished) = (BytesMut::new(), Unfinished::default());
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let (chunk, later) = bytes.split_at(sizes.next().map_or(1, |size| (*size).min(bytes.len())));
        buffer.extend_from_slice(chunk);
        bytes = later;
        loop {
            let before = buffer.clone();
            match decode(&mut buffer, &mut unfinished) {
                Ok(Some(value)) => outcome.values.push(value),
                Ok(None) => break assert_eq!(buffer, before, "the buffer is as it was"),
                Err(error) => return Outcome { error: Some(error), ..outcome },
            }
            assert!(buffer.len() < before.len(), "a value takes bytes");
        }
    }
    Outcome { rest: buffer.to_vec(), ..outcome }
}

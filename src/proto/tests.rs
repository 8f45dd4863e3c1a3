//! Tests of the protocol as a whole. The byte literals and error texts are nsqd 1.3.0's own: bytes
//! that nsqd sent, and nsqd's answers to bytes sent to it.

mod arbitrary;
mod command;
mod frame;
mod mutated;
mod refused;

use std::fmt::Debug;

use bytes::BytesMut;

/// Fails unless every proper prefix of `bytes` asks for more bytes and leaves the buffer unchanged,
/// and the rest then completes `value`.
fn assert_waits<T: Debug + PartialEq, E: Debug>(
    value: &T,
    bytes: &[u8],
    decode: impl Fn(&mut BytesMut) -> Result<Option<T>, E>,
) {
    for split in 0..bytes.len() {
        let mut buffer = BytesMut::from(&bytes[..split]);
        assert_eq!(decode(&mut buffer).unwrap(), None, "after {split} bytes of {}", bytes.escape_ascii());
        assert_eq!(buffer, bytes[..split]);
        buffer.extend_from_slice(&bytes[split..]);
        assert_eq!(decode(&mut buffer).unwrap().as_ref(), Some(value), "split at {split}");
        assert!(buffer.is_empty());
    }
}

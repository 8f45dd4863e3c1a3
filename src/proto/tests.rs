//! Tests of the protocol as a whole. The byte literals and error texts are nsqd 1.3.0's own: what it sent, and what it
//! answered when these bytes were sent to it.

mod arbitrary;
mod command;
mod frame;
mod mutated;
mod refused;

use std::fmt::Debug;

use bytes::BytesMut;

/// Fails unless every proper prefix of `bytes` asks for more and leaves the buffer alone, and the rest then gives `value`.
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

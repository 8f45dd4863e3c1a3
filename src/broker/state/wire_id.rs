//! Message ids in the wire format.

use crate::proto::MessageId;

/// The broker's number in an id, above the 12 bits that count the messages of a millisecond
/// (`nsqd/guid.go`).
pub(in crate::broker) fn node_bits(node_id: u16) -> u64 {
    u64::from(node_id) << 12
}

/// Encodes an id as sixteen hexadecimal digits.
pub(super) fn to_wire(id: u64) -> MessageId {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    MessageId(std::array::from_fn(|at| DIGITS[(id >> (60 - 4 * at)) as usize & 15]))
}

/// Decodes an id that [`to_wire`] wrote; `None` for any other text.
pub(super) fn from_wire(id: &MessageId) -> Option<u64> {
    id.0.iter().try_fold(0, |sum, digit| match digit {
        b'0'..=b'9' => Some(sum << 4 | u64::from(digit - b'0')),
        b'a'..=b'f' => Some(sum << 4 | u64::from(digit - b'a' + 10)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_hexadecimal() {
        for id in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(to_wire(id).to_string(), format!("{id:016x}"));
            assert_eq!(from_wire(&to_wire(id)), Some(id));
        }
        assert_eq!(from_wire(&MessageId(*b"0123456789ABCDEF")), None);
    }
}

//! The header of a segment, pure. It stands there twice: a damaged copy costs nothing.
//!
//! ```text
//!  mark and version (8) │ salt (4) │ length of the name (1) │ stream, padded (64) │ zeros (3) │ crc (4)
//! ```

use bytes::Buf;
use mqueue::proto::TopicName;

/// Bytes of one copy.
pub(super) const SEGMENT_HEADER: usize = 84;
/// Bytes of both.
pub(super) const BOTH_HEADERS: usize = 2 * SEGMENT_HEADER;
/// The first bytes; the last of them is the version.
const SEGMENT_MARK: [u8; 8] = *b"mqueue r";
/// The largest length of a stream's name.
const MAX_NAME: usize = 64;

/// The stream that a segment belongs to, and where its checksums start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordingHeader {
    pub(super) stream: TopicName,
    pub(super) salt: u32,
}

impl RecordingHeader {
    /// Writes both copies.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(BOTH_HEADERS);
        header.extend_from_slice(&SEGMENT_MARK);
        header.extend_from_slice(&self.salt.to_le_bytes());
        let name = self.stream.as_str().as_bytes();
        header.push(u8::try_from(name.len()).expect("at most 64 bytes"));
        header.extend_from_slice(name);
        header.resize(SEGMENT_HEADER - 4, 0);
        let crc = crc32fast::hash(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        header.extend_from_within(..);
        header
    }

    /// Reads the first good copy; `None` if there is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.chunks_exact(SEGMENT_HEADER).take(2).find_map(Self::decode_copy)
    }

    fn decode_copy(copy: &[u8]) -> Option<Self> {
        let (mut fields, mut crc) = copy.split_at(SEGMENT_HEADER - 4);
        if !fields.starts_with(&SEGMENT_MARK) || crc32fast::hash(fields) != crc.get_u32_le() {
            return None;
        }
        fields.advance(SEGMENT_MARK.len());
        let (salt, length) = (fields.get_u32_le(), usize::from(fields.get_u8()));
        let name = fields.get(..length.min(MAX_NAME))?;
        Some(Self { stream: TopicName::new(str::from_utf8(name).ok()?).ok()?, salt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_damaged_copy_costs_nothing_and_two_are_noticed() {
        for name in ["a", &"x".repeat(MAX_NAME), "orders#ephemeral"] {
            let header = RecordingHeader { stream: TopicName::new(name).unwrap(), salt: 0xdead_beef };
            let bytes = header.encode();
            assert_eq!((bytes.len(), RecordingHeader::decode(&bytes)), (BOTH_HEADERS, Some(header.clone())));
            for at in 0..SEGMENT_HEADER {
                let mut damaged = bytes.clone();
                damaged[at] ^= 4;
                assert_eq!(RecordingHeader::decode(&damaged).as_ref(), Some(&header), "byte {at}");
                damaged[at + SEGMENT_HEADER] ^= 4;
                assert_eq!(RecordingHeader::decode(&damaged), None, "byte {at} of both");
            }
        }
    }
}

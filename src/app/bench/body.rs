//! The messages: when each was published, and filling.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of the stamp.
const STAMP: usize = 8;

/// Makes bodies of one size.
#[derive(Debug)]
pub(super) struct Bodies {
    filling: Bytes,
}

impl Bodies {
    /// Of so many bytes, at least those of the stamp.
    pub(super) fn of(size: u32) -> Self {
        let filling = (size as usize).saturating_sub(STAMP);
        Self { filling: vec![b'x'; filling].into() }
    }

    /// Bytes of one.
    pub(super) fn size(&self) -> usize {
        STAMP + self.filling.len()
    }

    /// So many of them, all published at `stamp`: nanoseconds since the run began.
    pub(super) fn batch(&self, count: usize, stamp: u64) -> Vec<Bytes> {
        let mut all = BytesMut::with_capacity(count * self.size());
        for _ in 0..count {
            all.put_u64_le(stamp);
            all.put_slice(&self.filling);
        }
        let mut all = all.freeze();
        (0..count).map(|_| all.split_to(self.size())).collect()
    }
}

/// When a message was published; `None` of what is none of ours.
pub(super) fn stamp(body: &[u8]) -> Option<u64> {
    body.first_chunk::<STAMP>().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_body_of_a_batch_has_the_size_and_the_stamp() {
        for size in [8, 9, 200] {
            let batch = Bodies::of(size).batch(3, 1_234_567_890_123);
            assert_eq!(batch.len(), 3);
            assert!(batch.iter().all(|body| body.len() == size as usize && stamp(body) == Some(1_234_567_890_123)));
        }
        assert_eq!(stamp(b"short"), None);
    }
}

//! Message bodies: a time stamp, then padding.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// The length of the stamp in bytes.
const STAMP_LEN: usize = 8;

/// Makes bodies of one size. The messages of a batch share one body, and bodies are reused, so that
/// the benchmark does not measure allocation.
#[derive(Debug)]
pub(super) struct BodyPool {
    size: usize,
    /// Bodies handed out so far, oldest first.
    used: RefCell<VecDeque<Bytes>>,
}

impl BodyPool {
    /// Makes bodies of `size` bytes, and at least as long as the stamp.
    pub(super) fn of(size: u32) -> Self {
        Self { size: STAMP_LEN.max(size as usize), used: RefCell::default() }
    }

    /// The size of a body in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Returns `count` bodies stamped with `stamp`, the publish time in nanoseconds since the run
    /// began.
    pub(super) fn batch(&self, count: usize, stamp: u64) -> Vec<Bytes> {
        let mut body = self.unused().unwrap_or_else(|| BytesMut::from(&vec![b'x'; self.size][..]));
        body[..STAMP_LEN].copy_from_slice(&stamp.to_le_bytes());
        let body = body.freeze();
        self.used.borrow_mut().push_back(body.clone());
        vec![body; count]
    }

    /// Takes the oldest body, if no message refers to it any more.
    fn unused(&self) -> Option<BytesMut> {
        let mut used = self.used.borrow_mut();
        let oldest = used.pop_front()?;
        oldest.try_into_mut().map_err(|still_used| used.push_front(still_used)).ok()
    }
}

/// Reads the publish time from a body; `None` for a body too short to have one.
pub(super) fn stamp(body: &[u8]) -> Option<u64> {
    body.first_chunk::<STAMP_LEN>().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_body_of_a_batch_has_the_size_and_the_stamp() {
        for size in [8, 9, 200] {
            let batch = BodyPool::of(size).batch(3, 1_234_567_890_123);
            assert_eq!(batch.len(), 3);
            assert!(batch.iter().all(|body| body.len() == size as usize && stamp(body) == Some(1_234_567_890_123)));
        }
        assert_eq!(stamp(b"short"), None);
    }

    #[test]
    fn a_body_is_reused_when_no_message_refers_to_it() {
        let bodies = BodyPool::of(200);
        let at = |batch: &[Bytes]| batch[0].as_ptr();
        let (first, second) = (bodies.batch(2, 1), bodies.batch(2, 2));
        assert_ne!(at(&first), at(&second));
        assert_eq!((stamp(&first[1]), stamp(&second[1])), (Some(1), Some(2)));
        let memory = at(&first);
        drop(first);
        assert_eq!(at(&bodies.batch(1, 3)), memory);
        assert_eq!(stamp(&second[0]), Some(2));
    }
}

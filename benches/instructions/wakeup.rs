//! wakeup's decision for 10,000 groups, of which one in a hundred has messages.

use std::time::Instant;

use mqueue::wake::many_groups::ManyGroups;

use crate::Work;

pub const POLLS: u64 = 20;
const GROUPS: u32 = 10_000;

pub fn decide() -> Work {
    let mut crowd = ManyGroups::of(GROUPS, Instant::now());
    Box::new(move || {
        let wakes: usize = (0..POLLS).map(|_| crowd.poll()).sum();
        // each of the hundred at once, and then less and less often
        assert_eq!(wakes, 500);
    })
}

//! Many groups that sleep, as `benches/instructions` has them decided about.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::decide::{Group, Observed, decide};
use super::memory::Memory;

/// One group in so many has messages.
const WAITING: u32 = 100;

/// Groups, each with a socket, and what was decided about them so far.
#[derive(Debug)]
pub struct Crowd {
    seen: Observed,
    memory: Memory,
    now: Instant,
}

impl Crowd {
    /// So many groups, ten to a stream.
    pub fn of(groups: u32, now: Instant) -> Self {
        let mut seen = Observed::default();
        for n in 0..groups {
            let (stream, group) = (format!("stream-{}", n / 10), format!("group-{n}"));
            seen.sockets.insert(group.clone(), vec![PathBuf::from(format!("/run/mqueue/{group}.sock"))]);
            let depth = u64::from(n.is_multiple_of(WAITING));
            seen.groups.insert((stream, group), Group { depth, ..Group::default() });
        }
        Self { seen, memory: Memory::default(), now }
    }

    /// Decides, a second after the last time; says how many are woken.
    pub fn poll(&mut self) -> usize {
        self.now += Duration::from_secs(1);
        decide(&self.seen, 1000, &mut self.memory, self.now).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_messages_are_woken_and_then_ever_more_rarely() {
        let mut crowd = Crowd::of(1000, Instant::now());
        let wakes: Vec<usize> = (0..8).map(|_| crowd.poll()).collect();
        assert_eq!(wakes, [10, 10, 0, 10, 0, 0, 0, 10]);
    }
}

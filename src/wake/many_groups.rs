//! Many sleeping groups, for the benchmark `benches/instructions`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::decide::{GroupTotals, WakeSnapshot, decide};
use super::poke_history::PokeHistory;

/// One group in this many has messages.
const GROUPS_PER_WAITING: u32 = 100;

/// Groups with a socket each, and the pokes decided so far.
#[derive(Debug)]
pub struct ManyGroups {
    snapshot: WakeSnapshot,
    history: PokeHistory,
    now: Instant,
}

impl ManyGroups {
    /// Creates this many groups, ten to a stream.
    pub fn of(groups: u32, now: Instant) -> Self {
        let mut snapshot = WakeSnapshot::default();
        for n in 0..groups {
            let (stream, group) = (format!("stream-{}", n / 10), format!("group-{n}"));
            snapshot.sockets.insert(group.clone(), vec![PathBuf::from(format!("/run/mqueue/{group}.sock"))]);
            let depth = u64::from(n.is_multiple_of(GROUPS_PER_WAITING));
            snapshot.groups.insert((stream, group), GroupTotals { depth, ..GroupTotals::default() });
        }
        Self { snapshot, history: PokeHistory::default(), now }
    }

    /// Decides one second after the last poll; returns the number of pokes.
    pub fn poll(&mut self) -> usize {
        self.now += Duration::from_secs(1);
        decide(&self.snapshot, 1000, &mut self.history, self.now).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_with_messages_are_poked_with_backoff() {
        let mut crowd = ManyGroups::of(1000, Instant::now());
        let wakes: Vec<usize> = (0..8).map(|_| crowd.poll()).collect();
        assert_eq!(wakes, [10, 10, 0, 10, 0, 0, 0, 10]);
    }
}

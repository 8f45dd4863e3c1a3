//! Processor time and memory of this program and of the broker, while it is measured.

use std::time::Duration;

use super::process::Process;

/// One side: a process, or several that count as one.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) processes: Vec<Process>,
    /// Processor time when the measured time began.
    begun: Option<Duration>,
    /// Processor time when somebody last looked.
    looked: Duration,
    pub(super) spent: Duration,
    /// The most that was seen.
    pub(super) memory: u64,
}

impl Meter {
    pub(super) fn of(processes: Vec<Process>) -> Self {
        let zero = Duration::ZERO;
        Self { processes, begun: None, looked: zero, spent: zero, memory: 0 }
    }

    /// True if nothing is known of this side.
    pub(super) fn is_blind(&self) -> bool {
        self.processes.is_empty()
    }

    /// The measured time begins.
    pub(super) fn begin(&mut self) {
        self.looked = self.processor_time();
        self.begun = Some(self.looked);
        self.look();
    }

    /// Looks at it, and says what processor time it took since the last look; none before it is measured.
    pub(super) fn look(&mut self) -> Duration {
        let Some(begun) = self.begun else { return Duration::ZERO };
        let now = self.processor_time();
        self.spent = now.saturating_sub(begun);
        self.memory = self.memory.max(self.processes.iter().filter_map(Process::memory).sum());
        now.saturating_sub(std::mem::replace(&mut self.looked, now))
    }

    fn processor_time(&self) -> Duration {
        self.processes.iter().filter_map(Process::processor_time).sum()
    }
}

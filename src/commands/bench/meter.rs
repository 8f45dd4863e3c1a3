//! Processor time and memory of this program and of the broker, during the measured time.

use std::time::Duration;

use super::process::Process;

/// The meter of one side: a process, or several counted as one.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) processes: Vec<Process>,
    /// Processor time at the start of the measured time.
    begun: Option<Duration>,
    /// Processor time at the last look.
    looked: Duration,
    pub(super) spent: Duration,
    /// The largest memory use seen.
    pub(super) memory: u64,
}

impl Meter {
    pub(super) fn of(processes: Vec<Process>) -> Self {
        let zero = Duration::ZERO;
        Self { processes, begun: None, looked: zero, spent: zero, memory: 0 }
    }

    /// Returns true if no process of this side is known.
    pub(super) fn is_blind(&self) -> bool {
        self.processes.is_empty()
    }

    /// Starts the measured time.
    pub(super) fn begin(&mut self) {
        self.looked = self.processor_time();
        self.begun = Some(self.looked);
        self.look();
    }

    /// Reads processor time and memory; returns the processor time since the last look, or zero before the measured time.
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

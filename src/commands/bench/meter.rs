//! Processor time and memory of this program and of the broker, during the measured time.

use std::time::Duration;

use super::process::Process;

/// The meter of one side: a process, or several counted as one.
#[derive(Debug)]
pub(super) struct UsageMeter {
    pub(super) processes: Vec<Process>,
    /// Processor time at the start of the measured time.
    begun: Option<Duration>,
    /// Processor time at the last reading.
    last_read: Duration,
    pub(super) spent: Duration,
    /// The largest memory use seen.
    pub(super) memory: u64,
}

impl UsageMeter {
    pub(super) fn of(processes: Vec<Process>) -> Self {
        let zero = Duration::ZERO;
        Self { processes, begun: None, last_read: zero, spent: zero, memory: 0 }
    }

    /// Returns true if no process of this side is known.
    pub(super) fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Starts the measured time.
    pub(super) fn begin(&mut self) {
        self.last_read = self.processor_time();
        self.begun = Some(self.last_read);
        self.read();
    }

    /// Reads processor time and memory; returns the processor time since the last reading, or zero
    /// before the measured time.
    pub(super) fn read(&mut self) -> Duration {
        let Some(begun) = self.begun else { return Duration::ZERO };
        let now = self.processor_time();
        self.spent = now.saturating_sub(begun);
        self.memory = self.memory.max(self.processes.iter().filter_map(Process::memory).sum());
        now.saturating_sub(std::mem::replace(&mut self.last_read, now))
    }

    fn processor_time(&self) -> Duration {
        self.processes.iter().filter_map(Process::processor_time).sum()
    }
}

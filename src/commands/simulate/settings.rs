//! Settings of a simulation: numbers within their ranges.

use std::time::Duration;

use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::simulate::args::Args;

/// Shortest and longest work on a chunk.
pub(super) const WORK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(50));

/// The settings of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(super) struct SimulationSettings {
    pub(super) workers: u32,
    pub(super) streams: u32,
    /// Interval in milliseconds.
    pub(super) interval: u32,
    /// Size in bytes.
    pub(super) chunk_size: u32,
    pub(super) buffer: u32,
    pub(super) seed: u64,
}

/// Name of a number, its value, its range, and its range with `--no-range-check`.
type RangeCheck = (&'static str, u32, (u32, u32), (u32, u32));

impl SimulationSettings {
    /// Reads the settings from the arguments. Fails for a number outside its range, and names the
    /// range.
    pub(super) fn checked(args: &Args) -> Result<Self, Failure> {
        let checks: [RangeCheck; 5] = [
            ("WORKERS_COUNT", args.workers, (10, 200), (1, 100_000)),
            ("STREAMS_COUNT", args.streams, (10, 500), (1, 1_000_000)),
            ("STREAM_INTERVAL", args.interval_ms(), (100, 5000), (1, 3_600_000)),
            ("CHUNK_SIZE", args.chunk_size, (512, 4096), (1, 1_000_000)),
            ("BUFFER_SIZE", args.buffer, (100, 2000), (1, 10_000_000)),
        ];
        for (name, value, usual, possible) in checks {
            let (least, most) = if args.no_range_check { possible } else { usual };
            if !(least..=most).contains(&value) {
                let way = if args.no_range_check { "" } else { " (--no-range-check takes more)" };
                return Err(Failure::new(Exit::Usage, format!("{name} must be {least} to {most}, not {value}{way}")));
            }
        }
        if args.duration.is_some_and(|duration| duration.is_zero()) {
            return Err(Failure::new(Exit::Usage, "--duration must be above 0, not 0"));
        }
        let Args { workers, streams, chunk_size, buffer, .. } = *args;
        let interval = args.interval_ms();
        // 53 bits, which JSON represents exactly
        let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 53));
        Ok(Self { workers, streams, interval, chunk_size, buffer, seed })
    }
}

#[cfg(test)]
impl SimulationSettings {
    /// The defaults.
    pub(super) fn usual() -> Self {
        Self { workers: 50, streams: 100, interval: 1000, chunk_size: 1024, buffer: 500, seed: 1 }
    }
}

//! The plan of a case, made from its seed: its load, the settings of the program under test, and
//! its faults.

use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;

use super::clock::SteppedClock;
use super::layer::{DiskTrouble, PowerCut};

/// The largest step of the wall clock back, in milliseconds: after a restart, deferred messages are
/// late by it.
const LONGEST_STEP_BACK: i64 = 1_500;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FaultKind {
    /// The process is killed; the system lives on.
    Kill,
    /// The process is stopped for a while.
    Stop,
    /// The wall clock is stepped.
    Clock,
    /// The machine loses its power.
    Power(PowerCut),
    /// The disk has a trouble for a while.
    Disk(DiskFault),
    /// The process is killed, and a file of it is damaged.
    Damage(FileDamage),
}

/// A damage of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FileDamage {
    /// One bit of any kind of record.
    BitFlip,
    /// The end of the newest file is missing.
    Truncation,
}

/// A trouble of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DiskFault {
    Full,
    WriteError,
    SyncError,
    ReadError,
    SlowSync,
}

impl FaultKind {
    /// The three kinds of a power cut.
    pub(super) const POWER: [Self; 3] =
        [Self::Power(PowerCut::Unsynced), Self::Power(PowerCut::InOrder), Self::Power(PowerCut::Scattered)];

    /// The kinds of a full disk, of a failing one, and of a slow one.
    pub(super) const FULL: [Self; 1] = [Self::Disk(DiskFault::Full)];
    pub(super) const ERRORS: [Self; 3] =
        [Self::Disk(DiskFault::WriteError), Self::Disk(DiskFault::SyncError), Self::Disk(DiskFault::ReadError)];
    pub(super) const SLOW: [Self; 1] = [Self::Disk(DiskFault::SlowSync)];
    /// The kinds of damage.
    pub(super) const DAMAGE: [Self; 2] = [Self::Damage(FileDamage::BitFlip), Self::Damage(FileDamage::Truncation)];

    /// Returns true for a fault that ends the process.
    pub(super) fn ends_process(self) -> bool {
        matches!(self, Self::Kill | Self::Power(_) | Self::Damage(_))
    }

    /// Returns true for a fault that needs a disk of this process.
    pub(super) fn needs_layer(self) -> bool {
        matches!(self, Self::Power(_) | Self::Disk(_))
    }

    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Stop => "SIGSTOP, SIGCONT",
            Self::Clock => "clock stepped",
            Self::Power(PowerCut::Unsynced) => "power cut, unsynced lost",
            Self::Power(PowerCut::InOrder) => "power cut, torn in order",
            Self::Power(PowerCut::Scattered) => "power cut, scattered",
            Self::Disk(DiskFault::Full) => "disk full (ENOSPC)",
            Self::Disk(DiskFault::WriteError) => "write fails (EIO)",
            Self::Disk(DiskFault::SyncError) => "sync fails (EIO)",
            Self::Disk(DiskFault::ReadError) => "read fails (EIO)",
            Self::Disk(DiskFault::SlowSync) => "sync is slow",
            Self::Damage(FileDamage::BitFlip) => "kill -9, bit flipped",
            Self::Damage(FileDamage::Truncation) => "kill -9, file truncated",
        }
    }
}

/// The plan of a case.
#[derive(Debug)]
pub(super) struct CasePlan {
    pub(super) seed: u64,
    pub(super) phases: Vec<CasePhase>,
    pub(super) load: Load,
    pub(super) settings: TargetSettings,
}

/// A time of undisturbed work, and the fault at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct CasePhase {
    pub(super) work: Duration,
    pub(super) fault: FaultKind,
    /// For how long a process is stopped, or its disk has a trouble.
    pub(super) trouble: Duration,
    /// Time that is added to a slow sync.
    pub(super) slow: Duration,
    /// Bytes left on a full disk.
    pub(super) room: u64,
    /// A step of the wall clock, in milliseconds.
    pub(super) step: i64,
    /// The next fault comes while the trouble lasts.
    pub(super) lasts: bool,
}

impl CasePhase {
    /// The trouble of the disk in this phase.
    pub(super) fn disk_trouble(&self) -> Option<DiskTrouble> {
        let FaultKind::Disk(fault) = self.fault else { return None };
        Some(match fault {
            DiskFault::Full => DiskTrouble::Full { bytes: self.room },
            DiskFault::WriteError => DiskTrouble::WriteError,
            DiskFault::SyncError => DiskTrouble::SyncError,
            DiskFault::ReadError => DiskTrouble::ReadError,
            DiskFault::SlowSync => DiskTrouble::SlowSync(self.slow),
        })
    }
}

/// The load of a case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) publishers: usize,
    /// Most messages published together.
    pub(super) batch: usize,
    /// Longest body in bytes.
    pub(super) size: usize,
    /// Pause of a publisher between two requests, at most.
    pub(super) pause: Duration,
    /// Percent of the requests that are deferred.
    pub(super) deferred: u8,
    /// Longest delay of a deferred or requeued message.
    pub(super) delay: Duration,
    /// Percent of the deliveries that are finished.
    pub(super) finished: u8,
    /// Percent of the deliveries that are requeued; the rest is kept without a reply.
    pub(super) requeued: u8,
    /// Most messages in flight.
    pub(super) in_flight: u32,
}

/// Settings that make a target use all of its code in a short time.
#[derive(Debug, Clone)]
pub(super) struct TargetSettings {
    /// Size of a file in bytes, after which a new one is begun.
    pub(super) file_bytes: u32,
    /// Bytes of bodies in memory.
    pub(super) memory_bytes: u32,
    /// The wall clock of the target; `None` for the system's.
    pub(super) clock: Option<SteppedClock>,
}

impl CasePlan {
    /// Makes the plan of a seed. The last fault ends the process, so that nothing stays in flight.
    pub(super) fn new(seed: u64, faults: &[FaultKind]) -> Self {
        let mut random = Rng::with_seed(seed);
        let load = Load {
            publishers: random.usize(1..=4),
            batch: *random.choice(&[1, 1, 3, 20, 100]).expect("not empty"),
            size: *random.choice(&[60, 200, 200, 2_000, 20_000]).expect("not empty"),
            pause: Duration::from_millis(*random.choice(&[0, 1, 5]).expect("not empty")),
            deferred: *random.choice(&[0, 10, 50]).expect("not empty"),
            delay: Duration::from_millis(*random.choice(&[20, 300]).expect("not empty")),
            finished: *random.choice(&[20, 60, 95]).expect("not empty"),
            requeued: *random.choice(&[0, 5]).expect("not empty"),
            in_flight: *random.choice(&[1, 20, 500]).expect("not empty"),
        };
        let settings = TargetSettings {
            file_bytes: *random.choice(&[64 << 10, 256 << 10, 64 << 20]).expect("not empty"),
            memory_bytes: *random.choice(&[0, 64 << 10, 8 << 20]).expect("not empty"),
            clock: None,
        };
        let phases = random.usize(2..=6);
        let phase = |n: usize, random: &mut Rng| {
            let last: Vec<_> = faults.iter().copied().filter(|fault| fault.ends_process()).collect();
            let of = if n + 1 == phases { &last[..] } else { faults };
            let fault = *random.choice(of).unwrap_or(&FaultKind::Kill);
            let longest = *random.choice(&[20, 100, 300]).expect("not empty");
            let work = random.u64(0..=longest);
            let forward = *random.choice(&[1_000, 60_000, 86_400_000]).expect("not empty");
            CasePhase {
                work: Duration::from_millis(work),
                fault,
                trouble: Duration::from_millis(random.u64(1..=300)),
                slow: Duration::from_millis(random.u64(1..=200)),
                room: random.u64(0..64 << 10),
                lasts: random.bool(),
                step: match random.bool() {
                    true => random.i64(1..=forward),
                    false => -random.i64(1..=LONGEST_STEP_BACK),
                },
            }
        };
        let mut phases: Vec<CasePhase> = (0..phases).map(|n| phase(n, &mut random)).collect();
        // two damages could not be told apart
        let damages = phases.iter_mut().filter(|phase| matches!(phase.fault, FaultKind::Damage(_))).skip(1);
        damages.for_each(|phase| phase.fault = FaultKind::Kill);
        Self { seed, phases, load, settings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_plan_and_its_last_fault_ends_the_process() {
        let faults = [FaultKind::Kill, FaultKind::Stop, FaultKind::POWER[0]];
        for seed in 0..100 {
            let plan = CasePlan::new(seed, &faults);
            assert_eq!(format!("{plan:?}"), format!("{:?}", CasePlan::new(seed, &faults)));
            assert!(plan.phases.last().is_some_and(|phase| phase.fault.ends_process()), "seed {seed}");
        }
    }
}

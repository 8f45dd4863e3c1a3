//! `mqueue prove`.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::broker::args::SyncWhen;
use crate::commands::common::values::{duration, whole};

/// All faults.
const ALL: [&str; 7] = ["kill", "stop", "power", "full", "errors", "slow", "damage"];

/// Cut the power to a broker again and again, and count what it lost
///
/// Numbered messages are published and consumed on a broker that is started for it, on a file
/// system that drops what was not synced when the power is cut. The broker is killed, stopped, and
/// cut off, started again, and read empty. Then each acknowledged message must have arrived, and
/// each finished one must stay away, as far as --sync promises it. Ctrl-C ends the run after the
/// current case and prints the table.
///
/// Exit code: 0; 1 if a promise was broken, or the run is impossible; 130 after a second Ctrl-C.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Program to test
    #[arg(value_enum, value_name = "TARGET", default_value = "broker")]
    pub target: TargetName,

    /// Path of the target's program [default: its name, on PATH]
    #[arg(long, value_name = "PATH")]
    pub program: Option<PathBuf>,

    /// When the target syncs: always (before OK), interval, never; not for nsqd
    #[arg(long, value_name = "WHEN", value_enum, default_value = "always")]
    pub sync: SyncWhen,

    /// Rules to judge by: the promise of this --sync [default: that of --sync itself; nsqd: none]
    #[arg(long, value_name = "WHEN", value_enum)]
    pub judge_as: Option<SyncWhen>,

    /// Time to go on: seconds, or 5m; the current case is ended
    #[arg(long, alias = "seconds", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Number of cases instead of a time; each has its own broker, and 2 to 6 faults
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..), conflicts_with = "duration")]
    pub cases: Option<u64>,

    /// Random seed of the first case; the next ones count up from it. The same seed makes the same
    /// messages and faults; the moments differ, because the programs are real [default: random]
    #[arg(long, env = "MQUEUE_SEED", value_name = "N", value_parser = whole::<u64>(..))]
    pub seed: Option<u64>,

    /// Faults, with commas
    #[arg(long, value_enum, value_name = "FAULT", value_delimiter = ',', default_values = ALL)]
    pub faults: Vec<FaultName>,

    /// When a new or renamed file has its name on the disk: after a sync of its directory (posix),
    /// or after any later sync, as with ext4, XFS and btrfs (journal)
    #[arg(long, value_enum, value_name = "RULE", default_value = "posix")]
    pub directories: RuleName,

    /// Folder for the run's files, on the disk to use [default: the one for temporary files]
    #[arg(long, value_name = "PATH")]
    pub folder: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// The program to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TargetName {
    /// `mqueue broker` of this program
    Broker,
    /// nsqd with its defaults
    Nsqd,
    /// nsqd with --mem-queue-size=0 --sync-every=1
    NsqdDurable,
    /// redis-server: a stream, with the append-only file
    Redis,
    /// beanstalkd with its log
    Beanstalkd,
    /// nats-server: a stream of JetStream, in files
    JetStream,
}

/// A fault, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FaultName {
    /// kill -9
    Kill,
    /// SIGSTOP for up to 300 ms, then SIGCONT
    Stop,
    /// Steps of the wall clock that the target sees, up to a day forward and 1.5 s back; not by
    /// default: needs libfaketime and a target that is no static program
    Clock,
    /// Power cuts of all kinds: nothing unsynced is left; some is, in order; some is, scattered
    Power,
    /// A full disk, for up to 300 ms
    Full,
    /// Writes, syncs or reads that fail with EIO, for up to 300 ms
    Errors,
    /// Syncs that take up to 200 ms longer, for up to 300 ms
    Slow,
    /// A bit of a file flipped, or the end of a file missing; only for the broker
    Damage,
}

impl FaultName {
    /// The word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Clock => "clock",
            Self::Power => "power",
            Self::Full => "full",
            Self::Errors => "errors",
            Self::Slow => "slow",
            Self::Damage => "damage",
        }
    }
}

/// When a name is on the disk, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RuleName {
    /// After a sync of the directory
    Posix,
    /// After any later sync
    Journal,
}

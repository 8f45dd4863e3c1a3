//! A folder on which the power can be cut: a file system of this process (FUSE) that keeps what was
//! synced and drops the rest.
//!
//! ```text
//!  program under test ─▶ kernel ─▶ MountedDisk ─▶ VolatileDisk ─▶ files of a folder
//!                                      │               names: Tree (as seen, as on the disk)
//!  freeze, (kill the program), cut ────┘               contents: VolatileFile
//! ```
//!
//! Not modelled: the disk's own firmware, a disk that says "synced" and lies, and a kernel that
//! writes back by itself (a power cut in order or scattered does, at random).

mod disk;
mod file;
mod mounted;
mod tree;

use std::time::Duration;

pub(super) use self::mounted::{MountError, PowerDisk};

/// The rule by which the name of a file is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DirectoryRule {
    /// After a sync of its directory, as POSIX has it.
    Posix,
    /// After any later sync of a file or directory, as file systems with a journal have it: ext4,
    /// XFS, btrfs.
    Journal,
}

/// The part of the changes that were not synced which a power cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PowerCut {
    /// Nothing.
    Unsynced,
    /// Everything before some moment, and the beginning of the write at that moment.
    InOrder,
    /// Sectors of 512 bytes of any write, and any changes of names, at random.
    Scattered,
}

/// A trouble of the disk, until it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskTrouble {
    /// Reads fail with EIO.
    ReadError,
    /// Writes fail with EIO.
    WriteError,
    /// Syncs fail with EIO, and what they should have covered never gets to the disk.
    SyncError,
    /// Syncs take this much longer.
    SlowSync(Duration),
    /// Nothing is left but these bytes, and space that is freed or was allocated: ENOSPC.
    Full { bytes: u64 },
}

/// Losses of a power cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CutReport {
    /// Bytes that were written and are lost.
    pub(super) bytes: u64,
    /// Changes of directories that are lost.
    pub(super) entries: u64,
}

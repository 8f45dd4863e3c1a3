//! Disk space for writes that must succeed on a full disk: finished and requeued messages,
//! deletions, and relocated messages.
//!
//! Changes first use what is allocated after the end of the newest segment
//! ([`Segment::allocate`](super::segment::Segment::allocate)), which no other program can take. For
//! what exceeds that, an empty preallocated file reserves space. When the disk is full, the file is
//! shortened, and publishing is refused until the file has its full length again; finishing
//! messages frees the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::posix_fallocate;
use tokio::time::Instant;

/// The file's name.
pub(super) const NAME: &str = "reserve";
/// Minimum interval between attempts to lengthen the file, also after it was shortened.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// The file is shortened in steps of at least this fraction of its size.
const STEPS: u64 = 8;

/// The reserve file.
#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    /// The full length, and the current one (`left`).
    size: u64,
    left: u64,
    /// True if space was given since the file last had its full length.
    was_given: bool,
    tried: Option<Instant>,
}

impl Reserve {
    /// Opens the file, and extends it to its full length if the disk has room.
    pub(super) fn open(directory: &Path, size: u64) -> io::Result<Self> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join(NAME))?;
        let left = file.metadata()?.len();
        if left > size {
            file.set_len(size)?;
        }
        let mut reserve = Self { file, size, left: left.min(size), was_given: false, tried: None };
        reserve.restore();
        Ok(reserve)
    }

    /// True if the file has its full length.
    pub(super) fn is_whole(&self) -> bool {
        self.left == self.size
    }

    /// Bytes that the file reserves.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Frees space for `bytes` bytes; false if no space is left in the reserve.
    pub(super) fn give(&mut self, bytes: u64) -> bool {
        let left = self.left.saturating_sub(bytes.max(self.size / STEPS));
        if self.left == 0 || self.file.set_len(left).is_err() {
            return false;
        }
        if self.is_whole() {
            tracing::warn!("the disk is full; publishing is refused until messages are finished or deleted");
        }
        (self.left, self.tried, self.was_given) = (left, Some(Instant::now()), true);
        true
    }

    /// Lengthens the file again as far as the disk has room; true if it has its full length then.
    pub(super) fn restore(&mut self) -> bool {
        if self.is_whole() {
            return true;
        }
        if self.tried.is_some_and(|last| last.elapsed() < RETRY_INTERVAL) {
            return false;
        }
        self.tried = Some(Instant::now());
        while !self.is_whole() {
            let more = self.size.min(self.left + self.size / STEPS + 1);
            if posix_fallocate(&self.file, 0, i64::try_from(more).unwrap_or(i64::MAX)).is_err() {
                // free what was allocated before the failure
                let _ = self.file.set_len(self.left);
                break;
            }
            self.left = more;
        }
        if self.is_whole() && self.was_given {
            self.was_given = false;
            tracing::info!("the disk has room again; publishing works");
        }
        self.is_whole()
    }
}

//! Room on the disk for what must always be written: what becomes of messages, deletions, and messages that are relocated.
//!
//! A file that holds nothing keeps the room. When the disk is full, the file is made shorter, and publishing is refused until it has
//! its length again: what is finished frees the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::posix_fallocate;

/// The file's name.
pub(super) const NAME: &str = "reserve";
/// The file is made longer again at most this often, and this long after it was made shorter.
const RETRY: Duration = Duration::from_millis(50);
/// The file is made shorter by at least this part of it.
const PIECES: u64 = 8;

/// The file.
#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    /// Its length when it is whole, and now.
    size: u64,
    left: u64,
    /// Less than all was left at some time since it was whole.
    was_given: bool,
    tried: Option<Instant>,
}

impl Reserve {
    /// Opens the file, and gives it its length if the disk has room for that.
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

    /// True if nothing was taken from it.
    pub(super) fn is_whole(&self) -> bool {
        self.left == self.size
    }

    /// Bytes that it keeps free.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Frees room for `bytes` bytes, if there is any; false if there is none.
    pub(super) fn give(&mut self, bytes: u64) -> bool {
        let left = self.left.saturating_sub(bytes.max(self.size / PIECES));
        if self.left == 0 || self.file.set_len(left).is_err() {
            return false;
        }
        if self.is_whole() {
            tracing::warn!("the disk is full: publishing is refused until messages are finished or deleted");
        }
        (self.left, self.tried, self.was_given) = (left, Some(Instant::now()), true);
        true
    }

    /// Takes back what was given, as soon as the disk has room; true if it is whole then.
    pub(super) fn restore(&mut self) -> bool {
        if self.is_whole() {
            return true;
        }
        if self.tried.is_some_and(|last| last.elapsed() < RETRY) {
            return false;
        }
        self.tried = Some(Instant::now());
        while !self.is_whole() {
            let more = self.size.min(self.left + self.size / PIECES + 1);
            if posix_fallocate(&self.file, 0, i64::try_from(more).unwrap_or(i64::MAX)).is_err() {
                // what was allocated before it failed goes back
                let _ = self.file.set_len(self.left);
                break;
            }
            self.left = more;
        }
        if self.is_whole() && self.was_given {
            self.was_given = false;
            tracing::info!("the disk has room again: publishing is taken");
        }
        self.is_whole()
    }
}

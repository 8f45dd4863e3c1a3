//! Segments whose sync failed: marked by a file, and written again.
//!
//! After a failed fsync, the operating system may have dropped what the disk should have got, though
//! reads still show it, and a second fsync would succeed without it. So the segment is copied to a new
//! file, which is synced and replaces the old one. Until then, a file `NUMBER.log.unsynced` is there,
//! so that the next start copies it if the broker ends before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::replace::replace;
use super::segment::{file_path, is_full, number_of};
use super::sync::SyncFile;
use crate::io_error::describe;

/// The extension of a mark, instead of `log`.
const MARK: &str = "log.unsynced";
/// Bytes that are copied at a time.
const PIECE: usize = 256 << 10;

fn mark_path(directory: &Path, number: u32) -> PathBuf {
    file_path(directory, number).with_extension(MARK)
}

/// Marks a segment.
pub(super) fn mark(directory: &Path, number: u32) {
    let path = mark_path(directory, number);
    if let Err(error) = OpenOptions::new().create(true).append(true).mode(0o600).open(&path) {
        let path = path.display();
        tracing::warn!(%path, error = %describe(&error), "cannot mark a segment that was not synced; a restart does not write it again");
    }
}

/// Removes the mark of a segment, if there is one.
pub(super) fn unmark(directory: &Path, number: u32) {
    let _ = fs::remove_file(mark_path(directory, number));
}

/// Writes a segment to a new file, which is synced and replaces the old one; the directory is not
/// synced. Does nothing if the segment was removed.
///
/// # Errors
///
/// Fails if the segment cannot be read, or if the new file cannot be written or synced. Nothing has
/// changed then.
pub(super) fn rewrite(directory: &Path, number: u32, sync: &SyncFile) -> io::Result<()> {
    let path = file_path(directory, number);
    let mut old = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    replace(&path, |new| copy(&mut old, new), sync)
}

/// Copies through this process: the kernel's own ways of copying may share what is on the disk, which
/// is not what reads show.
fn copy(from: &mut File, into: &mut File) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => into.write_all(&piece[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes all marked segments again, before the log is read. On a full disk they stay marked.
///
/// # Errors
///
/// Fails if one of them cannot be read, written or synced.
pub(super) fn rewrite_marked(directory: &Path, sync: &SyncFile) -> io::Result<()> {
    let mut rewritten = Vec::new();
    for number in marked(directory)? {
        match rewrite(directory, number, sync) {
            Ok(()) => rewritten.push(number),
            Err(error) if is_full(&error) => {
                let path = file_path(directory, number);
                let path = path.display();
                tracing::warn!(%path, "cannot write a segment again whose sync failed; the disk is full");
            }
            Err(error) => return Err(error),
        }
    }
    if !rewritten.is_empty() {
        sync(&File::open(directory)?)?;
        rewritten.into_iter().for_each(|number| unmark(directory, number));
    }
    Ok(())
}

/// The numbers of the marked segments, in no order.
fn marked(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = PathBuf::from(entry?.file_name());
        let is_mark = name.to_str().is_some_and(|name| name.ends_with(MARK));
        let segment = name.with_extension("");
        numbers.extend(segment.to_str().filter(|_| is_mark).and_then(number_of));
    }
    Ok(numbers)
}

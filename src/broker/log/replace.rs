//! Replacement of a segment's file by a new one with the same name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The extension of a file that is not finished, instead of `log`.
const UNFINISHED: &str = "log.new";

/// Replaces the file at `path` by one that `write` fills and `sync` syncs. The directory is not
/// synced.
///
/// # Errors
///
/// Fails if the new file cannot be written or synced. The old one is still there then, unchanged.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let new = path.with_extension(UNFINISHED);
    let replaced = (|| {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        write(&mut file)?;
        sync(&file)?;
        fs::rename(&new, path)
    })();
    replaced.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// Removes the files that were not finished when the broker ended; the old ones are still there.
pub(super) fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_suffix(UNFINISHED))
            .is_some_and(|name| name.ends_with('.'))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

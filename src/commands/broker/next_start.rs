//! The note that a broker with `--idle-exit` leaves in its data folder, for `mqueue broker
//! arm-timer`: when it has to be started again, though nobody connects.
//!
//! ```text
//!  running                       the process did not end by itself: at boot it is started once
//!  left due=1795803636610        idle; deferred messages are due at this time (ms since 1970)
//!  stopped due=… pending         a signal ended it, with work for the next start
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// The name of the file.
const NAME: &str = "next-start";
/// A note is shorter than this.
const MAX_LENGTH: u64 = 256;

/// The state in which the process ended, or that it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStart {
    /// The broker runs, or was killed.
    Running,
    /// The broker was idle, or was stopped.
    Ended {
        /// True if a signal stopped it.
        by_signal: bool,
        /// The time at which the first deferred message is due, in milliseconds since 1970.
        due: Option<u64>,
        /// True if there was something else to do.
        is_pending: bool,
    },
}

impl NextStart {
    /// Writes the note, synced to the disk.
    ///
    /// # Errors
    /// The folder cannot be written to; an earlier note stays.
    pub(super) fn write(self, folder: &Path) -> io::Result<()> {
        let (path, new) = (folder.join(NAME), folder.join(format!("{NAME}.new")));
        let mut file = File::create(&new)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(folder)?.sync_all()
    }

    /// Reads the note; `None` if there is none. A note of another form, as a crash of the machine
    /// may leave it, is read as [`Running`](Self::Running).
    ///
    /// # Errors
    /// The file cannot be read, or is a symbolic link or no regular file.
    pub(super) fn read(folder: &Path) -> io::Result<Option<Self>> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(folder.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file"));
        }
        let mut text = Vec::new();
        file.take(MAX_LENGTH).read_to_end(&mut text)?;
        Ok(Some(Self::parse(&String::from_utf8_lossy(&text)).unwrap_or(Self::Running)))
    }

    fn text(self) -> String {
        let Self::Ended { by_signal, due, is_pending } = self else { return "running\n".to_owned() };
        let due = due.map_or_else(String::new, |due| format!(" due={due}"));
        let pending = if is_pending { " pending" } else { "" };
        format!("{}{due}{pending}\n", if by_signal { "stopped" } else { "left" })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let by_signal = match words.next()? {
            "left" => false,
            "stopped" => true,
            _ => return None,
        };
        let (mut due, mut is_pending) = (None, false);
        for word in words {
            match word.strip_prefix("due=") {
                Some(millis) => due = Some(millis.parse().ok()?),
                None if word == "pending" => is_pending = true,
                None => return None,
            }
        }
        Some(Self::Ended { by_signal, due, is_pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_a_torn_one_as_running() {
        let folder = tempfile::tempdir().unwrap();
        let read = || NextStart::read(folder.path()).unwrap();
        assert_eq!(read(), None);
        let mut notes = vec![NextStart::Running];
        for (by_signal, is_pending) in [(false, false), (true, false), (true, true)] {
            notes.extend([None, Some(1_795_803_636_610)].map(|due| NextStart::Ended { by_signal, due, is_pending }));
        }
        for note in notes {
            note.write(folder.path()).unwrap();
            assert_eq!(read(), Some(note));
        }
        for torn in ["", "left", "left due=\n", "left due=x\n", "left due=-1\n", "left due=17958", "other\n"] {
            fs::write(folder.path().join(NAME), torn).unwrap();
            assert_eq!(read(), Some(NextStart::Running), "{torn:?}");
        }
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        NextStart::read(folder.path()).unwrap_err();
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        NextStart::read(folder.path()).unwrap_err();
    }
}

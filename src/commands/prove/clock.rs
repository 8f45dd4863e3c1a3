//! A wall clock that is stepped for one program only, by libfaketime.
//!
//! The library is loaded into the program (LD_PRELOAD) and reads the offset from a file. Clocks that
//! count from the start of the machine stay as they are. Programs without a dynamic linker do not
//! load it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// Folders with libraries, besides those of Debian's architectures in /usr/lib.
const FOLDERS: [&str; 3] = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];
/// The library for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// Bytes at the beginning of a program among which the name of its dynamic linker is.
const HEAD_BYTES: u64 = 64 << 10;

/// The library that steps the clock of a program.
#[derive(Debug, Clone)]
pub(super) struct ClockLibrary(PathBuf);

impl ClockLibrary {
    /// Finds the library for this program.
    ///
    /// # Errors
    /// It is not installed, or the program would not load it; described.
    pub(super) fn find(program: &Path) -> Result<Self, String> {
        let of_architectures = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
        let mut folders = FOLDERS.iter().map(PathBuf::from).chain(of_architectures);
        let library = folders.find_map(|folder| Some(folder.join(LIBRARY)).filter(|library| library.is_file()));
        let library = library.ok_or("libfaketime is missing: install it (apt install libfaketime)")?;
        match has_dynamic_linker(program) {
            Ok(true) if is_refused(program, &library) => {
                Err(format!("{} does not work with libfaketime", program.display()))
            }
            Ok(true) => Ok(Self(library)),
            Ok(false) => Err(format!("{} is a static program, whose clock libfaketime cannot step", program.display())),
            Err(error) => Err(format!("cannot read {}: {}", program.display(), mqueue::io_error::describe(&error))),
        }
    }
}

/// Returns true if the library complains in this program, as it does in those with jemalloc.
fn is_refused(program: &Path, library: &Path) -> bool {
    let mut asked = std::process::Command::new(program);
    asked.arg("--version").env("LD_PRELOAD", library).env("FAKETIME", "+0").stdin(Stdio::null());
    asked.output().is_ok_and(|output| memchr::memmem::find(&output.stderr, b"libfaketime: ").is_some())
}

/// Returns true if the program names a dynamic linker, such as `/lib64/ld-linux-x86-64.so.2`.
fn has_dynamic_linker(program: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    fs::File::open(program)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(memchr::memmem::find(&head, b"/ld-").is_some())
}

/// The wall clock of a program.
#[derive(Debug, Clone)]
pub(super) struct SteppedClock {
    library: PathBuf,
    /// The file with the offset.
    file: PathBuf,
}

impl SteppedClock {
    /// A clock that is right at first; its file is in `folder`.
    pub(super) fn new(library: &ClockLibrary, folder: &Path) -> io::Result<Self> {
        let clock = Self { library: library.0.clone(), file: folder.join("clock") };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets the offset from the system's clock, in milliseconds.
    pub(super) fn set(&self, offset: i64) -> io::Result<()> {
        let sign = if offset < 0 { '-' } else { '+' };
        let (seconds, millis) = (offset.unsigned_abs() / 1000, offset.unsigned_abs() % 1000);
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{sign}{seconds}.{millis:03}\n"))?;
        fs::rename(new, &self.file)
    }

    /// Makes a program use the clock.
    pub(super) fn apply(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        // each look at the clock reads the file
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.env("DONT_FAKE_MONOTONIC", "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_dynamic_linker_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("static");
        fs::write(&program, b"\x7fELF").unwrap();
        assert!(!has_dynamic_linker(&program).unwrap());
        fs::write(&program, b"\x7fELF\0\0/lib64/ld-linux-x86-64.so.2\0").unwrap();
        assert!(has_dynamic_linker(&program).unwrap());
    }

    #[test]
    fn the_offset_is_written_in_seconds_with_a_sign() {
        let folder = tempfile::tempdir().unwrap();
        let clock = SteppedClock::new(&ClockLibrary("lib".into()), folder.path()).unwrap();
        for (offset, text) in [(0, "+0.000\n"), (86_400_001, "+86400.001\n"), (-1_500, "-1.500\n"), (-7, "-0.007\n")] {
            clock.set(offset).unwrap();
            assert_eq!(fs::read_to_string(&clock.file).unwrap(), text);
        }
    }
}

//! Standard output for reports, lists and plans: a command's progress and its result.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::exit::{Exit, Failure};
use mqueue::io_error::describe;

/// True if the program was started without a standard output (`>&-`).
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Remembers that the program was started without a standard output. Only code that runs before
/// `main` can tell: std then puts /dev/null in the place of a closed descriptor.
pub(crate) fn was_closed_at_start() {
    CLOSED.store(true, Ordering::Relaxed);
}

/// Fails if there is no standard output. A command for which a printed message counts as done, and
/// leaves the queue, calls it before its first message.
///
/// # Errors
/// Fails with a line that says what to do.
pub(crate) fn check() -> Result<(), Failure> {
    let line = "standard output is closed, and what is printed would be lost: send it to a file, a pipe or /dev/null";
    if CLOSED.load(Ordering::Relaxed) { Err(Failure::new(Exit::Usage, line)) } else { Ok(()) }
}

/// Prints the text and flushes it. A closed pipe (`… | head`) is no error.
///
/// # Errors
/// Fails with the reason why standard output cannot be written to, such as a full disk.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    ended(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes bytes and flushes them; blocks as long as the reader does.
///
/// # Errors
/// Fails if the system takes no more; see [`ended`].
pub(crate) fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match CLOSED.load(Ordering::Relaxed) {
        true => Err(io::Error::from_raw_os_error(nix::errno::Errno::EBADF as i32)),
        false => out.write_all(bytes).and_then(|()| out.flush()),
    }
}

/// Returns true if standard output is a pipe or a socket whose reader is gone.
pub(crate) fn reader_is_gone() -> bool {
    let stdout = io::stdout();
    let mut asked = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    matches!(poll(&mut asked, PollTimeout::ZERO), Ok(1..)) && asked[0].revents().is_some_and(|is| is.intersects(gone))
}

/// Returns true for the error of a pipe whose reader is gone, as in `… | head`: no failure of the
/// command.
pub(crate) fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Converts the result of a write to standard output into the command's result; a closed pipe is
/// success.
///
/// # Errors
/// Fails like [`print()`].
pub(crate) fn ended(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if !is_closed_pipe(&error) => {
            Err(Failure::new(Exit::Failure, format!("cannot write to standard output: {}", describe(&error))))
        }
        Ok(()) if CLOSED.load(Ordering::Relaxed) => Err(Failure::new(
            Exit::Failure,
            "standard output is closed, and what was printed is lost: send it to a file, a pipe or /dev/null",
        )),
        _ => Ok(()),
    }
}

/// Writer of a command's progress to standard output, until a write fails.
#[derive(Debug, Default)]
pub(crate) struct ProgressOutput {
    /// The error that ended the output: a closed pipe, or a full disk.
    closed: RefCell<Option<io::Error>>,
}

impl ProgressOutput {
    /// Writes the text and flushes it.
    pub(crate) fn write(&self, text: &str) {
        if let Err(error) = write(text.as_bytes()) {
            self.closed.replace(Some(error));
        }
    }

    /// Returns true if a write has failed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    /// Returns the result of the output; a closed pipe is success.
    ///
    /// # Errors
    /// Fails like [`print()`].
    pub(crate) fn end(&self) -> Result<(), Failure> {
        self.closed.take().map_or(Ok(()), |error| ended(Err(error)))
    }
}

/// Returns true for a terminal whose user has not asked for plain text (no-color.org,
/// bixense.com/clicolors).
pub(crate) fn wants_colours(is_terminal: bool) -> bool {
    may_be_coloured(is_terminal, |name| std::env::var_os(name))
}

fn may_be_coloured(is_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is = |name, value: &str| variable(name).is_some_and(|is| is == value);
    let no_color = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_terminal && !no_color && !is("CLICOLOR", "0") && !is("TERM", "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_user_wants_them() {
        let wants = |terminal, set: &[(&str, &str)]| {
            may_be_coloured(terminal, |name| {
                set.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
            })
        };
        assert!(wants(true, &[]));
        assert!(wants(true, &[("TERM", "xterm"), ("NO_COLOR", ""), ("CLICOLOR", "1")]));
        assert!(!wants(false, &[]));
        for off in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
            assert!(!wants(true, &[off]), "{off:?}");
        }
    }
}

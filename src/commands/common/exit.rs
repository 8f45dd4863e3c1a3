//! How a command ends, as the shell sees it.

use std::process::ExitCode;

use mqueue::worker::{Ended, Tally};

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All was done.
    Success = 0,
    /// Something was not done: stderr says what.
    Failure = 1,
    /// The arguments do not make sense (clap's own code, too).
    Usage = 2,
    /// `doctor` has a warning, and nothing worse.
    Warnings = 3,
    /// `doctor` has found something broken.
    Errors = 4,
    /// Nothing was done, and something failed: a run in which every message failed.
    NothingDone = 5,
    /// No broker can be had (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// Ended by a second signal, with work given back.
    Interrupted = 130,
}

impl Exit {
    /// The code of a run that came to its end and took messages: whoever looks at nothing else learns that none of them was done.
    /// One that was done makes a success of the run: the others have been retried or are dead letters, as it was asked for.
    pub(crate) fn of_work(done: u64, failed: u64) -> Self {
        if done == 0 && failed > 0 { Self::NothingDone } else { Self::Success }
    }

    /// The code of a worker that ended so.
    ///
    /// # Errors
    /// Fails if no nsqd could be reached.
    pub(crate) fn of_worker(ended: Ended, tally: &Tally) -> Result<Self, Failure> {
        match ended {
            Ended::Idle | Ended::Counted | Ended::Drained => Ok(Self::of_work(tally.done, tally.retried + tally.dead)),
            Ended::Now => Ok(Self::Interrupted),
            Ended::Unreachable => {
                Err(Failure::new(Self::Unavailable, "gave up: no nsqd could be reached for the whole timeout"))
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that could not do its work: one line for people, and the code.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub(crate) struct Failure {
    /// What happened, and what to do.
    pub line: String,
    /// How the program ends.
    pub exit: Exit,
}

impl Failure {
    /// A failure with this line and code.
    pub(crate) fn new(exit: Exit, line: impl ToString) -> Self {
        Self { line: line.to_string(), exit }
    }

    /// No broker can be had. Says how to get one on this machine.
    pub(crate) fn unavailable(error: &mqueue::client::Error) -> Self {
        use mqueue::client::Error;
        let hint = match error {
            Error::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
                " (is nsqd running? `make up` starts one)"
            }
            Error::Closed { .. } | Error::Silent { .. } => " (is this nsqd's TCP port, 4150 by default?)",
            _ => "",
        };
        Self::new(Exit::Unavailable, format!("{error}{hint}"))
    }
}

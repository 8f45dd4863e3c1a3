//! Exit codes of the commands.

use std::process::ExitCode;

use mqueue::io_error::without_numbers;
use mqueue::worker::{StopReason, WorkerStats};

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Success = 0,
    /// Something was not done: stderr says what.
    Failure = 1,
    /// The arguments do not make sense (also clap's own code).
    Usage = 2,
    /// `doctor` found warnings, and nothing worse.
    Warnings = 3,
    /// `doctor` found errors.
    Errors = 4,
    /// Nothing was done, and something failed: a run in which every message failed.
    NothingDone = 5,
    /// No broker is available (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// Ended by a second signal; unfinished work was requeued or given up.
    Interrupted = 130,
}

impl Exit {
    /// All codes, in their order.
    pub(crate) const ALL: [Self; 8] = [
        Self::Success,
        Self::Failure,
        Self::Usage,
        Self::Warnings,
        Self::Errors,
        Self::NothingDone,
        Self::Unavailable,
        Self::Interrupted,
    ];

    /// Returns the meaning of a code, for the manual.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Success => "Everything was done.",
            Self::Failure => "Something was not done: stderr says what.",
            Self::Usage => "The arguments, a variable or a file of settings do not make sense.",
            Self::Warnings => "`doctor` found warnings, and nothing worse.",
            Self::Errors => "`doctor` found errors.",
            Self::NothingDone => "Nothing was done, and something failed: a run in which every message failed.",
            Self::Unavailable => "No broker is available, or the program could not reach any for its whole timeout.",
            Self::Interrupted => "Ended by a second signal; unfinished work was requeued or given up.",
        }
    }

    /// Returns the code of a run that ended by itself: `NothingDone` if messages failed and none
    /// was done, so that a script that checks only the code notices. With one message done the run
    /// is a success: the others were retried or are dead letters, as requested.
    pub(crate) fn of_work(done: u64, failed: u64) -> Self {
        if done == 0 && failed > 0 { Self::NothingDone } else { Self::Success }
    }

    /// Returns the code of a worker that ended for the reason `ended`.
    ///
    /// # Errors
    /// Fails if no nsqd could be reached.
    pub(crate) fn of_worker(ended: StopReason, tally: &WorkerStats) -> Result<Self, Failure> {
        match ended {
            StopReason::Idle | StopReason::Counted | StopReason::Drained => {
                Ok(Self::of_work(tally.done, tally.retried + tally.dead))
            }
            StopReason::Aborted => Ok(Self::Interrupted),
            StopReason::Unreachable => {
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

/// Failure of a command: one line for people, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub(crate) struct Failure {
    /// Description of the failure, and what to do.
    pub line: String,
    /// Exit code of the program.
    pub exit: Exit,
}

impl Failure {
    /// Makes a failure with this line and code.
    pub(crate) fn new(exit: Exit, line: impl ToString) -> Self {
        Self { line: without_numbers(&line.to_string()), exit }
    }

    /// Makes the failure for an unreachable broker, with a hint how to get one on this machine.
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

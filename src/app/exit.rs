//! How a command ends, as the shell sees it.

use std::process::ExitCode;

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
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
    /// No broker can be had (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// Ended by a second signal, with work given back.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that could not do its work: one line for people, and the code.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub struct Failure {
    /// What happened, and what to do.
    pub line: String,
    /// How the program ends.
    pub exit: Exit,
}

impl Failure {
    /// A failure with this line and code.
    pub fn new(exit: Exit, line: impl ToString) -> Self {
        Self { line: line.to_string(), exit }
    }

    /// No broker can be had. Says how to get one on this machine.
    pub fn unavailable(error: &crate::client::Error) -> Self {
        use crate::client::Error;
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

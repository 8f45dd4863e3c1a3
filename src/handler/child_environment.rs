//! The environment of commands: the user's own, without variables meant for this process alone.

use std::ffi::{OsStr, OsString};

/// Variables that a command never inherits. Each may hold a password or a token of this program (a
/// URL as in `http://user:password@host`, the path of a token), or lets the command talk to systemd
/// as this process.
///
/// A new variable of the program that may hold a secret belongs in this list.
const WITHHELD: &[&str] = &[
    "MQUEUE_BEARER_TOKEN_FILE",
    "MQUEUE_HANDLER",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MQUEUE_ENDS_WITH_PARENT",
    "NOTIFY_SOCKET",
    "MQUEUE_QUEUE",
    "MQUEUE_TO",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Returns the withheld variables among these.
pub(super) fn withheld(set: impl Iterator<Item = (OsString, OsString)>) -> Vec<OsString> {
    set.map(|(name, _)| name).filter(|name| WITHHELD.iter().any(|withheld| name == OsStr::new(withheld))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_of_mqueue_and_systemd_are_withheld() {
        let set =
            ["PATH", "MQUEUE_QUEUE", "QUEUE_URL", "STREAM", "NOTIFY_SOCKET"].map(|name| (name.into(), "x".into()));
        assert_eq!(withheld(set.into_iter()), ["MQUEUE_QUEUE", "NOTIFY_SOCKET"]);
    }
}

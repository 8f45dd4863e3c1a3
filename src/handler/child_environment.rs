//! The environment of commands: the user's own, without what is meant for this process alone.

use std::ffi::{OsStr, OsString};

/// Variables that a command never inherits. Each either may hold a password or a token of this program (a URL as in
/// `http://user:password@host`, the path of a token), or speaks to systemd in this process's name.
///
/// A variable that is added to the program and may hold a secret belongs in this list.
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

/// Those of the withheld variables that are among these.
pub(super) fn withheld(set: impl Iterator<Item = (OsString, OsString)>) -> Vec<OsString> {
    set.map(|(name, _)| name).filter(|name| WITHHELD.iter().any(|withheld| name == OsStr::new(withheld))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_variables_are_not_withheld() {
        let set =
            ["PATH", "MQUEUE_QUEUE", "QUEUE", "TO", "STREAM", "NOTIFY_SOCKET"].map(|name| (name.into(), "x".into()));
        assert_eq!(withheld(set.into_iter()), ["MQUEUE_QUEUE", "NOTIFY_SOCKET"]);
    }
}

//! How many connections the limit of open files allows: some files are kept for the log, whatever clients do.

use nix::sys::resource::{Resource, getrlimit};

use crate::http::ConnectionSlots;

/// Files kept for the log (its segments, those being read and removed), nsqlookupds, `/proc`, and connections that are being refused.
const KEPT: usize = 96;
/// HTTP requests at once, at most.
const REQUESTS: usize = 1024;
/// Below so many files there would be too few connections to be of use.
const LEAST: usize = 32;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Of the HTTP API: requests at once. There are [`ConnectionSlots::reserve`] more connections.
    pub(super) http: usize,
    /// Of NSQ's TCP protocol.
    pub(super) tcp: usize,
}

impl Room {
    /// By this process' limit of open files, and by those that are open.
    pub(super) fn of_this_process() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let room = Self::within(usize::try_from(limit).unwrap_or(usize::MAX), open);
        tracing::debug!("files: {limit} allowed, {open} open, {KEPT} kept for the log: {room:?}");
        room
    }

    fn within(limit: usize, open: usize) -> Self {
        let free = limit.saturating_sub(open + KEPT).max(LEAST);
        let http = REQUESTS.min(free / 4);
        Self { http, tcp: free - http - ConnectionSlots::reserve(http) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_for_the_log() {
        for limit in [256, 1024, 4096, 1 << 20] {
            let room = Room::within(limit, 20);
            assert_eq!(room.http + ConnectionSlots::reserve(room.http) + room.tcp + KEPT + 20, limit);
            assert!(room.tcp > room.http);
        }
        assert_eq!(Room::within(64, 20), Room::within(LEAST, 0), "a few, come what may");
    }
}

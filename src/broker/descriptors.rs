//! Maximum connections by the limit of open files; some files are reserved for the log.

use nix::sys::resource::{Resource, getrlimit};

use crate::http::ConnectionSlots;

/// Files reserved for the log (segments open, read and removed), nsqlookupds, `/proc`, and
/// connections that are being refused.
const RESERVED_FILES: usize = 96;
/// Maximum concurrent HTTP requests.
const MAX_REQUESTS: usize = 1024;
/// Minimum files for connections; with fewer, the broker would be of no use.
const MIN_CONNECTIONS: usize = 32;

/// Maximum connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MaxConnections {
    /// Of the HTTP API: requests at once. There are [`ConnectionSlots::reserve`] more connections.
    pub(super) http: usize,
    /// Connections of NSQ's TCP protocol.
    pub(super) tcp: usize,
}

impl MaxConnections {
    /// Computed from this process's limit of open files, and the files that are open.
    pub(super) fn of_this_process() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let room = Self::within(usize::try_from(limit).unwrap_or(usize::MAX), open);
        tracing::debug!(limit, open, reserved = RESERVED_FILES, ?room, "limit of open files");
        room
    }

    fn within(limit: usize, open: usize) -> Self {
        let free = limit.saturating_sub(open + RESERVED_FILES).max(MIN_CONNECTIONS);
        let http = MAX_REQUESTS.min(free / 4);
        Self { http, tcp: free - http - ConnectionSlots::reserve(http) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_reserved_for_the_log() {
        for limit in [256, 1024, 4096, 1 << 20] {
            let room = MaxConnections::within(limit, 20);
            assert_eq!(room.http + ConnectionSlots::reserve(room.http) + room.tcp + RESERVED_FILES + 20, limit);
            assert!(room.tcp > room.http);
        }
        assert_eq!(
            MaxConnections::within(64, 20),
            MaxConnections::within(MIN_CONNECTIONS, 0),
            "a minimum is always allowed"
        );
    }
}

//! The limit on open files. A shell's soft limit is low for many connections; the hard limit is
//! higher.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use mqueue::io_error::describe;

/// Raises this process's soft limit on open files to the hard limit. Child processes inherit it.
pub(crate) fn raise_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("cannot raise the limit on open files, it stays as it is: {}", describe(&error.into()));
    }
}

/// The limit on open files, and how many more may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    pub(crate) limit: usize,
    pub(crate) free: usize,
}

impl OpenFiles {
    /// Reads the current values of this process.
    pub(crate) fn of_this_process() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self { limit, free: limit.saturating_sub(open) }
    }
}

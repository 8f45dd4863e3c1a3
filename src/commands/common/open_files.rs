//! Room for many connections: the limit of open files that a shell gives is low, and the system allows more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises this process' limit of open files as far as it may. What it starts inherits it.
pub(crate) fn raise_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

/// Files that this process may open, and how many it may open still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) limit: usize,
    pub(crate) free: usize,
}

impl Files {
    /// Those of this process, now.
    pub(crate) fn of_this_process() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self { limit, free: limit.saturating_sub(open) }
    }
}

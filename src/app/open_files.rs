//! Room for many connections: the limit of open files that a shell gives is low, and the system allows more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises this process' limit of open files as far as it may. What it starts inherits it.
pub(in crate::app) fn raise_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

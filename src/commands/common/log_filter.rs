//! The filter of log lines, which can be changed while the program runs.

use std::sync::OnceLock;

use tracing_subscriber::reload::{Handle, Layer};
use tracing_subscriber::{EnvFilter, Registry};

static HANDLE: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Makes the layer that filters log lines.
pub(crate) fn layer(filter: EnvFilter) -> Layer<EnvFilter, Registry> {
    let (layer, handle) = Layer::new(filter);
    // a second layer, if there were one, could not be changed
    let _ = HANDLE.set(handle);
    layer
}

/// Replaces the filter, from the next line on.
pub(crate) fn replace(filter: EnvFilter) {
    if let Some(Err(error)) = HANDLE.get().map(|handle| handle.reload(filter)) {
        tracing::warn!(%error, "the log filter was not changed");
    }
}

//! `--log-level`, and changes of the level over HTTP: nsqd's levels on the program's log filter.

use mqueue::broker::LogLevel;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::commands::common::log_filter;

/// Applies each change of the level (`PUT /config/log_level`), in place of `--log`; ends with the
/// broker.
pub(super) async fn follow(mut level: watch::Receiver<LogLevel>) {
    while level.changed().await.is_ok() {
        log_filter::replace(EnvFilter::new(filter(*level.borrow_and_update())));
    }
}

/// Returns the log filter for a level of nsqd. The reason why the program ends is printed at every
/// level, so `fatal` silences everything else.
pub(super) fn filter(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Fatal => "off",
    }
}

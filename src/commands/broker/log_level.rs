//! `--log-level`: nsqd's levels on the program's log filter.

use mqueue::broker::LogLevel;

/// Returns the log filter for a level of nsqd. The reason why the program ends is printed at every level, so `fatal`
/// silences everything else.
pub(super) fn filter(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Fatal => "off",
    }
}

//! Notifications to systemd while a command runs: its status, the watchdog, and more time to stop.

use std::time::Duration;

use mqueue::systemd::Notifier;

/// Longest interval between two notifications.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Time that each EXTEND_TIMEOUT_USEC of a stopping service asks for.
const STOP_EXTENSION: Duration = Duration::from_secs(10);

/// Returns the interval of [`notify`]: at least three notifications within systemd's watchdog
/// timeout.
pub(crate) fn notify_interval() -> Duration {
    Notifier.watchdog_interval().map_or(STATUS_INTERVAL, |within| STATUS_INTERVAL.min(within / 3))
}

/// Sends the line for `systemctl status` and the watchdog's keep-alive; asks for more time while
/// the service is stopping.
pub(crate) fn notify(status: &str, stopping: bool) {
    Notifier.status(status);
    Notifier.watchdog();
    if stopping {
        Notifier.extend_timeout(STOP_EXTENSION);
    }
}

//! The consumer as a systemd service: started by its activation socket, with status and watchdog
//! notifications.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::commands::common::service::{notify, notify_interval};
use mqueue::io_error::describe;
use mqueue::plural::count;
use mqueue::systemd::{ActivationSockets, Notifier};
use mqueue::worker::{ProgressHook, Snapshot};

/// The activation sockets, if any, and the notifier.
#[derive(Debug)]
pub(super) struct ConsumerService {
    door: Option<ActivationSockets>,
    pub(super) notifier: Notifier,
}

impl ConsumerService {
    /// Takes the activation sockets, then at once every pending poke: an unread poke would make
    /// systemd start the unit again and again.
    pub(super) fn start() -> io::Result<Self> {
        let service = Self { door: ActivationSockets::from_env()?, notifier: Notifier };
        service.take_pokes();
        Ok(service)
    }

    /// Takes the pending pokes; returns their number.
    pub(super) fn take_pokes(&self) -> usize {
        match &self.door {
            Some(door) => door.take_pokes().unwrap_or_else(|e| {
                tracing::warn!("cannot take a poke: {}", describe(&e));
                0
            }),
            None => 0,
        }
    }

    /// Notifies `nudge` of every poke; never returns.
    pub(super) async fn pass_pokes_on(&self, nudge: Arc<Notify>) {
        while let Some(door) = &self.door {
            match door.wait_for_pokes().await {
                Ok(_) => nudge.notify_one(),
                Err(e) => {
                    tracing::warn!("cannot take pokes any more: {}", describe(&e));
                    break;
                }
            }
        }
        std::future::pending().await
    }

    /// Returns the worker's pulse and its interval; `None` without a notify socket.
    pub(super) fn pulse(&self) -> Option<(Duration, ProgressHook)> {
        std::env::var_os("NOTIFY_SOCKET")?;
        let pulse = |snapshot: Snapshot| notify(&status(snapshot), snapshot.stopping);
        Some((notify_interval(), Box::new(pulse)))
    }
}

/// Formats the line for `systemctl status`.
fn status(snapshot: Snapshot) -> String {
    let Snapshot { in_flight, stats, idle_in, stopping } = snapshot;
    let mut line = format!("{in_flight} in flight, {} done", stats.done);
    if stats.dead > 0 {
        line += &format!(", {}", count(stats.dead, "dead letter"));
    }
    match idle_in {
        _ if stopping => line += ", stopping",
        Some(left) if in_flight == 0 => line += &format!(", idle in {} s", left.as_secs_f64().ceil()),
        Some(_) | None => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqueue::worker::WorkerStats;

    #[test]
    fn the_status_shows_counts_idle_time_and_stopping() {
        let stats = WorkerStats { done: 120, ..WorkerStats::default() };
        let busy = Snapshot { in_flight: 3, stats, idle_in: Some(Duration::from_secs(30)), stopping: false };
        assert_eq!(status(busy), "3 in flight, 120 done");
        let idle = Snapshot { in_flight: 0, idle_in: Some(Duration::from_millis(26_100)), ..busy };
        assert_eq!(status(idle), "0 in flight, 120 done, idle in 27 s");
        assert_eq!(status(Snapshot { stopping: true, ..busy }), "3 in flight, 120 done, stopping");
    }
}

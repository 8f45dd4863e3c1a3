//! A timer exact to some 60 µs, from a sleeping thread. tokio's timers have a resolution of whole
//! milliseconds, which is longer than a publish takes.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Part of the wait left to the thread; tokio's timer waits before it.
const THREAD_WAIT: Duration = Duration::from_millis(3);

/// A timer thread, which ends when its owner is dropped.
#[derive(Debug)]
pub(crate) struct PreciseTimer(mpsc::Sender<(Instant, oneshot::Sender<()>)>);

impl PreciseTimer {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (requests, queue) = mpsc::channel::<(Instant, oneshot::Sender<()>)>();
        std::thread::Builder::new().name("alarm".to_owned()).spawn(move || {
            for (due, wake) in queue {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let _ = wake.send(());
            }
        })?;
        Ok(Self(requests))
    }

    /// Waits until `due`. Cancel-safe.
    pub(crate) async fn at(&self, due: Instant) {
        let left = due.saturating_duration_since(Instant::now());
        if left > THREAD_WAIT {
            tokio::time::sleep(left - THREAD_WAIT).await;
        }
        let (wake, woken) = oneshot::channel();
        if self.0.send((due, wake)).is_ok() {
            let _ = woken.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_timer_never_fires_early_and_a_past_time_returns_at_once() {
        let alarm = PreciseTimer::start().unwrap();
        for millis in [0, 1, 5] {
            let due = Instant::now() + Duration::from_millis(millis);
            alarm.at(due).await;
            assert!(Instant::now() >= due);
        }
        alarm.at(Instant::now() - Duration::from_millis(1)).await;
    }
}

//! The broker's own work beside its clients: waking groups, and leaving when it is idle.

use std::time::Instant;

use mqueue::broker::accept_gate::AcceptGate;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::group_waker::GroupWaker;
use super::idle_exit::IdleExit;

/// Both, in one task: the last look at the groups and the end of the broker belong together.
pub(super) struct Background {
    pub(super) idle: Option<IdleExit>,
    pub(super) waker: Option<GroupWaker>,
    pub(super) gate: AcceptGate,
}

impl Background {
    /// Works until `stop` is cancelled, or the broker is idle, and then cancels it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.until_idle() => stop.cancel(),
            () = stop.cancelled() => {
                if let Some(idle) = &mut self.idle {
                    idle.stopped().await;
                }
            }
        }
    }

    async fn until_idle(&mut self) {
        let mut connections = self.gate.connections();
        let mut quiet_since = Some(Instant::now());
        loop {
            let leaves_at = self.idle.as_ref().and_then(|idle| Some(quiet_since? + idle.limit()));
            tokio::select! {
                () = changed(&mut self.waker) => self.look(),
                _ = connections.changed() => {
                    quiet_since = (*connections.borrow_and_update() == 0).then(Instant::now);
                }
                () = at(leaves_at) => {
                    if self.leave().await {
                        return;
                    }
                    quiet_since = (*connections.borrow_and_update() == 0).then(Instant::now);
                }
            }
        }
    }

    fn look(&mut self) {
        self.waker.iter_mut().for_each(GroupWaker::look);
    }

    /// Closes the gate and looks once more; true if the broker may end. Otherwise the gate is open
    /// again.
    async fn leave(&mut self) -> bool {
        let Some(idle) = &mut self.idle else { return false };
        idle.close().await;
        idle.leave(|| {
            self.waker.as_mut().is_some_and(|waker| {
                waker.look();
                waker.is_waking()
            })
        })
    }
}

async fn changed(waker: &mut Option<GroupWaker>) {
    match waker {
        Some(waker) => waker.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits until then, or forever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

//! The guard of a connected worker, held from its request to the end of its connection.

use std::sync::Arc;

use super::exchange::Exchange;
use super::jobs::WorkerId;
use super::outbox::Outbox;

/// The presence of a worker. Dropping the guard removes the worker, and requeues its jobs.
#[derive(Debug)]
pub(super) struct WorkerGuard {
    pub(super) outbox: Arc<Outbox>,
    id: WorkerId,
    exchange: Arc<Exchange>,
    by_connection: bool,
}

impl WorkerGuard {
    pub(super) fn new(exchange: Arc<Exchange>, id: WorkerId, outbox: Arc<Outbox>) -> Self {
        Self { outbox, id, exchange, by_connection: true }
    }

    /// Records that the worker has read its jobs.
    pub(super) fn unblock(&self) {
        self.exchange.set_blocked(self.id, false);
    }

    /// Retires the worker: it gets no more jobs, and is removed with its last answer.
    pub(super) fn retire(&self) {
        self.exchange.retire(self.id);
    }

    /// Keeps the worker after its connection ends: from now on only answers and the deadline count.
    pub(super) fn outlive_connection(mut self) {
        self.by_connection = false;
    }
}

impl Drop for WorkerGuard {
    fn drop(&mut self) {
        if self.by_connection {
            self.exchange.leave(self.id);
        }
    }
}

//! A worker's stay: from its request to the end of its connection, whatever ends it.

use std::sync::Arc;

use super::exchange::Exchange;
use super::jobs::WorkerId;
use super::outbox::Outbox;

/// A worker that is there. Dropped, the worker has gone away, and what it holds is given back.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) outbox: Arc<Outbox>,
    id: WorkerId,
    exchange: Arc<Exchange>,
    by_connection: bool,
}

impl Stay {
    pub(super) fn new(exchange: Arc<Exchange>, id: WorkerId, outbox: Arc<Outbox>) -> Self {
        Self { outbox, id, exchange, by_connection: true }
    }

    /// What it was sent has been read.
    pub(super) fn reads_again(&self) {
        self.exchange.set_clogged(self.id, false);
    }

    /// It takes no more jobs, and goes with its last one.
    pub(super) fn retire(&self) {
        self.exchange.retire(self.id);
    }

    /// The end of its connection is no sign any more: only its answers and its deadline count.
    pub(super) fn outlive_connection(mut self) {
        self.by_connection = false;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if self.by_connection {
            self.exchange.leave(self.id);
        }
    }
}

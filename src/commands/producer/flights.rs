//! Batches on their way, several at once, within bounds.

use futures_util::StreamExt;
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;

use super::lane::{Batch, Lane};

/// What a message costs besides its bytes, in bytes.
const MESSAGE_COST: usize = 64;
/// What a batch costs besides its messages.
const BATCH_COST: usize = 1024;

/// Batches on their way. They are written in the order in which they were launched.
pub(super) struct Flights<'a> {
    lane: &'a Lane,
    /// Each gives back its cost. New ones are begun in their order, and so queued with the publisher in their order.
    under_way: FuturesUnordered<LocalBoxFuture<'a, usize>>,
    cost: usize,
    most: usize,
}

impl<'a> Flights<'a> {
    /// None yet, and `most` bytes at the most: one batch more than fits.
    pub(super) fn new(lane: &'a Lane, most: usize) -> Self {
        Self { lane, under_way: FuturesUnordered::new(), cost: 0, most }
    }

    /// True if another batch may be launched.
    pub(super) fn has_room(&self) -> bool {
        self.cost < self.most
    }

    /// True if none is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Takes a batch. It goes out when [`Flights::settle`] is next polled.
    pub(super) fn launch(&mut self, batch: Batch) {
        let cost = BATCH_COST + batch.bytes() + batch.bodies.len() * MESSAGE_COST;
        self.cost += cost;
        self.under_way.push(self.lane.publish(batch).map(move |_| cost).boxed_local());
    }

    /// Waits until one of them has settled, whichever; at once if there is none. Cancel-safe.
    pub(super) async fn settle(&mut self) {
        if let Some(cost) = self.under_way.next().await {
            self.cost -= cost;
        }
    }

    /// Waits for `wake`, while they settle. Cancel-safe if `wake` is.
    pub(super) async fn settle_until(&mut self, wake: impl Future<Output = ()>) {
        let mut wake = std::pin::pin!(wake);
        loop {
            tokio::select! {
                biased;
                () = self.settle(), if !self.is_empty() => {}
                () = &mut wake => return,
            }
        }
    }

    /// Waits for all of them.
    pub(super) async fn settle_all(mut self) {
        while !self.is_empty() {
            self.settle().await;
        }
    }
}

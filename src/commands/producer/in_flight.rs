//! Batches in flight, several at once, within a limit.

use futures_util::StreamExt;
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;

use super::stream_publisher::{MessageBatch, StreamPublisher};

/// Estimated overhead of a message in bytes.
const MESSAGE_COST: usize = 64;
/// Estimated overhead of a batch in bytes.
const BATCH_COST: usize = 1024;

/// The batches in flight. They are written in the order in which they were launched.
pub(super) struct InFlightBatches<'a> {
    publisher: &'a StreamPublisher,
    /// The publishes, each of which returns its cost. New ones are polled, and so queued with the
    /// publisher, in their order.
    under_way: FuturesUnordered<LocalBoxFuture<'a, usize>>,
    cost: usize,
    most: usize,
}

impl<'a> InFlightBatches<'a> {
    /// Makes an empty set with room for `most` bytes; the last batch may exceed it.
    pub(super) fn new(publisher: &'a StreamPublisher, most: usize) -> Self {
        Self { publisher, under_way: FuturesUnordered::new(), cost: 0, most }
    }

    /// Returns true if another batch may be launched.
    pub(super) fn has_room(&self) -> bool {
        self.cost < self.most
    }

    /// Returns true if no batch is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Adds a batch, which is sent when [`InFlightBatches::settle`] is next polled.
    pub(super) fn launch(&mut self, batch: MessageBatch) {
        let cost = BATCH_COST + batch.bytes() + batch.bodies.len() * MESSAGE_COST;
        self.cost += cost;
        self.under_way.push(self.publisher.publish(batch).map(move |_| cost).boxed_local());
    }

    /// Waits until any batch has settled; returns at once if there is none. Cancel-safe.
    pub(super) async fn settle(&mut self) {
        if let Some(cost) = self.under_way.next().await {
            self.cost -= cost;
        }
    }

    /// Waits for `wake` while batches settle. Cancel-safe if `wake` is.
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

    /// Waits until all batches have settled.
    pub(super) async fn settle_all(mut self) {
        while !self.is_empty() {
            self.settle().await;
        }
    }
}

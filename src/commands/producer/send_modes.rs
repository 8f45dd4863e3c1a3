//! The ways to send: one by one, in bulk, or (in `rate.rs`) at a rate.
//!
//! Each ends when the source, the count or the time is used up, or on a stop, and when every
//! message sent has settled. None takes a message that it does not send.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::in_flight::InFlightBatches;
use super::source::MessageSource;
use super::stream_publisher::{MessageBatch, StreamPublisher};

/// Bytes in flight to each nsqd in bulk: enough to keep a fast nsqd busy, and little enough for a
/// slow network to carry before the deadline.
const MAX_BYTES_IN_BULK: usize = 2 << 20;

/// State that all senders of a run share.
pub(super) struct ProducerRun<'a> {
    pub(super) publisher: &'a StreamPublisher,
    /// Messages that may still be taken.
    pub(super) left: Cell<u64>,
    /// Cancelled when no more messages may be taken.
    pub(super) stop: &'a CancellationToken,
    /// True if each published message is logged.
    pub(super) log_each: bool,
}

impl ProducerRun<'_> {
    /// Publishes one message at a time, the next `interval` after the last and never before its
    /// answer.
    pub(super) async fn one_by_one(&self, mut source: MessageSource, interval: Duration) {
        let mut due = tokio::time::Instant::now();
        while let Some(bodies) = self.take(&mut source, 1).await {
            let bytes = bodies.iter().map(|body| body.len()).sum::<usize>();
            let took = self.publisher.publish(MessageBatch { bodies, due: Vec::new() }).await;
            if let Some(took) = took.filter(|_| self.log_each) {
                let millis = took.as_secs_f64() * 1e3;
                let bytes = mqueue::plural::count(bytes, "byte");
                tracing::info!("published {}: {bytes}, OK after {millis:.2} ms", source.name_of_last());
            }
            if self.left.get() == 0 {
                return;
            }
            if !interval.is_zero() {
                due = tokio::time::Instant::now().max(due + interval);
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    // no pause after the last message
                    more = source.has_more() => if !more { return },
                }
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = sleep_until(due) => {}
                }
            }
        }
    }

    /// Publishes as fast as `nsqds` nsqds take messages, in the source's order.
    pub(super) async fn in_bulk(&self, mut source: MessageSource, nsqds: usize) {
        let mut in_flight = InFlightBatches::new(self.publisher, MAX_BYTES_IN_BULK * nsqds);
        loop {
            tokio::select! {
                biased;
                () = in_flight.settle(), if !in_flight.is_empty() => {}
                bodies = self.take(&mut source, u64::MAX), if in_flight.has_room() => match bodies {
                    Some(bodies) => in_flight.launch(MessageBatch { bodies, due: Vec::new() }),
                    None => break,
                },
            }
        }
        in_flight.settle_all().await;
    }

    /// Takes up to `most` messages; `None` at the end of the source or after a stop. Cancel-safe.
    async fn take(&self, source: &mut MessageSource, most: u64) -> Option<Vec<Bytes>> {
        if self.stop.is_cancelled() {
            return None;
        }
        self.take_due(source, most).await
    }

    /// Takes like `take`, but after a stop still takes the messages already there.
    pub(super) async fn take_due(&self, source: &mut MessageSource, most: u64) -> Option<Vec<Bytes>> {
        if self.left.get() == 0 {
            return None;
        }
        let bodies = tokio::select! {
            biased;
            bodies = source.take(most.min(self.left.get())) => bodies?,
            () = self.stop.cancelled() => return None,
        };
        self.left.set(self.left.get() - bodies.len() as u64);
        Some(bodies)
    }
}

/// Stops the run when its time is over. Never returns; runs beside the work.
pub(super) async fn stop_after(time: Option<Duration>, stop: &CancellationToken) -> std::convert::Infallible {
    if let Some(time) = time {
        sleep(time).await;
        stop.cancel();
    }
    std::future::pending().await
}

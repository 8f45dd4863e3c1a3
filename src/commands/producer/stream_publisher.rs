//! Publishing to nsqd, with an account of each message.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::max_message_size::MaxMessageSize;
use super::stats::ProducerStats;
use super::unpublished::Unpublished;
use mqueue::client::{PublishManyError, Publisher};
use mqueue::proto::TopicName;

/// Messages published together.
#[derive(Debug)]
pub(super) struct MessageBatch {
    pub(super) bodies: Vec<Bytes>,
    /// Due time of each message; empty if they are not on a schedule.
    pub(super) due: Vec<Instant>,
}

impl MessageBatch {
    /// Returns the sum of the bodies' lengths.
    pub(super) fn bytes(&self) -> usize {
        self.bodies.iter().map(Bytes::len).sum()
    }

    /// Removes the messages over the limit; returns their sizes.
    fn take_too_large(&mut self, limit: u64) -> Vec<usize> {
        let too_large = |body: &Bytes| body.len() as u64 > limit;
        let sizes: Vec<usize> = self.bodies.iter().filter(|body| too_large(body)).map(Bytes::len).collect();
        if !sizes.is_empty() {
            let mut bodies = self.bodies.iter();
            self.due.retain(|_| bodies.next().is_some_and(|body| !too_large(body)));
            self.bodies.retain(|body| !too_large(body));
        }
        sizes
    }
}

/// Publisher to one stream.
#[derive(Debug)]
pub(super) struct StreamPublisher {
    pub(super) publisher: Publisher,
    pub(super) stream: TopicName,
    pub(super) defer: Option<Duration>,
    pub(super) max_message_size: MaxMessageSize,
    pub(super) stats: Rc<ProducerStats>,
    /// Cancelled when nsqd refused a message for a reason that applies to every message.
    pub(super) refused_for_all: CancellationToken,
}

/// Unpublished messages of a batch by index, ascending.
type FailedMessages = Vec<(usize, Unpublished)>;

impl StreamPublisher {
    /// Publishes a batch; returns when each message is acknowledged or has failed, and is counted.
    /// Returns the latency if none failed.
    pub(super) async fn publish(&self, mut batch: MessageBatch) -> Option<Duration> {
        self.stats.sent(batch.bodies.len());
        let refused = self.refuse_too_large(&mut batch);
        let sent = Instant::now();
        for due in &batch.due {
            self.stats.sent_after(sent.saturating_duration_since(*due));
        }
        let failed = match &batch.bodies[..] {
            [] => return None,
            [body] => self.publish_one(body).await.err().into_iter().map(|why| (0, why)).collect(),
            bodies => self.publish_many(bodies).await,
        };
        let answered = Instant::now();
        self.count(&batch, sent, answered, &failed);
        (!refused && failed.is_empty()).then(|| answered.duration_since(sent))
    }

    /// Fails messages over the known limit without sending them; returns true if there were any.
    fn refuse_too_large(&self, batch: &mut MessageBatch) -> bool {
        let Some(limit) = self.max_message_size.known() else { return false };
        let sizes = batch.take_too_large(limit);
        for size in &sizes {
            self.stats.failed(*size, &Unpublished::TooLarge { limit });
        }
        !sizes.is_empty()
    }

    async fn publish_many(&self, bodies: &[Bytes]) -> FailedMessages {
        if self.defer.is_none() {
            return match self.publisher.publish_many(&self.stream, bodies.to_vec()).await {
                Ok(()) => FailedMessages::new(),
                Err(PublishManyError(failed)) => failed.into_iter().map(|(at, e)| (at, e.into())).collect(),
            };
        }
        let each = join_all(bodies.iter().map(|body| self.publish_one(body))).await;
        each.into_iter().enumerate().filter_map(|(at, result)| Some((at, result.err()?))).collect()
    }

    async fn publish_one(&self, body: &Bytes) -> Result<(), Unpublished> {
        let publishing = async {
            match self.defer {
                None => self.publisher.publish(&self.stream, body.clone()).await,
                Some(delay) => self.publisher.publish_deferred(&self.stream, body.clone(), delay).await,
            }
        };
        let result = match self.max_message_size.known() {
            Some(_) => publishing.await.map_err(Unpublished::from),
            None => tokio::select! {
                biased;
                result = publishing => result.map_err(Unpublished::from),
                // over the limit: a retry would only cost another connection
                limit = self.max_message_size.turns_out_below(body.len()) => Err(Unpublished::TooLarge { limit }),
            },
        };
        result.inspect_err(|why| self.learn_from(why, body.len()))
    }

    /// Remembers the limit that a refusal names, and a reason that applies to every message.
    fn learn_from(&self, why: &Unpublished, size: usize) {
        if let Unpublished::TooLarge { limit } = why {
            self.max_message_size.learn(*limit);
        }
        if why.applies_to_all() {
            self.stats.log_early(size, why);
            self.refused_for_all.cancel();
        }
    }

    fn count(&self, batch: &MessageBatch, sent: Instant, answered: Instant, failed: &FailedMessages) {
        let mut failed_bytes = 0;
        for (at, why) in failed {
            let size = batch.bodies[*at].len();
            failed_bytes += size;
            self.stats.failed(size, why);
            self.learn_from(why, size);
        }
        if batch.due.is_empty() {
            let count = (batch.bodies.len() - failed.len()) as u64;
            let latency = answered.duration_since(sent);
            return self.stats.acknowledged(count, batch.bytes() - failed_bytes, latency);
        }
        let mut failed = failed.iter().map(|(at, _)| *at).peekable();
        for (at, (body, due)) in batch.bodies.iter().zip(&batch.due).enumerate() {
            if failed.next_if_eq(&at).is_none() {
                self.stats.acknowledged(1, body.len(), answered.saturating_duration_since(*due));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_over_the_limit_is_removed_with_its_due_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let bodies = ["a", "bbb", "cc"].map(|body| Bytes::from_static(body.as_bytes())).to_vec();
        let mut batch = MessageBatch { bodies, due: vec![start, start + second, start + 2 * second] };
        assert_eq!(batch.take_too_large(2), [3]);
        assert_eq!((batch.bytes(), batch.due), (3, vec![start, start + 2 * second]));
    }
}

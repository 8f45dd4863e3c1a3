//! The publisher that all sockets share.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::stats::IngestStats;
use crate::commands::common::metrics::publish_meter::PublishMeter;
use crate::commands::common::notice::Notice;
use mqueue::client::{PublishError, PublishManyError, Publisher};
use mqueue::proto::TopicName;
use mqueue::shutdown::Shutdown;

/// Publishes to one stream, and retries until nsqd has each message.
#[derive(Debug)]
pub(super) struct FeedPublisher {
    publisher: Publisher,
    stream: TopicName,
    pub(super) shutdown: Shutdown,
    pub(super) stats: Arc<IngestStats>,
    /// `None` if no metrics are served.
    meter: Option<Arc<PublishMeter>>,
    away: Notice,
}

/// Error: the program must end now, so the messages were not published.
#[derive(Debug)]
pub(super) struct PublishAborted;

impl FeedPublisher {
    pub(super) fn new(
        publisher: Publisher,
        stream: TopicName,
        shutdown: Shutdown,
        stats: Arc<IngestStats>,
        meter: Option<Arc<PublishMeter>>,
    ) -> Self {
        Self { publisher, stream, shutdown, stats, meter, away: Notice::default() }
    }

    /// Publishes the bodies, waiting while nsqd is away; returns the number that nsqd refused for
    /// good, once it has all the others. If cancelled, some may have been published.
    pub(super) async fn publish(&self, mut bodies: Vec<Bytes>) -> Result<u64, PublishAborted> {
        let (begun, count, mut refused) = (Instant::now(), bodies.len() as u64, 0);
        self.stats.read(count);
        self.meter.iter().for_each(|meter| meter.sent(count));
        while !bodies.is_empty() {
            let PublishManyError(failed) = tokio::select! {
                published = self.publisher.publish_many(&self.stream, bodies.clone()) => match published {
                    Ok(()) => break,
                    Err(error) => error,
                },
                () = self.shutdown.now.cancelled() => return Err(PublishAborted),
            };
            let mut again = Vec::new();
            for (at, error) in failed {
                match error {
                    PublishError::TimedOut { .. } => {
                        self.note(Some(&error));
                        again.push(bodies[at].clone());
                    }
                    PublishError::Empty | PublishError::TooLarge(_) | PublishError::Refused(_) => {
                        self.stats.refused_by_nsqd(&error);
                        self.meter.iter().for_each(|meter| meter.failed(1));
                        refused += 1;
                    }
                    _ => return Err(PublishAborted),
                }
            }
            bodies = again;
        }
        self.note(None);
        let took = begun.elapsed();
        self.stats.published(count - refused, took);
        self.meter.iter().for_each(|meter| meter.published(count - refused, took));
        Ok(refused)
    }

    /// Logs once that nsqd is away, and once that it is back.
    fn note(&self, away: Option<&PublishError>) {
        match away {
            Some(why) if self.away.begins() => tracing::warn!("nsqd is unreachable; senders are throttled: {why}"),
            None if self.away.ends() => tracing::info!("publishing again"),
            _ => {}
        }
    }
}

//! The way to nsqd, for all that comes in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;

use super::tally::Tally;
use mqueue::client::{PublishError, PublishManyError, Publisher};
use mqueue::proto::TopicName;
use mqueue::shutdown::Shutdown;

/// Publishes to one stream, until it is there.
#[derive(Debug)]
pub(super) struct Outlet {
    publisher: Publisher,
    stream: TopicName,
    pub(super) shutdown: Shutdown,
    pub(super) tally: Tally,
    away: AtomicBool,
}

/// The program is to end now: what was to be published is not.
#[derive(Debug)]
pub(super) struct GivenUp;

impl Outlet {
    pub(super) fn new(publisher: Publisher, stream: TopicName, shutdown: Shutdown) -> Self {
        Self { publisher, stream, shutdown, tally: Tally::default(), away: AtomicBool::new(false) }
    }

    /// Done when nsqd has all of them but those that it refuses for good, whose number is given. While nsqd is away this waits.
    /// Cancelled, some may have been published.
    pub(super) async fn publish(&self, mut bodies: Vec<Bytes>) -> Result<u64, GivenUp> {
        let (begun, count, mut refused) = (Instant::now(), bodies.len() as u64, 0);
        self.tally.read(count);
        while !bodies.is_empty() {
            let PublishManyError(failed) = tokio::select! {
                published = self.publisher.publish_many(&self.stream, bodies.clone()) => match published {
                    Ok(()) => break,
                    Err(error) => error,
                },
                () = self.shutdown.now.cancelled() => return Err(GivenUp),
            };
            let mut again = Vec::new();
            for (at, error) in failed {
                match error {
                    PublishError::TimedOut { .. } => {
                        self.note(Some(&error));
                        again.push(bodies[at].clone());
                    }
                    PublishError::Empty | PublishError::TooLarge(_) | PublishError::Refused(_) => {
                        self.tally.refused_by_nsqd(&error);
                        refused += 1;
                    }
                    PublishError::Closed => return Err(GivenUp),
                }
            }
            bodies = again;
        }
        self.note(None);
        self.tally.published(count - refused, begun.elapsed());
        Ok(refused)
    }

    /// Says once that nsqd is away, and once that it is back.
    fn note(&self, away: Option<&PublishError>) {
        let was_away = self.away.swap(away.is_some(), Ordering::Relaxed);
        match away {
            Some(why) if !was_away => tracing::warn!("senders have to wait: {why}"),
            None if was_away => tracing::info!("publishing again"),
            _ => {}
        }
    }
}

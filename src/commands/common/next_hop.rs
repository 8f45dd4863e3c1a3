//! Passing messages on to the next hop, and waiting while it is unreachable: of a stage, or of a
//! bridge.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::commands::common::notice::Notice;
use mqueue::backoff::Backoff;
use mqueue::handler::{BuiltinHandler, Handler, Verdict};
use mqueue::proto::Message;

/// HTTP requests of one batch that run at once.
const MAX_CONCURRENT_REQUESTS: usize = 16;
/// Shortest and longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A way to a next hop.
pub(crate) trait PassOn {
    /// Passes messages on, once; returns the verdict of each.
    fn try_pass(&self, messages: Vec<Message>) -> impl Future<Output = Vec<Verdict>> + Send;
}

/// The next hop: a stream, a Unix socket, an HTTP server or a list in Redis.
#[derive(Debug)]
pub(crate) struct NextHop<W> {
    way: W,
    /// For people.
    name: String,
    stopping: CancellationToken,
    away: Notice,
}

impl<W: PassOn> NextHop<W> {
    /// Goes by `way`; waits for no hop any more once `stopping`.
    pub(crate) fn new(way: W, name: String, stopping: CancellationToken) -> Self {
        Self { way, name, stopping, away: Notice::default() }
    }

    /// Passes messages on. While the next hop is unreachable the messages wait and are neither
    /// failed nor requeued, which throttles this hop and in turn those before it. Once the command is
    /// stopping, messages that the next hop has not taken are requeued.
    pub(crate) async fn pass(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let mut verdicts: Vec<Option<Verdict>> = vec![None; messages.len()];
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, fastrand::Rng::new());
        loop {
            let left: Vec<usize> = (0..messages.len()).filter(|at| verdicts[*at].is_none()).collect();
            if left.is_empty() {
                break;
            }
            let mut why = None;
            let tried = self.way.try_pass(left.iter().map(|at| messages[*at].clone()).collect()).await;
            for (at, verdict) in left.into_iter().zip(tried) {
                match verdict {
                    Verdict::Unavailable { why: away, .. } | Verdict::Unanswered { why: away, .. } => why = Some(away),
                    verdict => verdicts[at] = Some(verdict),
                }
            }
            self.note(why.as_deref());
            if why.is_some() {
                tokio::select! {
                    () = sleep(backoff.next().unwrap_or_default()) => {}
                    () = self.stopping.cancelled() => break,
                }
            }
        }
        verdicts.into_iter().map(|verdict| verdict.unwrap_or(Verdict::Release)).collect()
    }

    /// Logs once that the next hop is unreachable, and once that it is back.
    fn note(&self, away: Option<&str>) {
        match away {
            Some(why) if self.away.begins() => {
                tracing::warn!(to = %self.name, "next hop unreachable, its messages wait: {why}")
            }
            None if self.away.ends() => tracing::info!(to = %self.name, "next hop reachable again"),
            _ => {}
        }
    }
}

impl PassOn for BuiltinHandler {
    async fn try_pass(&self, messages: Vec<Message>) -> Vec<Verdict> {
        match self {
            Self::Http(server) => {
                stream::iter(messages)
                    .map(|message| server.handle(message))
                    .buffered(MAX_CONCURRENT_REQUESTS)
                    .collect()
                    .await
            }
            other => other.handle_batch(messages).await,
        }
    }
}

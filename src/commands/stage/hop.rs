//! The way to the next hop: tried until it is there, or the stage stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use mqueue::backoff::Backoff;
use mqueue::handler::{BuiltinHandler, Handler, Verdict};
use mqueue::proto::Message;

/// Requests at once, of one batch.
const REQUESTS: usize = 16;
/// Between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where results go.
#[derive(Debug)]
pub(super) struct NextHop {
    way: BuiltinHandler,
    /// For people.
    name: String,
    stopping: CancellationToken,
    away: AtomicBool,
}

impl NextHop {
    /// Goes by `way`; waits for no hop any more once `stopping`.
    pub(super) fn new(way: BuiltinHandler, name: String, stopping: CancellationToken) -> Self {
        Self { way, name, stopping, away: AtomicBool::new(false) }
    }

    /// Brings messages there. While it is away they wait, which is what slows this hop down, and in turn those before it; they are
    /// neither failed nor given back. Once the stage is stopping, what nobody takes goes back.
    pub(super) async fn pass(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let mut verdicts: Vec<Option<Verdict>> = vec![None; messages.len()];
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, fastrand::Rng::new());
        loop {
            let left: Vec<usize> = (0..messages.len()).filter(|at| verdicts[*at].is_none()).collect();
            if left.is_empty() {
                break;
            }
            let mut why = None;
            let tried = self.try_pass(left.iter().map(|at| messages[*at].clone()).collect()).await;
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

    async fn try_pass(&self, messages: Vec<Message>) -> Vec<Verdict> {
        match &self.way {
            BuiltinHandler::Http(server) => {
                stream::iter(messages).map(|message| server.handle(message)).buffered(REQUESTS).collect().await
            }
            other => other.handle_batch(messages).await,
        }
    }

    /// Says once that the hop is away, and once that it is back.
    fn note(&self, away: Option<&str>) {
        let was_away = self.away.swap(away.is_some(), Ordering::Relaxed);
        match away {
            Some(why) if !was_away => tracing::warn!(to = %self.name, "the next hop is away, waiting for it: {why}"),
            None if was_away => tracing::info!(to = %self.name, "the next hop is back"),
            _ => {}
        }
    }
}

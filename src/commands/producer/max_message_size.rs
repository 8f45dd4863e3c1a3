//! nsqd's limit on the message size, read from its HTTP API or learned from its first refusal. A
//! message over it costs the connection, and is not sent.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::timeout;

use mqueue::client::{ConfigNumber, Nsqd};

/// Longest time that an nsqd may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest message that all nsqds take, in bytes, once known.
#[derive(Debug)]
pub(super) struct MaxMessageSize(watch::Sender<Option<u64>>);

impl MaxMessageSize {
    /// Makes a limit that is not known yet.
    pub(super) fn unknown() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Asks the nsqds for their limits, and ignores those that do not answer. Never returns; runs
    /// beside the work.
    pub(super) async fn ask(&self, nsqds: &[Nsqd]) -> Infallible {
        let mut asked: FuturesUnordered<_> =
            nsqds.iter().map(|nsqd| timeout(ANSWER_TIMEOUT, nsqd.config(ConfigNumber::MaxMsgSize))).collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Ok(limit)) => self.learn(limit),
                Ok(Err(e)) => tracing::debug!("cannot read nsqd's --max-msg-size: {e}"),
                Err(_) => tracing::debug!("cannot read nsqd's --max-msg-size: no answer within {ANSWER_TIMEOUT:?}"),
            }
        }
        std::future::pending().await
    }

    /// Notes one nsqd's limit; the lowest counts.
    pub(super) fn learn(&self, limit: u64) {
        self.0.send_if_modified(|known| {
            let lower = known.is_none_or(|known| limit < known);
            if lower {
                *known = Some(limit);
            }
            lower
        });
    }

    /// Returns the limit, if known.
    pub(super) fn known(&self) -> Option<u64> {
        *self.0.borrow()
    }

    /// Waits until the limit is known to be below `size`, which may never happen; returns the
    /// limit. Cancel-safe.
    pub(super) async fn turns_out_below(&self, size: usize) -> u64 {
        let mut known = self.0.subscribe();
        loop {
            if let Some(limit) = known.borrow_and_update().filter(|limit| *limit < size as u64) {
                return limit;
            }
            if known.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_for_a_limit_below_a_size_ends_when_it_is_known() {
        let limit = MaxMessageSize::unknown();
        let learn = async { [200, 100].map(|one| limit.learn(one)) };
        assert_eq!(tokio::join!(limit.turns_out_below(101), learn).0, 100);
    }

    #[test]
    fn the_lowest_limit_counts() {
        let limit = MaxMessageSize::unknown();
        assert_eq!(limit.known(), None);
        for (one, expected) in [(100, 100), (200, 100), (50, 50)] {
            limit.learn(one);
            assert_eq!(limit.known(), Some(expected));
        }
    }
}

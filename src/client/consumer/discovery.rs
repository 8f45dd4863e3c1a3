//! Discovery: asks every nsqlookupd at intervals which nsqds have the topic, and starts a link for
//! each new nsqd.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;

use super::delivery::Delivery;
use super::shared::ConsumerShared;
use crate::backoff::Backoff;
use crate::client::{Address, Error, HttpError, Lookupd};
use crate::proto::TopicName;

/// The nsqds that the nsqlookupds list together.
#[derive(Debug)]
pub(super) struct DiscoveredNsqds {
    nsqd: BTreeSet<Address>,
    /// True if every nsqlookupd answered, so the list is complete.
    complete: bool,
}

/// Asks all nsqlookupds at the same time; fails only if none answers.
pub(super) async fn ask(lookupd: &[Lookupd], topic: &TopicName) -> Result<DiscoveredNsqds, HttpError> {
    let mut found = DiscoveredNsqds { nsqd: BTreeSet::new(), complete: true };
    let mut failed = None;
    let answers = join_all(lookupd.iter().map(|lookupd| lookupd.lookup(topic))).await;
    let all_failed = answers.iter().all(Result::is_err);
    for answer in answers {
        match answer {
            Ok(lookup) => found.nsqd.extend(lookup.producers.iter().filter_map(|producer| {
                let address = producer.tcp_address();
                let parsed = address.parse();
                if parsed.is_err() {
                    tracing::warn!("nsqlookupd lists the nsqd {address} without a valid port; the nsqd is ignored");
                }
                parsed.ok()
            })),
            Err(error) => {
                if !all_failed {
                    tracing::warn!("{error}");
                }
                found.complete = false;
                failed = failed.or(Some(error));
            }
        }
    }
    match failed {
        Some(error) if all_failed => Err(error),
        Some(_) | None => Ok(found),
    }
}

/// Keeps a link to every nsqd that has the topic until the consumer stops.
pub(super) async fn run(
    shared: Arc<ConsumerShared>,
    first: Result<DiscoveredNsqds, Error>,
    sender: UnboundedSender<Vec<Delivery>>,
) {
    let interval = shared.config.lookupd_poll_interval;
    // to find a new topic soon: while no nsqd is known, the interval starts short and grows
    let mut eager = Backoff::new(interval.min(Duration::from_secs(1)), interval, fastrand::Rng::new());
    let mut found = first;
    loop {
        match found {
            Ok(found) => {
                if found.complete {
                    shared.keep_only(&found.nsqd);
                }
                // unreachable nsqds may be back with this answer
                shared.lookup_done.notify_waiters();
                for address in found.nsqd.into_iter().filter(|address| shared.ensure_link(address)) {
                    let (shared, sender) = (shared.clone(), sender.clone());
                    shared.clone().tasks.spawn(async move {
                        let first = tokio::select! {
                            () = shared.stopping.cancelled() => return,
                            first = super::first_connection(&shared, &address) => first,
                        };
                        super::run_link(shared, address, first, sender).await;
                    });
                }
            }
            Err(error) => tracing::warn!("{error}"),
        }
        let pause = match shared.health().known {
            0 => eager.next().unwrap_or(interval),
            _ => {
                eager.reset();
                interval.mul_f64(0.7 + 0.6 * fastrand::f64())
            }
        };
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = sleep(pause) => {}
            () = shared.discover_soon.notified() => {}
        }
        found = tokio::select! {
            () = shared.stopping.cancelled() => return,
            found = ask(&shared.config.lookupd, &shared.config.topic) => found.map_err(Error::from),
        };
    }
}

//! Looking at the messages of a queue without their delivery: on mqueue's brokers, as nsqd cannot.

use mqueue::client::{Nsqd, PeekQuery, StatsFilter};
use mqueue::cluster::{ClusterApis, QueueAction, QueueTarget};
use mqueue::proto::PeekState;

/// The brokers that have a queue.
#[derive(Debug)]
pub(crate) struct QueuePlaces {
    /// mqueue's brokers.
    pub(crate) brokers: Vec<Nsqd>,
    /// The addresses of nsqds, which cannot show messages without delivering them.
    pub(crate) nsqds: Vec<String>,
    /// The errors of those that did not answer, and may have the queue, too.
    pub(crate) errors: Vec<String>,
}

impl QueuePlaces {
    /// Asks all nsqds.
    pub(crate) async fn find(cluster: &ClusterApis, target: &QueueTarget) -> Self {
        let state = cluster.observe(&StatsFilter::default().with_topic(&target.stream)).await;
        let is_embedded = |api: &Nsqd| {
            let stats = state.nsqds.iter().find(|nsqd| nsqd.api.to_string() == api.to_string());
            // nsqd has no index
            stats.and_then(|nsqd| nsqd.stats()).is_some_and(|stats| stats.index_bytes.is_some())
        };
        let all = state.places(QueueAction::Pause, target).into_iter().map(|(nsqd, _)| nsqd.clone());
        let (brokers, nsqds): (Vec<Nsqd>, Vec<Nsqd>) = all.partition(is_embedded);
        let nsqds = nsqds.iter().map(ToString::to_string).collect();
        Self { brokers, nsqds, errors: state.errors().map(ToString::to_string).collect() }
    }
}

/// Returns the query for the first messages of a stream or group in a state.
pub(crate) fn first_messages(target: &QueueTarget, state: PeekState, limit: usize) -> PeekQuery {
    match &target.group {
        Some(group) => PeekQuery::of_group(target.stream.clone(), group.clone(), state).with_limit(limit),
        None => PeekQuery::of_stream(target.stream.clone()).with_limit(limit),
    }
}

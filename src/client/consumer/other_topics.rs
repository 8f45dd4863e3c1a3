//! Subscriptions to further topics, whose messages a consumer delivers as its own, such as the
//! topic of messages redriven to its group.
//!
//! SUB creates a missing topic. So a link to another topic never reconnects by itself: the caller
//! starts it again when it knows that the topic exists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::link;
use super::shared::ConsumerShared;
use crate::client::{Address, ClientBackend};
use crate::proto::TopicName;

type TopicAtNsqd = (TopicName, Address);

/// The links to other topics, each with the token that stops it.
#[derive(Debug, Default)]
pub(super) struct OtherTopics(Mutex<HashMap<TopicAtNsqd, CancellationToken>>);

impl OtherTopics {
    pub(super) fn unsubscribe(&self, topic: &TopicName, nsqd: &Address) {
        if let Some(stopping) = self.stop_tokens().get(&(topic.clone(), nsqd.clone())) {
            stopping.cancel();
        }
    }

    /// Registers a link and returns the token that stops it; `None` if there is one already.
    fn register(&self, key: &TopicAtNsqd, shared: &ConsumerShared) -> Option<CancellationToken> {
        let mut stop_tokens = self.stop_tokens();
        if stop_tokens.contains_key(key) {
            return None;
        }
        let stopping = shared.stopping.child_token();
        stop_tokens.insert(key.clone(), stopping.clone());
        Some(stopping)
    }

    fn stop_tokens(&self) -> MutexGuard<'_, HashMap<TopicAtNsqd, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a link unless there is one. The tokio-nsq backend has no such links.
pub(super) fn start(shared: &Arc<ConsumerShared>, topic: &TopicName, nsqd: &Address) {
    let key = (topic.clone(), nsqd.clone());
    // without a sender the consumer has ended
    let Some(sender) = shared.sender.upgrade().filter(|_| shared.config.backend == ClientBackend::Own) else { return };
    let Some(stopping) = shared.other_topics.register(&key, shared) else { return };
    let spawned = shared.clone();
    shared.tasks.spawn(async move {
        let (topic, nsqd) = &key;
        let subscribed = tokio::select! {
            () = stopping.cancelled() => None,
            subscribed = link::subscribe(&spawned, topic, nsqd) => Some(subscribed),
        };
        let ended = match subscribed {
            Some(Ok(connection)) => link::serve_once(&spawned, connection, &sender, stopping).await,
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        if let Err(error) = ended {
            tracing::warn!(%nsqd, stream = %topic, "connection lost: {error}");
        }
        spawned.other_topics.stop_tokens().remove(&key);
    });
}

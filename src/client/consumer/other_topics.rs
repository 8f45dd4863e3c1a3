//! Other topics whose messages a consumer takes for its own: such as that of messages that are redriven to its group alone.
//!
//! SUB creates a topic that is not there. So a link to another topic is never made anew by itself when it ends: whoever wants it knows
//! that the topic is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::link;
use super::shared::ConsumerShared;
use crate::client::{Address, ClientBackend};
use crate::proto::TopicName;

type TopicAtNsqd = (TopicName, Address);

/// Where links to other topics are, and how each is stopped.
#[derive(Debug, Default)]
pub(super) struct OtherTopics(Mutex<HashMap<TopicAtNsqd, CancellationToken>>);

impl OtherTopics {
    pub(super) fn unsubscribe(&self, topic: &TopicName, nsqd: &Address) {
        if let Some(stopping) = self.stop_tokens().get(&(topic.clone(), nsqd.clone())) {
            stopping.cancel();
        }
    }

    /// Returns the token that stops the link to this nsqd; `None` if a link is there already.
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

/// Starts a link, unless there is one. tokio-nsq has none.
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
            tracing::warn!(%nsqd, "stream {topic}: connection lost: {error}");
        }
        spawned.other_topics.stop_tokens().remove(&key);
    });
}

//! Other topics whose messages a consumer takes for its own: such as that of messages that are redriven to its group alone.
//!
//! SUB creates a topic that is not there. So a link to another topic is never made anew by itself when it ends: whoever wants it knows
//! that the topic is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::link;
use crate::client::{Address, Driver};
use crate::proto::TopicName;

type Place = (TopicName, Address);

/// Where links to other topics are, and how each is stopped.
#[derive(Debug, Default)]
pub(super) struct Also(Mutex<HashMap<Place, CancellationToken>>);

impl Also {
    pub(super) fn leave(&self, topic: &TopicName, nsqd: &Address) {
        if let Some(stopping) = self.places().get(&(topic.clone(), nsqd.clone())) {
            stopping.cancel();
        }
    }

    /// Returns the token that stops the link to this nsqd; `None` if a link is there already.
    fn enter(&self, place: &Place, hub: &Hub) -> Option<CancellationToken> {
        let mut places = self.places();
        if places.contains_key(place) {
            return None;
        }
        let stopping = hub.stopping.child_token();
        places.insert(place.clone(), stopping.clone());
        Some(stopping)
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Place, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a link, unless there is one. tokio-nsq has none.
pub(super) fn start(hub: &Arc<Hub>, topic: &TopicName, nsqd: &Address) {
    let place = (topic.clone(), nsqd.clone());
    // without a sender the consumer has ended
    let Some(sender) = hub.sender.upgrade().filter(|_| hub.config.driver == Driver::Own) else { return };
    let Some(stopping) = hub.also.enter(&place, hub) else { return };
    let spawned = hub.clone();
    hub.tasks.spawn(async move {
        let (topic, nsqd) = &place;
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
        spawned.also.places().remove(&place);
    });
}

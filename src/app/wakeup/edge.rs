//! Hearing at once that a message came: an ephemeral subscription to each stream with a group that sleeps with nothing to do.
//!
//! It ends with the first message: whoever sleeps is poked by then, and an ephemeral channel that is read by nobody would fill up.
//! It ends with its connection, too, and the next poll decides whether there is to be another: subscribing creates what is not there,
//! so a stream or group that was deleted would come back as one with wakeup's channel only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::observe::is_durable;
use crate::client::{Address, Listener, Nsqd, StatsFilter};
use crate::proto::{ChannelName, TopicName};

/// How long an nsqd that cannot be subscribed to is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// Subscriptions that are made at once.
const AT_ONCE: usize = 8;

/// What a subscription told, and which.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) nsqd: Address,
    pub(super) stream: String,
    /// A message came, or nothing will be heard of it, and why.
    pub(super) what: Result<(), String>,
}

/// The subscriptions.
#[derive(Debug)]
pub(super) struct Edges {
    channel: ChannelName,
    heard: UnboundedSender<Heard>,
    tasks: TaskTracker,
    gate: Arc<Semaphore>,
    subscribed: BTreeMap<(Address, String), AbortOnDropHandle<()>>,
}

impl Edges {
    /// Nothing is subscribed; `heard` is told each stream that a message came to.
    pub(super) fn new(heard: UnboundedSender<Heard>) -> Self {
        let name = format!("wakeup-{:08x}#ephemeral", fastrand::u32(..));
        let channel = ChannelName::new(&name).expect("letters, digits and a dash");
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        Self { channel, heard, tasks: TaskTracker::new(), gate, subscribed: BTreeMap::new() }
    }

    /// Subscribes to these streams and to no others; `http` is the API of the nsqd at an address.
    pub(super) fn set(&mut self, wanted: BTreeSet<(Address, String)>, http: impl Fn(&Address) -> Option<Nsqd>) {
        self.subscribed.retain(|edge, task| wanted.contains(edge) && !task.is_finished());
        for edge in wanted {
            if self.subscribed.contains_key(&edge) {
                continue;
            }
            let Some(http) = http(&edge.0) else { continue };
            let (channel, heard, gate) = (self.channel.clone(), self.heard.clone(), self.gate.clone());
            let (nsqd, stream) = edge.clone();
            let task = async move {
                let Some(what) = listen(&nsqd, &http, &stream, channel, &gate).await.transpose() else { return };
                let failed = what.is_err();
                let _ = heard.send(Heard { nsqd, stream, what });
                if failed {
                    sleep(PAUSE).await;
                }
            };
            self.subscribed.insert(edge, AbortOnDropHandle::new(self.tasks.spawn(task)));
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.subscribed.values().filter(|task| !task.is_finished()).count()
    }
}

/// Waits for a message of the stream; `None` if the wait ended without one, for whatever is no trouble. Dropped, it unsubscribes.
async fn listen(
    nsqd: &Address,
    http: &Nsqd,
    stream: &str,
    channel: ChannelName,
    gate: &Semaphore,
) -> Result<Option<()>, String> {
    let Ok(topic) = TopicName::new(stream) else { return Ok(None) };
    let turn = gate.acquire().await.expect("it is never closed");
    let mut listener = Listener::connect(nsqd).await.map_err(|e| e.to_string())?;
    // as late as can be: between this look and SUB the stream or its groups may only be deleted within a round trip
    let filter = StatsFilter { topic: Some(topic.clone()), ..StatsFilter::default() };
    // where this fails polling does, too, and says it
    let Ok(stats) = http.stats(&filter).await else { return Ok(None) };
    if !stats.topics.iter().flat_map(|topic| &topic.channels).any(is_durable) {
        return Ok(None);
    }
    listener.subscribe(topic, channel).await.map_err(|e| e.to_string())?;
    drop(turn);
    match listener.heard().await {
        Ok(()) => Ok(Some(())),
        Err(error) => {
            tracing::debug!("no longer listening to {stream}: {error}");
            Ok(None)
        }
    }
}

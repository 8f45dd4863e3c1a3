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
use crate::client::{Address, ArrivalWatch, Error, Nsqd, StatsFilter};
use crate::proto::{ChannelName, TopicName};

/// How long an nsqd that cannot be subscribed to is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// Subscriptions that are made at once.
const AT_ONCE: usize = 8;

/// What a subscription told, and which.
#[derive(Debug)]
pub struct Heard {
    pub nsqd: Address,
    pub stream: String,
    pub what: What,
}

/// What a subscription told.
#[derive(Debug)]
pub enum What {
    /// It stands.
    Subscribed,
    /// A message came.
    Message,
    /// It cannot be had, and why.
    Failed(String),
}

/// The subscriptions.
#[derive(Debug)]
pub struct Edges {
    channel: ChannelName,
    heard: UnboundedSender<Heard>,
    tasks: TaskTracker,
    gate: Arc<Semaphore>,
    subscribed: BTreeMap<(Address, String), AbortOnDropHandle<()>>,
    /// Each that stands has a weak reference to it.
    standing: Arc<()>,
}

impl Edges {
    /// Nothing is subscribed; `heard` is told each stream that a message came to.
    pub fn new(heard: UnboundedSender<Heard>) -> Self {
        let name = format!("wakeup-{:08x}#ephemeral", fastrand::u32(..));
        Self {
            channel: ChannelName::new(&name).expect("letters, digits and a dash"),
            heard,
            tasks: TaskTracker::new(),
            gate: Arc::new(Semaphore::new(AT_ONCE)),
            subscribed: BTreeMap::new(),
            standing: Arc::new(()),
        }
    }

    /// Subscribes to these streams and to no others; `http` is the API of the nsqd at an address.
    pub fn set(&mut self, wanted: BTreeSet<(Address, String)>, http: impl Fn(&Address) -> Option<Nsqd>) {
        self.subscribed.retain(|edge, task| wanted.contains(edge) && !task.is_finished());
        for edge in wanted {
            if self.subscribed.contains_key(&edge) {
                continue;
            }
            let Some(http) = http(&edge.0) else { continue };
            let one = Edge {
                nsqd: edge.0.clone(),
                http,
                stream: edge.1.clone(),
                channel: self.channel.clone(),
                heard: self.heard.clone(),
                gate: self.gate.clone(),
                standing: self.standing.clone(),
            };
            self.subscribed.insert(edge, AbortOnDropHandle::new(self.tasks.spawn(one.run())));
        }
    }

    /// How many stand.
    pub fn standing(&self) -> usize {
        Arc::weak_count(&self.standing)
    }
}

/// One subscription.
struct Edge {
    nsqd: Address,
    http: Nsqd,
    stream: String,
    channel: ChannelName,
    heard: UnboundedSender<Heard>,
    gate: Arc<Semaphore>,
    standing: Arc<()>,
}

impl Edge {
    /// Waits for a message of the stream. Dropped, it unsubscribes.
    async fn run(self) {
        let mut failures = 0;
        while let Err(error) = self.listen().await {
            failures += 1;
            // an nsqd that goes away is said by polling, which ends this, too
            if failures > 1 || matches!(error, Error::Refused { .. }) {
                self.tell(What::Failed(error.to_string()));
            }
            sleep(PAUSE).await;
        }
    }

    async fn listen(&self) -> Result<(), Error> {
        let Ok(topic) = TopicName::new(&self.stream) else { return Ok(()) };
        let turn = self.gate.acquire().await.expect("it is never closed");
        let mut listener = ArrivalWatch::connect(&self.nsqd).await?;
        // as late as can be: between this look and SUB the stream or its groups may only be deleted within a round trip
        let filter = StatsFilter { topic: Some(topic.clone()), ..StatsFilter::default() };
        // where this fails polling does, too, and says it
        let Ok(stats) = self.http.stats(&filter).await else { return Ok(()) };
        if !stats.topics.iter().flat_map(|topic| &topic.channels).any(is_durable) {
            return Ok(());
        }
        listener.subscribe(topic, self.channel.clone()).await?;
        drop(turn);
        let _standing = Arc::downgrade(&self.standing);
        self.tell(What::Subscribed);
        match listener.arrived().await {
            Ok(()) => self.tell(What::Message),
            Err(error) => tracing::debug!("no longer listening to {}: {error}", self.stream),
        }
        Ok(())
    }

    fn tell(&self, what: What) {
        let _ = self.heard.send(Heard { nsqd: self.nsqd.clone(), stream: self.stream.clone(), what });
    }
}

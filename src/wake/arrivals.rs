//! Immediate notice of new messages: an ephemeral subscription to each stream that has a sleeping,
//! empty group.
//!
//! A subscription ends with its first message: the sleeping groups are poked then, and an ephemeral
//! channel without a reader would fill up. It also ends with its connection, and the next poll
//! decides whether to subscribe again: SUB creates a missing topic, so a deleted stream would come
//! back with wakeup's channel alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::aggregate::is_durable;
use super::retry_name::EPHEMERAL;
use crate::client::{Address, ArrivalWatch, ConnectConfig, Error, Nsqd, StatsFilter};
use crate::proto::{ChannelName, TopicName};

/// The beginning of the names of wakeups' channels; the process's number follows.
const CHANNEL_PREFIX: &str = "wakeup-";
/// The pause after a failed subscription.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// The maximum of subscriptions that are being set up at the same time.
const MAX_CONCURRENT: usize = 8;

/// An event, with the nsqd and the stream of its subscription.
#[derive(Debug)]
pub struct ArrivalNews {
    pub nsqd: Address,
    pub stream: String,
    pub event: ArrivalEvent,
}

/// The kinds of events.
#[derive(Debug)]
pub enum ArrivalEvent {
    /// The subscription is established.
    Subscribed,
    /// A message arrived.
    Message,
    /// The subscription failed, with the reason.
    Failed(String),
}

/// Returns the number of the wakeup that has this channel; `None` for other channels.
pub(super) fn wakeup_of(channel: &str) -> Option<&str> {
    channel.strip_prefix(CHANNEL_PREFIX)?.strip_suffix(EPHEMERAL)
}

/// The ephemeral subscriptions of one wakeup.
#[derive(Debug)]
pub struct ArrivalSubscriptions {
    id: String,
    channel: ChannelName,
    connect: ConnectConfig,
    events: UnboundedSender<ArrivalNews>,
    tasks: TaskTracker,
    setup_permits: Arc<Semaphore>,
    subscribed: BTreeMap<(Address, String), AbortOnDropHandle<()>>,
    /// Counts established subscriptions: each holds a weak reference.
    established: Arc<()>,
}

impl ArrivalSubscriptions {
    /// Creates an empty set; `events` receives the events of each subscription; `connect` has
    /// the settings of the connections.
    pub fn new(events: UnboundedSender<ArrivalNews>, connect: ConnectConfig) -> Self {
        let id = format!("{:08x}", fastrand::u32(..));
        let name = format!("{CHANNEL_PREFIX}{id}{EPHEMERAL}");
        Self {
            id,
            channel: ChannelName::new(&name).expect("letters, digits and a dash"),
            connect,
            events,
            tasks: TaskTracker::new(),
            setup_permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            subscribed: BTreeMap::new(),
            established: Arc::new(()),
        }
    }

    /// Returns the number of this process, which its channel's name contains.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Subscribes to exactly these streams; `http` returns the HTTP API of the nsqd at an address.
    pub fn set(&mut self, wanted: BTreeSet<(Address, String)>, http: impl Fn(&Address) -> Option<Nsqd>) {
        self.subscribed.retain(|key, task| wanted.contains(key) && !task.is_finished());
        for key in wanted {
            if self.subscribed.contains_key(&key) {
                continue;
            }
            let Some(http) = http(&key.0) else { continue };
            let one = ArrivalSubscription {
                nsqd: key.0.clone(),
                connect: self.connect.clone(),
                http,
                stream: key.1.clone(),
                channel: self.channel.clone(),
                events: self.events.clone(),
                setup_permits: self.setup_permits.clone(),
                established: self.established.clone(),
            };
            self.subscribed.insert(key, AbortOnDropHandle::new(self.tasks.spawn(one.run())));
        }
    }

    /// Returns the number of established subscriptions.
    pub fn established(&self) -> usize {
        Arc::weak_count(&self.established)
    }
}

/// One subscription.
struct ArrivalSubscription {
    nsqd: Address,
    connect: ConnectConfig,
    http: Nsqd,
    stream: String,
    channel: ChannelName,
    events: UnboundedSender<ArrivalNews>,
    setup_permits: Arc<Semaphore>,
    established: Arc<()>,
}

impl ArrivalSubscription {
    /// Waits for a message of the stream. Unsubscribes when dropped.
    async fn run(self) {
        let mut failures = 0;
        while let Err(error) = self.listen().await {
            failures += 1;
            // polling logs an unreachable nsqd, and then ends this subscription
            if failures > 1 || error.is_refusal() {
                self.send(ArrivalEvent::Failed(error.to_string()));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn listen(&self) -> Result<(), Error> {
        let Ok(topic) = TopicName::new(&self.stream) else { return Ok(()) };
        let permit = self.setup_permits.acquire().await.expect("it is never closed");
        let mut listener = ArrivalWatch::connect(&self.nsqd, &self.connect).await?;
        // checked just before SUB, so that only a deletion within one round trip is missed
        let filter = StatsFilter { topic: Some(topic.clone()), ..StatsFilter::default() };
        // polling fails as well, and logs it
        let Ok(stats) = self.http.stats(&filter).await else { return Ok(()) };
        if !stats.topics.iter().flat_map(|topic| &topic.channels).any(is_durable) {
            return Ok(());
        }
        listener.subscribe(topic, self.channel.clone()).await?;
        drop(permit);
        let _established = Arc::downgrade(&self.established);
        self.send(ArrivalEvent::Subscribed);
        match listener.arrived().await {
            Ok(()) => self.send(ArrivalEvent::Message),
            Err(error) => tracing::debug!("subscription to {} ended: {error}", self.stream),
        }
        Ok(())
    }

    fn send(&self, event: ArrivalEvent) {
        let _ = self.events.send(ArrivalNews { nsqd: self.nsqd.clone(), stream: self.stream.clone(), event });
    }
}

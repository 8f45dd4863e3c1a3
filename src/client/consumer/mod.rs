//! Consuming a channel from one or several nsqds.
//!
//! ```text
//!  nsqlookupd ─▶ discovery ─▶ a link per nsqd ──▶ deliveries ──▶ recv()
//!                                 ▲                              │
//!                                 └── FIN, REQ, TOUCH ◀── Delivery
//! ```
//!
//! Every [`Delivery`] is answered exactly once, by [`finish`](Delivery::finish) or
//! [`requeue`](Delivery::requeue); a delivery that is dropped is requeued at once, untried. Until
//! then the link sends TOUCH for it. A consumer stops in order: RDY 0, CLS, delivery of messages
//! that still arrive; a connection closes only after nsqd has read the last reply.

mod delivery;
#[cfg(feature = "lookup")]
mod discovery;
mod finished;
mod given_back;
mod in_flight;
mod link;
mod other_topics;
mod shared;
#[cfg(feature = "tokio-nsq")]
mod tokio_nsq;
mod touch;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::join_all;
use tokio::sync::mpsc;

pub use self::delivery::Delivery;
pub use self::given_back::GivenBack;
use self::shared::ConsumerShared;
#[cfg(feature = "lookup")]
use super::Lookupd;
use super::connection::Connection;
use super::{Address, ClientBackend, ConnectConfig, Error, FlowConfig};
use crate::proto::{ChannelName, TopicName};

/// The configuration of a [`Consumer`].
///
/// # Examples
/// ```
/// use mqueue::client::ConsumerConfig;
///
/// let config = ConsumerConfig::new("foo".parse()?, "archive".parse()?)
///     .with_nsqd("127.0.0.1:4150".parse()?)
///     .with_max_in_flight(50);
/// assert_eq!((config.nsqd.len(), config.flow.max_in_flight), (1, 50));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumerConfig {
    /// The topic.
    pub topic: TopicName,
    /// The channel of the topic. Subscribing creates both.
    pub channel: ChannelName,
    /// The nsqds to connect to. Default: none.
    pub nsqd: Vec<Address>,
    /// The nsqlookupds to ask for nsqds that have the topic. Default: none.
    #[cfg(feature = "lookup")]
    pub lookupd: Vec<Lookupd>,
    /// The interval between lookups at nsqlookupd, varied at random by up to 30 %. Default: 60 s.
    #[cfg(feature = "lookup")]
    pub lookupd_poll_interval: Duration,
    /// Settings of the connections.
    pub connect: ConnectConfig,
    /// The implementation of NSQ's protocol.
    pub backend: ClientBackend,
    /// The maximum of messages in flight, and backoff. Default: 200 messages, pauses of 1 s to 60
    /// s.
    pub flow: FlowConfig,
    /// Counts of deliveries that were requeued untried. Give a clone to a consumer that follows
    /// this one in the same process.
    pub given_back: GivenBack,
}

impl ConsumerConfig {
    /// The defaults for this topic and channel. At least one nsqd has to be added with
    /// [`with_nsqd`](Self::with_nsqd), or an nsqlookupd with `with_lookupd` (feature `lookup`).
    pub fn new(topic: TopicName, channel: ChannelName) -> Self {
        Self {
            topic,
            channel,
            nsqd: Vec::new(),
            #[cfg(feature = "lookup")]
            lookupd: Vec::new(),
            #[cfg(feature = "lookup")]
            lookupd_poll_interval: Duration::from_secs(60),
            connect: ConnectConfig::default(),
            backend: ClientBackend::default(),
            flow: FlowConfig {
                max_in_flight: 200,
                first_backoff: Duration::from_secs(1),
                max_backoff: Duration::from_secs(60),
            },
            given_back: GivenBack::default(),
        }
    }

    /// Adds an nsqd to connect to.
    #[must_use]
    pub fn with_nsqd(mut self, address: Address) -> Self {
        self.nsqd.push(address);
        self
    }

    /// Adds an nsqlookupd to ask for nsqds that have the topic.
    #[cfg(feature = "lookup")]
    #[must_use]
    pub fn with_lookupd(mut self, lookupd: Lookupd) -> Self {
        self.lookupd.push(lookupd);
        self
    }

    /// Sets the interval between lookups at nsqlookupd.
    #[cfg(feature = "lookup")]
    #[must_use]
    pub fn with_lookupd_poll_interval(mut self, interval: Duration) -> Self {
        self.lookupd_poll_interval = interval;
        self
    }

    /// Sets the settings of the connections.
    #[must_use]
    pub fn with_connect(mut self, connect: ConnectConfig) -> Self {
        self.connect = connect;
        self
    }

    /// Sets the implementation of NSQ's protocol.
    #[must_use]
    pub fn with_backend(mut self, backend: ClientBackend) -> Self {
        self.backend = backend;
        self
    }

    /// Sets the maximum of messages in flight on all connections together.
    #[must_use]
    pub fn with_max_in_flight(mut self, max_in_flight: u32) -> Self {
        self.flow.max_in_flight = max_in_flight;
        self
    }

    /// Sets the first and the longest pause after failures; a longest pause of zero disables
    /// backoff.
    #[must_use]
    pub fn with_backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.flow.first_backoff, self.flow.max_backoff) = (first, longest);
        self
    }
}

/// The state of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Subscribed connections.
    pub connected: usize,
    /// nsqds that the consumer is configured to use or has discovered.
    pub known: usize,
    /// Messages in flight.
    pub in_flight: u32,
    /// Backoff: at most one message is in flight at a time, because handlers failed.
    pub backing_off: bool,
    /// Backoff pause: no messages are taken, because handlers failed.
    pub paused: bool,
}

/// A consumer of a channel, on one or several nsqds.
///
/// Dropping a consumer requeues unanswered messages. For an orderly end call [`stop`](Self::stop)
/// and then [`recv`](Self::recv) until it returns `None`. A `mqueue::worker::Worker` does
/// so, and runs a handler for each message. A consumer is a [`Stream`], too.
///
/// # Examples
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mqueue::client::{Consumer, ConsumerConfig};
///
/// let config = ConsumerConfig::new("foo".parse()?, "archive".parse()?)
///     .with_nsqd("127.0.0.1:4150".parse()?)
///     .with_max_in_flight(50);
/// let mut consumer = Consumer::connect(config).await?;
/// while let Some(delivery) = consumer.recv().await {
///     println!("{} bytes", delivery.message().body.len());
///     delivery.finish();
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<ConsumerShared>,
    arriving: mpsc::UnboundedReceiver<Vec<Delivery>>,
    ready: VecDeque<Delivery>,
}

impl Consumer {
    /// Connects and subscribes; creates the topic and the channel if they do not exist. One
    /// reachable nsqd or nsqlookupd is enough; the others are retried in the background.
    ///
    /// # Errors
    /// The first error, if no configured nsqd and no nsqlookupd is reachable, and
    /// [`Error::NoAddress`] if none is configured.
    pub async fn connect(config: ConsumerConfig) -> Result<Self, Error> {
        let found = ask_lookupds(&config).await;
        if config.nsqd.is_empty() && found.is_none() {
            return Err(Error::NoAddress);
        }
        config.backend.check(&config.connect.security)?;
        let (sender, arriving) = mpsc::unbounded_channel();
        let mut config = adapt_to_backend(config);
        config.connect.identify.give_back = true;
        let shared = Arc::new(ConsumerShared::new(config, sender.downgrade()));
        let config = &shared.config;
        let tries = join_all(config.nsqd.iter().map(|address| first_connection(&shared, address))).await;
        if tries.iter().all(Result::is_err) && !matches!(found, Some(Ok(_))) {
            let lookup = found.and_then(Result::err);
            return Err(tries.into_iter().find_map(Result::err).or(lookup).unwrap_or(Error::NoAddress));
        }
        for (address, connection) in config.nsqd.iter().zip(tries) {
            shared.ensure_link(address);
            shared.tasks.spawn(run_link(shared.clone(), address.clone(), connection, sender.clone()));
        }
        #[cfg(feature = "lookup")]
        if let Some(found) = found {
            shared.tasks.spawn(discovery::run(shared.clone(), found, sender));
        }
        shared.tasks.close();
        Ok(Self { shared, arriving, ready: VecDeque::new() })
    }

    /// The next message; `None` once the consumer is stopped, every message is answered and every
    /// connection is closed.
    ///
    /// # Cancel safety
    /// Cancel-safe: no message is lost if the future is dropped.
    pub async fn recv(&mut self) -> Option<Delivery> {
        while self.ready.is_empty() {
            self.ready.extend(self.arriving.recv().await?);
        }
        self.ready.pop_front()
    }

    /// Waits for a message and returns it with others that have arrived, at most `most`; empty
    /// where [`recv`](Self::recv) returns `None`.
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`recv`](Self::recv).
    pub async fn recv_many(&mut self, most: usize) -> Vec<Delivery> {
        let Some(first) = self.recv().await else { return Vec::new() };
        while self.ready.len() + 1 < most {
            match self.arriving.try_recv() {
                Ok(more) => self.ready.extend(more),
                Err(_) => break,
            }
        }
        let more = self.ready.len().min(most.saturating_sub(1));
        std::iter::once(first).chain(self.ready.drain(..more)).collect()
    }

    /// Sets the maximum of messages in flight on all connections together.
    pub fn set_max_in_flight(&self, max_in_flight: u32) {
        self.control().set_max_in_flight(max_in_flight);
    }

    /// A handle that controls the consumer from elsewhere, while [`recv`](Self::recv) waits.
    pub fn control(&self) -> Control {
        Control(self.shared.clone())
    }

    /// Asks nsqd for no more messages (RDY 0, CLS). Messages in flight are still delivered.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// The topic that is consumed.
    pub fn topic(&self) -> &TopicName {
        &self.shared.config.topic
    }

    /// The channel that is consumed.
    pub fn channel(&self) -> &ChannelName {
        &self.shared.config.channel
    }

    /// The configured maximum of messages in flight.
    pub fn max_in_flight(&self) -> u32 {
        self.shared.config.flow.max_in_flight
    }

    /// The consumer's current state.
    pub fn health(&self) -> Health {
        self.shared.health()
    }
}

/// The deliveries of [`recv`](Consumer::recv), as a stream.
impl Stream for Consumer {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        while self.ready.is_empty() {
            match ready!(self.arriving.poll_recv(context)) {
                Some(more) => self.ready.extend(more),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(self.ready.pop_front())
    }
}

/// Asks the nsqlookupds; `None` if there are none.
#[cfg(feature = "lookup")]
async fn ask_lookupds(config: &ConsumerConfig) -> Option<Result<discovery::DiscoveredNsqds, Error>> {
    let asked = discovery::ask(&config.lookupd, &config.topic);
    if config.lookupd.is_empty() { None } else { Some(asked.await.map_err(Error::from)) }
}

/// Without the feature `lookup` there are no nsqlookupds.
#[cfg(not(feature = "lookup"))]
async fn ask_lookupds(_: &ConsumerConfig) -> Option<Result<std::convert::Infallible, Error>> {
    None
}

/// A handle that controls a [`Consumer`] from elsewhere. Cheap to clone. It may outlive the
/// consumer, and then does nothing.
#[derive(Debug, Clone)]
pub struct Control(Arc<ConsumerShared>);

impl Control {
    /// See [`Consumer::set_max_in_flight`].
    pub fn set_max_in_flight(&self, max_in_flight: u32) {
        self.0.update(|flow, now| flow.set_max_in_flight(max_in_flight, now));
    }

    /// See [`Consumer::stop`].
    pub fn stop(&self) {
        self.0.stop();
    }

    /// See [`Consumer::health`].
    pub fn health(&self) -> Health {
        self.0.health()
    }

    /// Subscribes to this channel in another topic at this nsqd, too, and delivers its messages as
    /// the consumer's own: until the consumer stops, the connection ends, or
    /// [`unsubscribe`](Self::unsubscribe). Does nothing if subscribed already.
    pub fn subscribe_also(&self, topic: &TopicName, nsqd: &Address) {
        other_topics::start(&self.0, topic, nsqd);
    }

    /// Ends the subscription to that topic at this nsqd. Messages that are in flight are still
    /// delivered.
    pub fn unsubscribe(&self, topic: &TopicName, nsqd: &Address) {
        self.0.other_topics.unsubscribe(topic, nsqd);
    }

    /// Waits until the consumer stops.
    pub async fn stopping(&self) {
        self.0.stopping.cancelled().await;
    }
}

/// Adapts the configuration to the backend: tokio-nsq's RDY cannot be lowered, so it has no
/// backoff.
fn adapt_to_backend(config: ConsumerConfig) -> ConsumerConfig {
    match config.backend {
        ClientBackend::Own => config,
        #[cfg(feature = "tokio-nsq")]
        ClientBackend::TokioNsq => {
            let flow = FlowConfig { max_backoff: Duration::ZERO, ..config.flow };
            ConsumerConfig { flow, ..config }
        }
    }
}

/// The first connection to `address`. tokio-nsq makes its own connections; for it, this one only
/// tests the address.
async fn first_connection(shared: &ConsumerShared, address: &Address) -> Result<Connection, Error> {
    match shared.config.backend {
        ClientBackend::Own => link::subscribe(shared, &shared.config.topic, address).await,
        #[cfg(feature = "tokio-nsq")]
        ClientBackend::TokioNsq => Connection::open(address, &shared.config.connect).await,
    }
}

/// Keeps a subscription with the configured backend.
async fn run_link(
    shared: Arc<ConsumerShared>,
    address: Address,
    first: Result<Connection, Error>,
    sender: mpsc::UnboundedSender<Vec<Delivery>>,
) {
    match shared.config.backend {
        ClientBackend::Own => link::run(shared, address, first, sender).await,
        #[cfg(feature = "tokio-nsq")]
        ClientBackend::TokioNsq => tokio_nsq::run(shared, address, sender).await,
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

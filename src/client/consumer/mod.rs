//! Consuming a channel from one or several nsqds.
//!
//! ```text
//!  nsqlookupd ─▶ discovery ─▶ a link a nsqd ──▶ deliveries ──▶ recv()
//!                                 ▲                              │
//!                                 └── FIN, REQ, TOUCH ◀── Delivery
//! ```
//!
//! Every [`Delivery`] is answered exactly once: [`finish`](Delivery::finish) or [`requeue`](Delivery::requeue), and one that is
//! dropped goes back to the queue at once, untried. Until then the link keeps it alive with TOUCH. Stopping is orderly: RDY 0, CLS, what still
//! arrives is delivered, and a connection is closed only after nsqd has read the last answer.

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

/// What is consumed, and how.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// The topic.
    pub topic: TopicName,
    /// Its channel. Both are created by subscribing.
    pub channel: ChannelName,
    /// The nsqds to connect to.
    pub nsqd: Vec<Address>,
    /// The nsqlookupds to ask for more nsqds.
    #[cfg(feature = "lookup")]
    pub lookupd: Vec<Lookupd>,
    /// How often they are asked, give or take a third.
    #[cfg(feature = "lookup")]
    pub lookupd_poll_interval: Duration,
    /// How connections are made.
    pub connect: ConnectConfig,
    /// Who speaks with nsqd.
    pub backend: ClientBackend,
    /// How many messages may be in flight, and when to back off.
    pub flow: FlowConfig,
    /// What was given back untried; consumers that follow one another share it.
    pub given_back: GivenBack,
}

impl ConsumerConfig {
    /// The defaults for this topic and channel; addresses are to be added.
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
}

/// How a consumer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Subscribed connections.
    pub connected: usize,
    /// nsqds that there should be connections to.
    pub known: usize,
    /// Messages in flight.
    pub in_flight: u32,
    /// Few or no messages are taken, because handlers failed.
    pub backing_off: bool,
    /// No messages are taken for a while, because handlers failed.
    pub paused: bool,
}

/// Receives a channel's messages. Dropping it gives back what was not answered; [`stop`](Self::stop), and then
/// [`recv`](Self::recv) to the end, do so in order.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<ConsumerShared>,
    arriving: mpsc::UnboundedReceiver<Vec<Delivery>>,
    ready: VecDeque<Delivery>,
}

impl Consumer {
    /// Connects and subscribes. Succeeds if one nsqd given by address could be had, or one nsqlookupd; whatever else there is
    /// is tried until it answers. Fails with the first error otherwise.
    pub async fn connect(config: ConsumerConfig) -> Result<Self, Error> {
        let found = look_up(&config).await;
        if config.nsqd.is_empty() && found.is_none() {
            return Err(Error::NoAddress);
        }
        let (sender, arriving) = mpsc::unbounded_channel();
        let mut config = as_its_driver_can(config);
        config.connect.identify.give_back = true;
        let shared = Arc::new(ConsumerShared::new(config, sender.downgrade()));
        let config = &shared.config;
        let tries = join_all(config.nsqd.iter().map(|address| first(&shared, address))).await;
        if tries.iter().all(Result::is_err) && !matches!(found, Some(Ok(_))) {
            let lookup = found.and_then(Result::err);
            return Err(tries.into_iter().find_map(Result::err).or(lookup).unwrap_or(Error::NoAddress));
        }
        for (address, connection) in config.nsqd.iter().zip(tries) {
            shared.ensure_link(address);
            shared.tasks.spawn(link(shared.clone(), address.clone(), connection, sender.clone()));
        }
        #[cfg(feature = "lookup")]
        if let Some(found) = found {
            shared.tasks.spawn(discovery::run(shared.clone(), found, sender));
        }
        shared.tasks.close();
        Ok(Self { shared, arriving, ready: VecDeque::new() })
    }

    /// The next message; `None` when the consumer was stopped and every connection is closed, which is after every message has been
    /// answered. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Delivery> {
        while self.ready.is_empty() {
            self.ready.extend(self.arriving.recv().await?);
        }
        self.ready.pop_front()
    }

    /// At the most `most` messages that have arrived, waiting for the first; empty in the end, as [`recv`](Self::recv).
    /// Cancel-safe.
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

    /// Changes how many messages may be in flight on all connections together, from now on.
    pub fn set_max_in_flight(&self, max_in_flight: u32) {
        self.control().set_max_in_flight(max_in_flight);
    }

    /// A way to steer it from elsewhere, while [`recv`](Self::recv) waits.
    pub fn control(&self) -> Control {
        Control(self.shared.clone())
    }

    /// Asks nsqd for no more messages (RDY 0, CLS). What has arrived or is on its way is still delivered.
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

    /// How many messages may be in flight by the settings.
    pub fn max_in_flight(&self) -> u32 {
        self.shared.config.flow.max_in_flight
    }

    /// How it is doing now.
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

/// What the nsqlookupds know; `None` if there are none.
#[cfg(feature = "lookup")]
async fn look_up(config: &ConsumerConfig) -> Option<Result<discovery::DiscoveredNsqds, Error>> {
    let asked = discovery::ask(&config.lookupd, &config.topic);
    if config.lookupd.is_empty() { None } else { Some(asked.await.map_err(Error::from)) }
}

/// There are no nsqlookupds.
#[cfg(not(feature = "lookup"))]
async fn look_up(_: &ConsumerConfig) -> Option<Result<std::convert::Infallible, Error>> {
    None
}

/// Steers a [`Consumer`] from elsewhere. Cheap to clone; it outlives the consumer, and then does nothing.
#[derive(Debug, Clone)]
pub struct Control(Arc<ConsumerShared>);

impl Control {
    /// As [`Consumer::set_max_in_flight`].
    pub fn set_max_in_flight(&self, max_in_flight: u32) {
        self.0.update(|flow, now| flow.set_max_in_flight(max_in_flight, now));
    }

    /// As [`Consumer::stop`].
    pub fn stop(&self) {
        self.0.stop();
    }

    /// As [`Consumer::health`].
    pub fn health(&self) -> Health {
        self.0.health()
    }

    /// Takes the messages of this channel in another topic, too, at this nsqd, as if they were the consumer's own: until the consumer
    /// stops, the connection ends, or [`unsubscribe`](Self::unsubscribe). Nothing if it does so already.
    pub fn subscribe_also(&self, topic: &TopicName, nsqd: &Address) {
        other_topics::start(&self.0, topic, nsqd);
    }

    /// Takes no more messages of that topic there. What has arrived or is on its way is still delivered.
    pub fn unsubscribe(&self, topic: &TopicName, nsqd: &Address) {
        self.0.other_topics.unsubscribe(topic, nsqd);
    }

    /// Done when the consumer stops.
    pub async fn stopping(&self) {
        self.0.stopping.cancelled().await;
    }
}

/// tokio-nsq's RDY cannot be lowered: for it there are no pauses, and none to wait for.
fn as_its_driver_can(config: ConsumerConfig) -> ConsumerConfig {
    match config.backend {
        ClientBackend::Own => config,
        #[cfg(feature = "tokio-nsq")]
        ClientBackend::TokioNsq => {
            let flow = FlowConfig { max_backoff: Duration::ZERO, ..config.flow };
            ConsumerConfig { flow, ..config }
        }
    }
}

/// The first connection to `address`. tokio-nsq makes its own: for it, this one only shows that it can.
async fn first(shared: &ConsumerShared, address: &Address) -> Result<Connection, Error> {
    match shared.config.backend {
        ClientBackend::Own => link::subscribe(shared, &shared.config.topic, address).await,
        #[cfg(feature = "tokio-nsq")]
        ClientBackend::TokioNsq => Connection::open(address, &shared.config.connect).await,
    }
}

/// Keeps a subscription, by whoever is to speak with nsqd.
async fn link(
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

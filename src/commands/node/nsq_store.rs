//! A fleet in NSQ: a connection for the token and the events, and one for heartbeats.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use super::clock;
use super::fleet_store::{FleetStore, StoreEvent};
use super::lease::{FleetConfig, Heartbeat, LeaseAction, LeaseEvent, LeaseToken};
use super::reconnecting::{LinkEvent, Reconnecting};
use super::repeated_warning::RepeatedWarning;
use super::token_topics::TokenTopics;
use crate::commands::common::exit::Failure;
use mqueue::client::SubscriptionEvent;
use mqueue::proto::{Command, ErrorCode, Message, WireError};

/// The most events that nsqd has not acknowledged yet.
const MAX_UNACKNOWLEDGED: usize = 1000;
/// RDY for tokens: a second token can be delivered, and is finished.
const TOKEN_RDY: u64 = 2;
/// RDY for heartbeats.
const MONITOR_RDY: u64 = 100;

/// A published message whose OK is awaited. OKs come in the order of the messages.
#[derive(Debug)]
enum PendingReply {
    Heartbeat(u64),
    Event,
    Token,
}

type CountFuture = Pin<Box<dyn Future<Output = Option<u64>> + Send>>;

/// The topics of a fleet, and the connections to their nsqd.
pub(super) struct NsqStore {
    topics: TokenTopics,
    fleet: FleetConfig,
    token: Reconnecting,
    monitor: Reconnecting,
    /// The events of the first connections.
    first: VecDeque<LeaseEvent>,
    pending: VecDeque<PendingReply>,
    counting: Option<CountFuture>,
    /// Messages in the token's topic that are not tokens.
    invalid_tokens: RepeatedWarning,
    /// Messages in the heartbeats' topic that are not heartbeats.
    invalid_heartbeats: RepeatedWarning,
}

impl NsqStore {
    /// Connects. Fails if nsqd is unreachable, or its settings do not fit.
    pub(super) async fn connect(topics: TokenTopics, fleet: FleetConfig) -> Result<Self, Failure> {
        let token = topics.connect_checked().await?;
        let monitor = topics.connect_monitor().await.map_err(|e| Failure::unavailable(&e))?;
        let (for_token, for_monitor) = (topics.clone(), topics.clone());
        let token = Reconnecting::new("the token", token, Box::new(move || for_token.connect_token()));
        let monitor = Reconnecting::new("heartbeats", monitor, Box::new(move || for_monitor.connect_monitor()));
        let mut store = Self {
            topics,
            fleet,
            token,
            monitor,
            first: VecDeque::new(),
            pending: VecDeque::new(),
            counting: None,
            invalid_tokens: RepeatedWarning::default(),
            invalid_heartbeats: RepeatedWarning::default(),
        };
        store.first = VecDeque::from([store.token_connected(), store.monitor_connected()]);
        Ok(store)
    }

    fn token_connected(&self) -> LeaseEvent {
        LeaseEvent::Connected { max_msg_timeout: self.token.max_msg_timeout() }
    }

    fn monitor_connected(&mut self) -> LeaseEvent {
        self.monitor.send(&Command::Rdy(MONITOR_RDY));
        LeaseEvent::MonitorReady
    }

    fn on_token_event(&mut self, event: LinkEvent) -> Option<StoreEvent> {
        match event {
            LinkEvent::Connected => Some(StoreEvent::Lease(self.token_connected())),
            LinkEvent::Disconnected => Some(StoreEvent::Lease(self.token_lost())),
            LinkEvent::Received(SubscriptionEvent::Message(message)) => self.delivered(&message).map(StoreEvent::Lease),
            LinkEvent::Received(SubscriptionEvent::Published) => match self.pending.pop_front() {
                Some(PendingReply::Heartbeat(number)) => {
                    Some(StoreEvent::Lease(LeaseEvent::HeartbeatConfirmed { number }))
                }
                Some(PendingReply::Event) => Some(StoreEvent::EventStored),
                Some(PendingReply::Token) | None => None,
            },
            LinkEvent::Received(SubscriptionEvent::Failed(error)) => {
                tracing::debug!("{error}");
                match error.code {
                    ErrorCode::TouchFailed => Some(StoreEvent::Lease(LeaseEvent::TouchFailed)),
                    ErrorCode::Fenced => Some(StoreEvent::Lease(self.fenced(&error))),
                    _ => None,
                }
            }
        }
    }

    /// Handles a refused event: the stream is in a later epoch, which the error text contains.
    fn fenced(&mut self, error: &WireError) -> LeaseEvent {
        self.pending.pop_front();
        let epoch = str::from_utf8(&error.text).ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
        tracing::warn!("nsqd refused an event of an old epoch; requeueing the token: {error}");
        LeaseEvent::Fenced { epoch: epoch.unwrap_or(0) }
    }

    fn token_lost(&mut self) -> LeaseEvent {
        self.pending.clear();
        LeaseEvent::Disconnected
    }

    /// Handles a message of the token's topic; finishes it if it is not a token.
    fn delivered(&mut self, message: &Message) -> Option<LeaseEvent> {
        match serde_json::from_slice(&message.body) {
            Ok(fleet) => {
                let token = LeaseToken { id: message.id, delivery: message.attempts };
                let published = milliseconds(message);
                Some(LeaseEvent::TokenDelivered { token, published, fleet, epoch: None })
            }
            Err(error) => {
                if let Some(count) = self.invalid_tokens.record(clock::now()) {
                    tracing::warn!(count, "removed a message from {} that is not a token: {error}", self.topics.token);
                }
                self.token.send(&Command::Fin(message.id));
                None
            }
        }
    }

    fn on_monitor_event(&mut self, event: LinkEvent) -> Option<LeaseEvent> {
        match event {
            LinkEvent::Connected => Some(self.monitor_connected()),
            LinkEvent::Disconnected => Some(LeaseEvent::MonitorLost),
            LinkEvent::Received(SubscriptionEvent::Message(message)) => {
                self.monitor.send(&Command::Fin(message.id));
                match serde_json::from_slice::<Heartbeat>(&message.body) {
                    Ok(beat) => Some(LeaseEvent::HeartbeatReceived { beat, published: milliseconds(&message) }),
                    Err(error) => {
                        if let Some(count) = self.invalid_heartbeats.record(clock::now()) {
                            tracing::warn!(
                                count,
                                "removed a message from {} that is not a heartbeat: {error}",
                                self.topics.beats
                            );
                        }
                        None
                    }
                }
            }
            LinkEvent::Received(SubscriptionEvent::Published | SubscriptionEvent::Failed(_)) => None,
        }
    }

    fn send(&mut self, command: Command, pending: PendingReply) {
        if self.token.send(&command) {
            self.pending.push_back(pending);
        }
    }
}

impl FleetStore for NsqStore {
    async fn next(&mut self) -> StoreEvent {
        if let Some(event) = self.first.pop_front() {
            return StoreEvent::Lease(event);
        }
        loop {
            let event = tokio::select! {
                biased;
                event = self.token.next() => self.on_token_event(event),
                event = self.monitor.next() => self.on_monitor_event(event).map(StoreEvent::Lease),
                count = counted(&mut self.counting) => {
                    self.counting = None;
                    Some(StoreEvent::Lease(LeaseEvent::TokensCounted(count)))
                }
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn execute(&mut self, action: LeaseAction) -> Option<LeaseEvent> {
        let command = match action {
            LeaseAction::Ready(ready) => Command::Rdy(if ready { TOKEN_RDY } else { 0 }),
            LeaseAction::Heartbeat { beat, touch } => {
                if let Some(token) = touch {
                    self.token.send(&Command::Touch(token.id));
                }
                let body = Bytes::from(serde_json::to_vec(&beat).expect("text and numbers"));
                let topic = self.topics.beats.clone();
                self.send(Command::Pub { topic, body }, PendingReply::Heartbeat(beat.number));
                return None;
            }
            LeaseAction::Finish(token) => Command::Fin(token.id),
            LeaseAction::Requeue(token) => Command::Req { id: token.id, delay: 0 },
            LeaseAction::Defer(token) => Command::Req { id: token.id, delay: self.fleet.lease_ms / 4 },
            LeaseAction::CountTokens => {
                self.counting = Some(Box::pin(self.topics.clone().count()));
                return None;
            }
            LeaseAction::PublishToken => {
                tracing::info!(stream = %self.topics.token, "no token found; published one");
                let body = Bytes::from(serde_json::to_vec(&self.fleet).expect("text and numbers"));
                let topic = self.topics.token.clone();
                self.send(Command::Pub { topic, body }, PendingReply::Token);
                return None;
            }
            LeaseAction::Reconnect => {
                tracing::warn!("no heartbeat was confirmed in time; dropped the token and reconnecting");
                self.token.reconnect();
                return Some(self.token_lost());
            }
            LeaseAction::ReconnectMonitor => {
                self.monitor.reconnect();
                return Some(LeaseEvent::MonitorLost);
            }
            LeaseAction::WarnSettingsDiffer(_) => return None,
        };
        self.token.send(&command);
        None
    }

    fn publish(&mut self, epoch: u64, body: String) {
        let (topic, body) = (self.fleet.stream.clone(), Bytes::from(body));
        let command =
            if self.token.fences() { Command::Fpub { topic, epoch, body } } else { Command::Pub { topic, body } };
        self.send(command, PendingReply::Event);
    }

    fn has_room(&self) -> bool {
        self.pending.len() < MAX_UNACKNOWLEDGED
    }

    fn token_name(&self) -> String {
        self.topics.token.to_string()
    }

    async fn close(self) {
        self.token.close().await;
    }
}

/// Returns when the message was published, in milliseconds since 1970.
fn milliseconds(message: &Message) -> u64 {
    u64::try_from(message.timestamp / 1_000_000).unwrap_or(0)
}

async fn counted(counting: &mut Option<CountFuture>) -> Option<u64> {
    match counting {
        Some(counting) => counting.await,
        None => std::future::pending().await,
    }
}

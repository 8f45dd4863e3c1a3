//! The store of a fleet in Redis, for the lease that also works on NSQ: the key is the one token, and
//! each time that a node gets it is a delivery.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::lease_link::{FIRST_PAUSE, LONGEST_PAUSE, LeaseCommand, LeaseLink, LeaseReport};
use super::monitor_link::{MonitorLink, MonitorReport};
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::redis::{RedisError, RedisServer};
use crate::commands::node::clock;
use crate::commands::node::fleet_store::{FleetStore, StoreEvent};
use crate::commands::node::lease::{FleetConfig, Heartbeat, LeaseAction, LeaseEvent, LeaseToken, Role};
use crate::commands::node::repeated_warning::RepeatedWarning;
use mqueue::backoff::Backoff;
use mqueue::proto::MessageId;

/// The key of the lease, unless another is named: that of seed programs on Redis.
const SEEDS_LOCK: &str = "lock:gen";
/// The most events that Redis has not accepted yet.
const MAX_UNACKNOWLEDGED: usize = 1000;
/// The id of the token, which is always the same key.
const TOKEN: MessageId = MessageId(*b"redis-lease-lock");
/// The longest time that the token may be held: Redis has no limit.
const MAX_HELD: Duration = Duration::from_secs(1 << 30);
/// A wait before the lease is tried again once it has expired.
const SOON: Duration = Duration::from_millis(2);

/// The names in Redis, and the time of the lease.
#[derive(Debug, Clone)]
pub(in crate::commands::node) struct LeaseKeys {
    pub(super) lock: String,
    pub(super) epoch: String,
    /// Channels are shared by all databases.
    pub(super) channel: String,
    pub(super) queue: String,
    pub(super) lease: Duration,
}

impl LeaseKeys {
    /// Names the keys of a fleet: `lock` is that of the lease.
    pub(in crate::commands::node) fn new(server: &RedisServer, lock: Option<&str>, lease: Duration) -> Self {
        let lock = lock.unwrap_or(SEEDS_LOCK);
        let list = &server.list;
        let of_lock = crate::commands::common::redis::RedisList { key: lock.to_owned(), ..list.clone() };
        Self {
            lock: lock.to_owned(),
            epoch: of_lock.key_of("epoch"),
            channel: of_lock.key_of(&format!("beats:{}", list.database)),
            queue: list.key.clone(),
            lease,
        }
    }
}

/// The connections for the lease.
pub(in crate::commands::node) struct RedisStore {
    server: RedisServer,
    keys: LeaseKeys,
    node: String,
    fleet: FleetConfig,
    link: LeaseLink,
    monitor: MonitorLink,
    is_connected: bool,
    link_pauses: Backoff,
    monitor_pauses: Backoff,
    /// True if the lease wants the token.
    is_ready: bool,
    /// The number of the last try to take the lease.
    tries: u64,
    /// When to try to take the lease; `None` while the reply to a try is awaited.
    try_at: Option<Instant>,
    /// The owner as which this node has the lease.
    owner: Option<String>,
    /// The heartbeat that announces the end of the lease, until that is sent.
    release: Bytes,
    /// Events without a reply.
    pending: usize,
    highest_epoch: u64,
    events: VecDeque<LeaseEvent>,
    refusals: RepeatedWarning,
    invalid_heartbeats: RepeatedWarning,
    endless: RepeatedWarning,
}

impl RedisStore {
    /// Connects.
    ///
    /// # Errors
    /// Redis is unreachable, refuses this user, or has something else than a list under its name.
    pub(in crate::commands::node) async fn connect(
        server: RedisServer,
        keys: LeaseKeys,
        node: String,
        fleet: FleetConfig,
    ) -> Result<Self, Failure> {
        let (mut first, second) = (server.connect_first().await?, server.connect_first().await?);
        // a write without an effect: a replica, or a user without the permission, is refused at once
        let nothing = keys.epoch.clone() + ":none";
        first.ask_for(&[b"DEL", nothing.as_bytes()]).await.map_err(|error| Failure::new(Exit::Failure, error))?;
        let pauses = || Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, fastrand::Rng::new());
        Ok(Self {
            link: LeaseLink::new(server.clone(), keys.clone(), Some(first), Duration::ZERO),
            monitor: MonitorLink::new(server.clone(), keys.clone(), Some(second), Duration::ZERO),
            server,
            keys,
            node,
            fleet,
            is_connected: false,
            link_pauses: pauses(),
            monitor_pauses: pauses(),
            is_ready: false,
            tries: 0,
            try_at: Some(Instant::now()),
            owner: None,
            release: Bytes::new(),
            pending: 0,
            highest_epoch: 0,
            events: VecDeque::new(),
            refusals: RepeatedWarning::default(),
            invalid_heartbeats: RepeatedWarning::default(),
            endless: RepeatedWarning::default(),
        })
    }

    /// When to try to take the lease, if this node wants it and can.
    fn due(&self) -> Option<Instant> {
        self.try_at.filter(|_| self.is_ready && self.is_connected && self.owner.is_none())
    }

    fn try_to_acquire(&mut self) {
        self.try_at = None;
        self.tries += 1;
        let owner = format!("{} {}", self.node, self.tries);
        self.link.send(LeaseCommand::Acquire { owner, known_epoch: self.highest_epoch });
    }

    fn is_owner(&self, owner: &str) -> bool {
        self.owner.as_deref() == Some(owner)
    }

    fn on_report(&mut self, report: LeaseReport) -> Option<StoreEvent> {
        let quarter = self.keys.lease / 4;
        let event = match report {
            LeaseReport::Connected => {
                if self.tries > 0 {
                    tracing::info!("reconnected for the lease");
                }
                self.link_pauses.reset();
                self.is_connected = true;
                LeaseEvent::Connected { max_msg_timeout: MAX_HELD }
            }
            LeaseReport::Lost(error) => {
                if self.is_connected {
                    tracing::warn!("connection for the lease lost; reconnecting: {error}");
                } else {
                    tracing::debug!("cannot connect for the lease: {error}");
                }
                return self.reconnect().map(StoreEvent::Lease);
            }
            LeaseReport::Acquired { owner, epoch, now } => {
                self.highest_epoch = self.highest_epoch.max(epoch);
                self.owner = Some(owner);
                let token = LeaseToken { id: TOKEN, delivery: epoch as u16 };
                // only the first epoch had no holder before
                let published = if epoch == 1 { now } else { 0 };
                LeaseEvent::TokenDelivered { token, published, fleet: self.fleet.clone(), epoch: Some(epoch) }
            }
            LeaseReport::Taken { rest } => {
                if rest.is_none()
                    && let Some(count) = self.endless.record(clock::now())
                {
                    let lock = &self.keys.lock;
                    tracing::warn!(
                        count,
                        "nobody can generate: key {lock} has no time to live, so nobody renews it; if that is a mistake, `redis-cli DEL {lock}`"
                    );
                }
                self.try_at = Some(Instant::now() + rest.unwrap_or(quarter).min(quarter) + SOON);
                return None;
            }
            LeaseReport::Renewed { owner, number } if self.is_owner(&owner) => {
                LeaseEvent::HeartbeatConfirmed { number }
            }
            LeaseReport::NotOwner { owner } if self.is_owner(&owner) => {
                self.owner = None;
                self.try_at = Some(Instant::now() + SOON);
                LeaseEvent::TouchFailed
            }
            LeaseReport::Renewed { .. } | LeaseReport::NotOwner { .. } => return None,
            LeaseReport::EventPushed => {
                self.pending = self.pending.saturating_sub(1);
                return Some(StoreEvent::EventStored);
            }
            LeaseReport::EventRefused { owner, epoch } => {
                self.pending = self.pending.saturating_sub(1);
                if !self.is_owner(&owner) {
                    return None;
                }
                tracing::warn!("Redis refused an event of an old epoch: the lease is another node's");
                LeaseEvent::Fenced { epoch }
            }
            LeaseReport::Failed { command, error } => {
                match command {
                    LeaseCommand::Acquire { .. } => self.try_at = Some(Instant::now() + quarter),
                    LeaseCommand::PushEvent { .. } => self.pending = self.pending.saturating_sub(1),
                    LeaseCommand::Renew { .. } | LeaseCommand::Release { .. } => {}
                }
                if let Some(count) = self.refusals.record(clock::now()) {
                    tracing::warn!(count, "{error}");
                }
                return None;
            }
        };
        Some(StoreEvent::Lease(event))
    }

    /// Replaces the connection; the lease, if this node has it, ends by itself.
    fn reconnect(&mut self) -> Option<LeaseEvent> {
        let pause = self.link_pauses.next().unwrap_or(LONGEST_PAUSE);
        self.link = LeaseLink::new(self.server.clone(), self.keys.clone(), None, pause);
        (self.owner, self.pending, self.release) = (None, 0, Bytes::new());
        self.try_at = Some(Instant::now());
        std::mem::replace(&mut self.is_connected, false).then_some(LeaseEvent::Disconnected)
    }

    fn reconnect_monitor(&mut self) {
        let pause = self.monitor_pauses.next().unwrap_or(LONGEST_PAUSE);
        self.monitor = MonitorLink::new(self.server.clone(), self.keys.clone(), None, pause);
    }

    fn on_monitor_report(&mut self, report: MonitorReport) -> Option<LeaseEvent> {
        match report {
            MonitorReport::Subscribed => {
                self.monitor_pauses.reset();
                Some(LeaseEvent::MonitorReady)
            }
            MonitorReport::Lost(error) => {
                self.monitor_lost(&error);
                Some(LeaseEvent::MonitorLost)
            }
            MonitorReport::Message(message) => match heartbeat(&message) {
                Ok((published, beat)) => {
                    if beat.role == Role::Released {
                        self.try_at = self.try_at.map(|_| Instant::now());
                    }
                    Some(LeaseEvent::HeartbeatReceived { beat, published })
                }
                Err(error) => {
                    if let Some(count) = self.invalid_heartbeats.record(clock::now()) {
                        let channel = &self.keys.channel;
                        tracing::warn!(count, "ignored a message in {channel} that is not a heartbeat: {error}");
                    }
                    None
                }
            },
        }
    }

    fn monitor_lost(&mut self, error: &RedisError) {
        match error {
            RedisError::Unreachable { .. } => tracing::debug!("cannot connect for heartbeats: {error}"),
            _ => tracing::warn!("subscription to heartbeats lost; subscribing again: {error}"),
        }
        self.reconnect_monitor();
    }
}

/// Reads a heartbeat with the time at which it was published.
fn heartbeat(message: &Bytes) -> Result<(u64, Heartbeat), String> {
    let text = str::from_utf8(message).map_err(|error| error.to_string())?;
    let (published, beat) = text.split_once(' ').ok_or("it has no time")?;
    let published = published.parse().map_err(|_| "it has no time")?;
    Ok((published, serde_json::from_str(beat).map_err(|error| error.to_string())?))
}

fn json(beat: &Heartbeat) -> Bytes {
    Bytes::from(serde_json::to_vec(beat).expect("text and numbers"))
}

impl FleetStore for RedisStore {
    async fn next(&mut self) -> StoreEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return StoreEvent::Lease(event);
            }
            let due = self.due();
            let event = tokio::select! {
                biased;
                report = self.link.next() => self.on_report(report),
                report = self.monitor.next() => self.on_monitor_report(report).map(StoreEvent::Lease),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.try_to_acquire();
                    None
                }
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn execute(&mut self, action: LeaseAction) -> Option<LeaseEvent> {
        match action {
            LeaseAction::Ready(is_ready) => self.is_ready = is_ready,
            LeaseAction::Heartbeat { beat, touch: Some(_) } => {
                if let Some(owner) = self.owner.clone() {
                    self.highest_epoch = self.highest_epoch.max(beat.epoch);
                    self.link.send(LeaseCommand::Renew { owner, number: beat.number, beat: json(&beat) });
                }
            }
            // it goes with the end of the lease, in one step
            LeaseAction::Heartbeat { beat, touch: None } => self.release = json(&beat),
            LeaseAction::Finish(_) | LeaseAction::Requeue(_) | LeaseAction::Defer(_) => {
                let beat = std::mem::take(&mut self.release);
                if let Some(owner) = self.owner.take() {
                    self.link.send(LeaseCommand::Release { owner, beat });
                }
                self.try_at = Some(Instant::now() + self.keys.lease / 4);
            }
            // the key is one
            LeaseAction::CountTokens => return Some(LeaseEvent::TokensCounted(Some(1))),
            LeaseAction::Reconnect => {
                tracing::warn!("no heartbeat was confirmed in time; dropped the lease and reconnecting");
                return self.reconnect();
            }
            LeaseAction::ReconnectMonitor => {
                self.reconnect_monitor();
                return Some(LeaseEvent::MonitorLost);
            }
            LeaseAction::PublishToken | LeaseAction::WarnSettingsDiffer(_) => {}
        }
        None
    }

    fn publish(&mut self, _: u64, event: String) {
        if let Some(owner) = self.owner.clone() {
            self.pending += 1;
            self.link.send(LeaseCommand::PushEvent { owner, event });
        }
    }

    fn has_room(&self) -> bool {
        self.pending < MAX_UNACKNOWLEDGED
    }

    fn token_name(&self) -> String {
        self.keys.lock.clone()
    }

    async fn close(self) {
        self.link.close().await;
    }
}

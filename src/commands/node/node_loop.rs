//! The I/O around the lease: two connections, a clock, and the generated events.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::clock;
use super::event;
use super::expvar::NodeVars;
use super::generator::Generator;
use super::lease::{FleetConfig, Heartbeat, Lease, LeaseAction, LeaseConfig, LeaseEvent, LeaseToken, NodeSecret};
use super::reconnecting::{LinkEvent, Reconnecting};
use super::repeated_warning::RepeatedWarning;
use super::token_topics::TokenTopics;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::node::args::Args;
use mqueue::client::SubscriptionEvent;
use mqueue::plural::count;
use mqueue::proto::{Command, ErrorCode, Message, WireError};
use mqueue::shutdown::Shutdown;

/// The most events that nsqd has not acknowledged yet.
const MAX_UNACKNOWLEDGED: usize = 1000;
/// RDY for tokens: a second token can be delivered, and is finished.
const TOKEN_RDY: u64 = 2;
/// RDY for heartbeats.
const MONITOR_RDY: u64 = 100;
/// A wait without an end.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// A published message whose OK is awaited. OKs come in the order of the messages.
#[derive(Debug)]
enum PendingReply {
    Heartbeat(u64),
    Event,
    Token,
}

type CountFuture = Pin<Box<dyn Future<Output = Option<u64>> + Send>>;

/// The loop that drives the lease and generates events.
pub(super) struct NodeLoop {
    topics: TokenTopics,
    fleet: FleetConfig,
    lease: Lease,
    token: Reconnecting,
    monitor: Reconnecting,
    pending: VecDeque<PendingReply>,
    counting: Option<CountFuture>,
    generator: Generator,
    vars: Arc<NodeVars>,
    leading: watch::Sender<bool>,
    /// Messages in the token's topic that are not tokens.
    invalid_tokens: RepeatedWarning,
    /// Messages in the heartbeats' topic that are not heartbeats.
    invalid_heartbeats: RepeatedWarning,
    /// Tokens and heartbeats of nodes with other settings.
    other_fleets: RepeatedWarning,
}

impl NodeLoop {
    /// Connects. Fails if nsqd is unreachable, or its settings do not fit.
    pub(super) async fn connect(
        args: &Args,
        topics: TokenTopics,
        vars: Arc<NodeVars>,
        leading: watch::Sender<bool>,
    ) -> Result<Self, Failure> {
        let token = topics.connect_checked().await?;
        let monitor = topics.connect_monitor().await.map_err(|e| Failure::unavailable(&e))?;
        let mut rng = event::rng();
        let node = format!("{}-{}-{:016x}", hostname(), std::process::id(), rng.u64(..));
        let lease_ms = u64::try_from(args.ping_interval.as_millis()).unwrap_or(u64::MAX);
        let fleet = FleetConfig { stream: args.stream.clone(), lease_ms };
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|e| Failure::new(Exit::Unavailable, format!("no randomness from the system: {e}")))?;
        let config = LeaseConfig { node, fleet: fleet.clone(), secret: NodeSecret::new(secret) };
        let (for_token, for_monitor) = (topics.clone(), topics.clone());
        Ok(Self {
            fleet,
            lease: Lease::new(config, rng.fork()),
            token: Reconnecting::new("the token", token, Box::new(move || for_token.connect_token())),
            monitor: Reconnecting::new("heartbeats", monitor, Box::new(move || for_monitor.connect_monitor())),
            pending: VecDeque::new(),
            counting: None,
            generator: Generator::new(args.stream.clone(), args.interval(), rng),
            topics,
            vars,
            leading,
            invalid_tokens: RepeatedWarning::default(),
            invalid_heartbeats: RepeatedWarning::default(),
            other_fleets: RepeatedWarning::default(),
        })
    }

    /// Runs until shutdown.
    pub(super) async fn run(mut self, shutdown: &Shutdown) {
        self.log_waiting();
        self.token_connected();
        self.monitor_connected();
        loop {
            let now = clock::now();
            let wait = self.lease.due().map_or(NEVER, |due| due.saturating_sub(now));
            let generates = self.lease.leads(now).is_some() && self.pending.len() < MAX_UNACKNOWLEDGED;
            tokio::select! {
                biased;
                () = shutdown.draining.cancelled() => {
                    self.handle(LeaseEvent::Stop);
                    break;
                }
                event = self.token.next() => self.on_token_event(event),
                event = self.monitor.next() => self.on_monitor_event(event),
                count = counted(&mut self.counting) => {
                    self.counting = None;
                    self.handle(LeaseEvent::TokensCounted(count));
                }
                () = tokio::time::sleep(wait) => self.handle(LeaseEvent::Tick),
                _ = self.generator.due(), if generates => self.generate(),
            }
        }
        self.update_leadership();
        self.token.close().await;
    }

    fn token_connected(&mut self) {
        self.vars.has_token_connection.store(true, Ordering::Relaxed);
        self.handle(LeaseEvent::Connected { max_msg_timeout: self.token.max_msg_timeout() });
    }

    fn monitor_connected(&mut self) {
        self.monitor.send(&Command::Rdy(MONITOR_RDY));
        self.handle(LeaseEvent::MonitorReady);
    }

    fn on_token_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected => self.token_connected(),
            LinkEvent::Disconnected => self.token_lost(),
            LinkEvent::Received(SubscriptionEvent::Message(message)) => self.delivered(&message),
            LinkEvent::Received(SubscriptionEvent::Published) => match self.pending.pop_front() {
                Some(PendingReply::Heartbeat(number)) => self.handle(LeaseEvent::HeartbeatConfirmed { number }),
                Some(PendingReply::Event) => drop(self.vars.published.fetch_add(1, Ordering::Relaxed)),
                Some(PendingReply::Token) | None => {}
            },
            LinkEvent::Received(SubscriptionEvent::Failed(error)) => {
                tracing::debug!("{error}");
                match error.code {
                    ErrorCode::TouchFailed => self.handle(LeaseEvent::TouchFailed),
                    ErrorCode::Fenced => self.fenced(&error),
                    _ => {}
                }
            }
        }
    }

    /// Handles a refused event: the stream is in a later epoch, which the error text contains.
    fn fenced(&mut self, error: &WireError) {
        self.pending.pop_front();
        let epoch = str::from_utf8(&error.text).ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
        tracing::warn!("nsqd refused an event of an old epoch; requeueing the token: {error}");
        self.handle(LeaseEvent::Fenced { epoch: epoch.unwrap_or(0) });
    }

    fn token_lost(&mut self) {
        self.vars.has_token_connection.store(false, Ordering::Relaxed);
        self.pending.clear();
        self.handle(LeaseEvent::Disconnected);
    }

    /// Handles a message of the token's topic; finishes it if it is not a token.
    fn delivered(&mut self, message: &Message) {
        match serde_json::from_slice(&message.body) {
            Ok(fleet) => {
                let token = LeaseToken { id: message.id, delivery: message.attempts };
                let published = milliseconds(message);
                self.handle(LeaseEvent::TokenDelivered { token, published, fleet });
            }
            Err(error) => {
                if let Some(count) = self.invalid_tokens.record(clock::now()) {
                    tracing::warn!(count, "removed a message from {} that is not a token: {error}", self.topics.token);
                }
                self.token.send(&Command::Fin(message.id));
            }
        }
    }

    fn on_monitor_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected => self.monitor_connected(),
            LinkEvent::Disconnected => self.handle(LeaseEvent::MonitorLost),
            LinkEvent::Received(SubscriptionEvent::Message(message)) => {
                self.monitor.send(&Command::Fin(message.id));
                match serde_json::from_slice::<Heartbeat>(&message.body) {
                    Ok(beat) => {
                        self.handle(LeaseEvent::HeartbeatReceived { beat, published: milliseconds(&message) });
                    }
                    Err(error) => {
                        if let Some(count) = self.invalid_heartbeats.record(clock::now()) {
                            tracing::warn!(
                                count,
                                "removed a message from {} that is not a heartbeat: {error}",
                                self.topics.beats
                            );
                        }
                    }
                }
            }
            LinkEvent::Received(SubscriptionEvent::Published | SubscriptionEvent::Failed(_)) => {}
        }
    }

    fn handle(&mut self, event: LeaseEvent) {
        self.lease.observe_epoch(self.vars.seen_epoch.load(Ordering::Relaxed));
        for action in self.lease.handle(event, clock::now()) {
            self.execute(action);
        }
        self.update_leadership();
    }

    fn execute(&mut self, action: LeaseAction) {
        match action {
            LeaseAction::Ready(ready) => self.send_for_token(&Command::Rdy(if ready { TOKEN_RDY } else { 0 })),
            LeaseAction::Heartbeat { beat, touch } => {
                touch.into_iter().for_each(|token| self.send_for_token(&Command::Touch(token.id)));
                let body = Bytes::from(serde_json::to_vec(&beat).expect("text and numbers"));
                self.publish(
                    Command::Pub { topic: self.topics.beats.clone(), body },
                    PendingReply::Heartbeat(beat.number),
                );
            }
            LeaseAction::Finish(token) => self.send_for_token(&Command::Fin(token.id)),
            LeaseAction::Requeue(token) => self.send_for_token(&Command::Req { id: token.id, delay: 0 }),
            LeaseAction::Defer(token) => {
                self.send_for_token(&Command::Req { id: token.id, delay: self.fleet.lease_ms / 4 })
            }
            LeaseAction::CountTokens => self.counting = Some(Box::pin(self.topics.clone().count())),
            LeaseAction::PublishToken => {
                tracing::info!(stream = %self.topics.token, "no token found; published one");
                let body = Bytes::from(serde_json::to_vec(&self.fleet).expect("text and numbers"));
                self.publish(Command::Pub { topic: self.topics.token.clone(), body }, PendingReply::Token);
            }
            LeaseAction::Reconnect => {
                tracing::warn!("no heartbeat was confirmed in time; dropped the token and reconnecting");
                self.token.reconnect();
                self.token_lost();
            }
            LeaseAction::ReconnectMonitor => {
                self.monitor.reconnect();
                self.handle(LeaseEvent::MonitorLost);
            }
            LeaseAction::WarnSettingsDiffer(theirs) => self.warn_settings_differ(&theirs),
        }
    }

    /// Sends a command for the token. Without a connection the command is dropped: nsqd has
    /// requeued the token that it is about.
    fn send_for_token(&mut self, command: &Command) {
        self.token.send(command);
    }

    fn publish(&mut self, command: Command, pending: PendingReply) {
        if self.token.send(&command) {
            self.pending.push_back(pending);
        }
    }

    fn generate(&mut self) {
        // checked as late as possible, just before the write
        let Some(epoch) = self.lease.leads(clock::now()) else { return self.update_leadership() };
        let command = self.generator.event(epoch, self.token.fences());
        self.publish(command, PendingReply::Event);
        self.vars.generated.fetch_add(1, Ordering::Relaxed);
    }

    /// Updates the counters, the log and the consumer when this node starts or stops to generate.
    fn update_leadership(&mut self) {
        let epoch = self.lease.leads(clock::now()).unwrap_or(0);
        let before = self.vars.epoch.swap(epoch, Ordering::Relaxed);
        if before == epoch {
            return;
        }
        if before > 0 {
            tracing::info!(epoch = before, "no longer generating: {}", count(self.generator.events(), "event"));
            self.log_waiting();
        }
        if epoch > 0 {
            self.vars.terms.fetch_add(1, Ordering::Relaxed);
            self.generator.begin(epoch);
            tracing::info!(epoch, stream = %self.generator.stream(), "generating");
        }
        self.leading.send_replace(epoch > 0);
    }

    /// Logs that a node that only generates is idle.
    fn log_waiting(&self) {
        if self.vars.only_generates {
            tracing::info!(
                stream = %self.generator.stream(),
                "waiting to generate: it begins when no other node generates"
            );
        }
    }

    /// Warns about nodes with other settings: another fleet, or forged heartbeats.
    fn warn_settings_differ(&mut self, theirs: &FleetConfig) {
        let Some(count) = self.other_fleets.record(clock::now()) else { return };
        let shown = |fleet: &FleetConfig| {
            let lease = humantime::format_duration(Duration::from_millis(fleet.lease_ms)).to_string();
            format!("stream {}, ping interval {lease}", fleet.stream)
        };
        tracing::warn!(
            count,
            "nodes with other settings use {} ({}; here: {}): use the same on all, or another --token-stream",
            self.topics.token,
            shown(theirs),
            shown(&self.fleet)
        );
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

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "node".to_owned(), |name| name.to_string_lossy().into_owned())
}

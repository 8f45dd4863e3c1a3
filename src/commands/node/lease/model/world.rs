//! The model's event loop: nodes, and connections that delay but never reorder. Time is in
//! milliseconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::super::{LeaseAction, LeaseEvent, MAX_EPOCH_AHEAD_MS};
use super::FaultConfig;
use super::node::{Node, fleet_config};
use super::nsqd::{Command, ConnectionId, FromNsqd, Nsqd};

pub(super) const NODES: usize = 5;
/// The initial time of nsqd's clock.
const FIRST_AHEAD: u64 = 10_000_000;

/// A scheduled event.
#[derive(Debug, Clone)]
pub(super) enum ModelEvent {
    AtNsqd(ConnectionId, Command),
    AtNode(ConnectionId, FromNsqd),
    Closed(ConnectionId),
    Forgotten(ConnectionId),
    Restart(usize),
    Connect(usize, ConnectionKind),
    CountAt(usize),
    Counted(usize, u64, u64),
    Wake(usize),
    Expire,
    Fault,
    Forge,
    Start,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionKind {
    Token,
    Monitor,
}

#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    pub(super) fault_config: FaultConfig,
    pub(super) rng: fastrand::Rng,
    pub(super) now: u64,
    faulty: bool,
    pub(super) nsqd: Nsqd,
    pub(super) nodes: Vec<Node>,
    owners: BTreeMap<ConnectionId, (usize, ConnectionKind)>,
    /// When the last message of each connection and direction arrives: no message overtakes
    /// another.
    arrival: BTreeMap<(ConnectionId, bool), u64>,
    schedule: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, ModelEvent>,
    next_id: u64,
    /// Epochs in the order in which they began.
    epochs: Vec<u64>,
    /// When a node last led.
    led: u64,
    /// When a node led for the first time.
    pub(super) first_led: Option<u64>,
    /// The number of forged heartbeats.
    pub(super) forged: u64,
    /// The number of terms that began less than a lease after another.
    pub(super) inherited: u64,
    /// The number of second tokens.
    pub(super) surplus: u64,
}

impl World {
    pub(super) fn new(seed: u64, fault_config: FaultConfig) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes = (0..NODES).map(|at| Node::new(at, 0, &mut rng)).collect();
        let nsqd = Nsqd::new(FIRST_AHEAD);
        let mut world = Self {
            seed,
            fault_config,
            rng,
            now: 0,
            faulty: true,
            nsqd,
            nodes,
            owners: BTreeMap::new(),
            arrival: BTreeMap::new(),
            schedule: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_id: 1,
            epochs: Vec::new(),
            led: 0,
            first_led: None,
            forged: 0,
            inherited: 0,
            surplus: 0,
        };
        for node in 0..NODES {
            world.after(0, ModelEvent::Connect(node, ConnectionKind::Token));
            world.after(0, ModelEvent::Connect(node, ConnectionKind::Monitor));
        }
        world.after(100, ModelEvent::Expire);
        world.after(500, ModelEvent::Fault);
        if fault_config.forger {
            world.after(10, ModelEvent::Forge);
        }
        world
    }

    pub(super) fn run_until(&mut self, end: Duration, faulty: bool) {
        self.faulty = faulty;
        let end = end.as_millis() as u64;
        while let Some(Reverse((at, id))) = self.schedule.peek().copied().filter(|next| next.0.0 <= end) {
            self.schedule.pop();
            self.now = at;
            let event = self.events.remove(&id).unwrap();
            self.handle(event);
            self.check();
        }
    }

    /// Returns the nodes that may generate now, each by its own clock.
    fn leading(&self) -> Vec<(usize, u64)> {
        let leads = |(at, node): (usize, &Node)| Some((at, node.lease.leads(node.clock(self.now))?));
        self.nodes.iter().enumerate().filter_map(leads).collect()
    }

    /// Returns true if a node led within this time.
    pub(super) fn led_within(&self, time: Duration) -> bool {
        Duration::from_millis(self.now - self.led) <= time
    }

    pub(super) fn tokens(&self) -> usize {
        self.nsqd.tokens()
    }

    pub(super) fn terms(&self) -> u64 {
        self.epochs.len() as u64
    }

    fn check(&mut self) {
        let leading = self.leading();
        let (seed, now) = (self.seed, self.now);
        assert!(leading.len() <= 1, "seed {seed}: at {now} ms lead {leading:?}");
        if let Some((_, epoch)) = leading.first().copied().filter(|(_, epoch)| self.epochs.last() != Some(epoch)) {
            let goes_up = self.epochs.iter().all(|before| *before < epoch);
            let may_be = epoch <= FIRST_AHEAD + 10_000_000 + MAX_EPOCH_AHEAD_MS;
            assert!(may_be, "seed {seed}: at {now} ms an epoch {epoch} that was made up");
            assert!(
                goes_up || self.fault_config.clock_steps_back || self.fault_config.forger,
                "seed {seed}: at {now} ms epoch {epoch} after {:?}",
                self.epochs
            );
            self.epochs.push(epoch);
            self.inherited += u64::from(now < self.led + Nsqd::LEASE);
        }
        if !leading.is_empty() {
            self.led = now;
            self.first_led.get_or_insert(now);
        }
    }

    pub(super) fn after(&mut self, delay: u64, event: ModelEvent) {
        self.next_id += 1;
        self.schedule.push(Reverse((self.now + delay, self.next_id)));
        self.events.insert(self.next_id, event);
    }

    /// Sends over a connection, sometimes with a delay, but in order.
    pub(super) fn send(&mut self, connection: ConnectionId, up: bool, event: ModelEvent) {
        let late = if self.faulty && self.rng.u8(..) == 0 { self.rng.u64(..3000) } else { self.rng.u64(..3) };
        let pipe = self.arrival.entry((connection, up)).or_default();
        *pipe = (*pipe).max(self.now + late);
        let delay = *pipe - self.now;
        self.after(delay, event);
    }

    pub(super) fn wall(&self) -> u64 {
        self.now + self.nsqd.ahead
    }

    fn handle(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::AtNsqd(from, command) => {
                if self.nsqd.knows(from) {
                    let said = self.nsqd.execute(from, command, self.wall(), &mut self.rng);
                    self.say(said);
                }
            }
            ModelEvent::AtNode(to, said) => self.hears(to, said),
            ModelEvent::Closed(connection) => self.closed(connection),
            ModelEvent::Forgotten(connection) => self.nsqd.drop_connection(connection),
            ModelEvent::Restart(node) => self.restart(node),
            ModelEvent::Connect(node, kind) => self.connect(node, kind),
            ModelEvent::CountAt(node) => {
                let (count, run) = (self.nsqd.tokens() as u64, self.nodes[node].run);
                let delay = self.rng.u64(..if self.faulty { 1500 } else { 5 });
                self.after(delay, ModelEvent::Counted(node, run, count));
            }
            ModelEvent::Counted(node, run, count) => {
                if self.nodes[node].run == run {
                    let count = self.nsqd.is_up.then_some(count);
                    self.tell(node, LeaseEvent::TokensCounted(count));
                }
            }
            ModelEvent::Wake(node) => self.wake(node),
            ModelEvent::Expire => {
                if self.nsqd.is_up {
                    let said = self.nsqd.expire(self.wall(), &mut self.rng);
                    self.say(said);
                }
                self.after(100, ModelEvent::Expire);
            }
            ModelEvent::Fault => {
                if self.faulty {
                    self.fault();
                }
                let next = self.rng.u64(1..3000);
                self.after(next, ModelEvent::Fault);
            }
            ModelEvent::Forge => {
                self.forge();
                let next = self.rng.u64(1..300);
                self.after(next, ModelEvent::Forge);
            }
            ModelEvent::Start => self.nsqd.is_up = true,
        }
    }

    pub(super) fn say(&mut self, said: Vec<(ConnectionId, FromNsqd)>) {
        for (to, said) in said {
            let vanishes = self.fault_config.lossy && self.faulty && self.rng.u8(..) < 40;
            if !(vanishes && matches!(said, FromNsqd::Heard { .. })) {
                self.send(to, false, ModelEvent::AtNode(to, said));
            }
        }
    }

    fn hears(&mut self, connection: ConnectionId, said: FromNsqd) {
        let Some((node, kind)) = self.owner(connection) else { return };
        let event = match said {
            FromNsqd::Delivered { token, published } => {
                LeaseEvent::TokenDelivered { token, published, fleet: fleet_config(), epoch: None }
            }
            FromNsqd::Ok { number } => LeaseEvent::HeartbeatConfirmed { number },
            FromNsqd::TouchFailed => LeaseEvent::TouchFailed,
            FromNsqd::Heard { beat, published } => {
                assert_eq!(kind, ConnectionKind::Monitor);
                LeaseEvent::HeartbeatReceived { beat, published }
            }
        };
        self.tell(node, event);
    }

    /// Returns the node that still has this connection.
    fn owner(&self, connection: ConnectionId) -> Option<(usize, ConnectionKind)> {
        let (node, kind) = *self.owners.get(&connection)?;
        let current = match kind {
            ConnectionKind::Token => self.nodes[node].token,
            ConnectionKind::Monitor => self.nodes[node].monitor,
        };
        (current == Some(connection)).then_some((node, kind))
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        let Some((node, kind)) = self.owner(connection) else { return };
        self.leave(node, kind);
        self.tell(node, if kind == ConnectionKind::Token { LeaseEvent::Disconnected } else { LeaseEvent::MonitorLost });
    }

    /// Closes a connection at the node; nsqd notices it later.
    pub(super) fn leave(&mut self, node: usize, kind: ConnectionKind) {
        let left = match kind {
            ConnectionKind::Token => self.nodes[node].token.take(),
            ConnectionKind::Monitor => self.nodes[node].monitor.take(),
        };
        let late = self.rng.u64(..3000);
        left.into_iter().for_each(|connection| self.after(late, ModelEvent::Forgotten(connection)));
        let delay = self.rng.u64(1..300);
        self.after(delay, ModelEvent::Connect(node, kind));
    }

    fn connect(&mut self, node: usize, kind: ConnectionKind) {
        let taken = if kind == ConnectionKind::Token { self.nodes[node].token } else { self.nodes[node].monitor };
        if taken.is_some() {
            return;
        }
        if !self.nsqd.is_up || self.nodes[node].paused_until > self.now {
            self.after(100, ModelEvent::Connect(node, kind));
            return;
        }
        self.next_id += 1;
        let connection = self.next_id;
        self.owners.insert(connection, (node, kind));
        match kind {
            ConnectionKind::Token => {
                self.nodes[node].token = Some(connection);
                self.nsqd.subscribe(connection);
                self.tell(
                    node,
                    LeaseEvent::Connected { max_msg_timeout: Duration::from_millis(Nsqd::MAX_MSG_TIMEOUT) },
                );
            }
            ConnectionKind::Monitor => {
                self.nodes[node].monitor = Some(connection);
                self.nsqd.monitor.push(connection);
                self.tell(node, LeaseEvent::MonitorReady);
            }
        }
    }

    /// Delivers an event to a node, after its pause.
    pub(super) fn tell(&mut self, node: usize, event: LeaseEvent) {
        self.nodes[node].inbox.push_back(event);
        self.wake(node);
    }

    fn wake(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if node.paused_until > now {
            let delay = node.paused_until - now;
            self.after(delay, ModelEvent::Wake(at));
            return;
        }
        let clock = node.clock(now);
        let mut actions = Vec::new();
        let events: Vec<LeaseEvent> = node.inbox.drain(..).chain([LeaseEvent::Tick]).collect();
        events.into_iter().for_each(|event| actions.extend(node.lease.handle(event, clock)));
        // shortly after it is due, by the node's own clock
        let due = node.lease.due().map(|due| (due.as_millis() as f64 / node.pace) as u64 + 2);
        if let Some(due) = due.filter(|due| *due != node.next_wake || *due <= now) {
            node.next_wake = due;
            self.after(due.saturating_sub(now).max(1), ModelEvent::Wake(at));
        }
        actions.into_iter().for_each(|action| self.act(at, action));
    }

    fn act(&mut self, node: usize, action: LeaseAction) {
        let command = match action {
            LeaseAction::Ready(ready) => Command::Ready(ready),
            LeaseAction::Heartbeat { beat, touch } => Command::Heartbeat { beat, touch },
            LeaseAction::Finish(token) => Command::Finish(token),
            LeaseAction::Requeue(token) | LeaseAction::Defer(token) => Command::Requeue(token),
            LeaseAction::PublishToken if self.fault_config.lossy && (node != 0 || self.nsqd.tokens() > 0) => return,
            LeaseAction::PublishToken => Command::PublishToken,
            LeaseAction::CountTokens => return self.after(1, ModelEvent::CountAt(node)),
            LeaseAction::Reconnect => {
                self.leave(node, ConnectionKind::Token);
                return self.tell(node, LeaseEvent::Disconnected);
            }
            LeaseAction::ReconnectMonitor => {
                self.leave(node, ConnectionKind::Monitor);
                return self.tell(node, LeaseEvent::MonitorLost);
            }
            LeaseAction::WarnSettingsDiffer(_) => return,
        };
        if let Some(connection) = self.nodes[node].token {
            self.send(connection, true, ModelEvent::AtNsqd(connection, command));
        }
    }
}

//! Nodes, connections that delay but never reorder, and all that goes wrong. Time is in milliseconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::super::{LeaseAction, LeaseEvent, MAX_EPOCH_AHEAD_MS};
use super::Trouble;
use super::node::{Node, fleet_config};
use super::nsqd::{Command, ConnectionId, Nsqd, Said};

pub(super) const NODES: usize = 5;
/// What nsqd's clock shows at first.
const FIRST_AHEAD: u64 = 10_000_000;

/// What is on its way.
#[derive(Debug, Clone)]
pub(super) enum Arrives {
    AtNsqd(ConnectionId, Command),
    AtNode(ConnectionId, Said),
    Closed(ConnectionId),
    Forgotten(ConnectionId),
    Restart(usize),
    Connect(usize, Kind),
    CountAt(usize),
    Counted(usize, u64, u64),
    Wake(usize),
    Expire,
    Fault,
    Forge,
    Start,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Token,
    Monitor,
}

#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    pub(super) trouble: Trouble,
    pub(super) rng: fastrand::Rng,
    pub(super) now: u64,
    storms: bool,
    pub(super) nsqd: Nsqd,
    pub(super) nodes: Vec<Node>,
    owners: BTreeMap<ConnectionId, (usize, Kind)>,
    /// When the last that was sent arrives, to and from nsqd: nothing overtakes.
    pipes: BTreeMap<(ConnectionId, bool), u64>,
    coming: BinaryHeap<Reverse<(u64, u64)>>,
    what: BTreeMap<u64, Arrives>,
    next_id: u64,
    /// Epochs in the order in which they began.
    epochs: Vec<u64>,
    /// When somebody was last seen to lead.
    led: u64,
    /// When somebody led for the first time.
    pub(super) first_led: Option<u64>,
    /// Beats that no node has sent.
    pub(super) forged: u64,
    /// Terms that began less than a lease after another.
    pub(super) inherited: u64,
    /// Tokens that were one too many.
    pub(super) surplus: u64,
}

impl World {
    pub(super) fn new(seed: u64, trouble: Trouble) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes = (0..NODES).map(|at| Node::new(at, 0, &mut rng)).collect();
        let nsqd = Nsqd::new(FIRST_AHEAD);
        let mut world = Self {
            seed,
            trouble,
            rng,
            now: 0,
            storms: true,
            nsqd,
            nodes,
            owners: BTreeMap::new(),
            pipes: BTreeMap::new(),
            coming: BinaryHeap::new(),
            what: BTreeMap::new(),
            next_id: 1,
            epochs: Vec::new(),
            led: 0,
            first_led: None,
            forged: 0,
            inherited: 0,
            surplus: 0,
        };
        for node in 0..NODES {
            world.after(0, Arrives::Connect(node, Kind::Token));
            world.after(0, Arrives::Connect(node, Kind::Monitor));
        }
        world.after(100, Arrives::Expire);
        world.after(500, Arrives::Fault);
        if trouble.forger {
            world.after(10, Arrives::Forge);
        }
        world
    }

    pub(super) fn run_until(&mut self, end: Duration, storms: bool) {
        self.storms = storms;
        let end = end.as_millis() as u64;
        while let Some(Reverse((at, id))) = self.coming.peek().copied().filter(|next| next.0.0 <= end) {
            self.coming.pop();
            self.now = at;
            let what = self.what.remove(&id).unwrap();
            self.arrives(what);
            self.check();
        }
    }

    /// Who may generate now, each by its own clock.
    fn leading(&self) -> Vec<(usize, u64)> {
        let leads = |(at, node): (usize, &Node)| Some((at, node.lease.leads(node.clock(self.now))?));
        self.nodes.iter().enumerate().filter_map(leads).collect()
    }

    /// True if somebody led not long ago.
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
                goes_up || self.trouble.back || self.trouble.forger,
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

    pub(super) fn after(&mut self, delay: u64, what: Arrives) {
        self.next_id += 1;
        self.coming.push(Reverse((self.now + delay, self.next_id)));
        self.what.insert(self.next_id, what);
    }

    /// Sends over a connection: late at times, but in order.
    pub(super) fn send(&mut self, connection: ConnectionId, up: bool, what: Arrives) {
        let late = if self.storms && self.rng.u8(..) == 0 { self.rng.u64(..3000) } else { self.rng.u64(..3) };
        let pipe = self.pipes.entry((connection, up)).or_default();
        *pipe = (*pipe).max(self.now + late);
        let delay = *pipe - self.now;
        self.after(delay, what);
    }

    pub(super) fn wall(&self) -> u64 {
        self.now + self.nsqd.ahead
    }

    fn arrives(&mut self, what: Arrives) {
        match what {
            Arrives::AtNsqd(from, command) => {
                if self.nsqd.knows(from) {
                    let said = self.nsqd.execute(from, command, self.wall(), &mut self.rng);
                    self.say(said);
                }
            }
            Arrives::AtNode(to, said) => self.hears(to, said),
            Arrives::Closed(connection) => self.closed(connection),
            Arrives::Forgotten(connection) => self.nsqd.drop_connection(connection),
            Arrives::Restart(node) => self.restart(node),
            Arrives::Connect(node, kind) => self.connect(node, kind),
            Arrives::CountAt(node) => {
                let (count, run) = (self.nsqd.tokens() as u64, self.nodes[node].run);
                let delay = self.rng.u64(..if self.storms { 1500 } else { 5 });
                self.after(delay, Arrives::Counted(node, run, count));
            }
            Arrives::Counted(node, run, count) => {
                if self.nodes[node].run == run {
                    let count = self.nsqd.is_up.then_some(count);
                    self.tell(node, LeaseEvent::TokensCounted(count));
                }
            }
            Arrives::Wake(node) => self.wake(node),
            Arrives::Expire => {
                if self.nsqd.is_up {
                    let said = self.nsqd.expire(self.wall(), &mut self.rng);
                    self.say(said);
                }
                self.after(100, Arrives::Expire);
            }
            Arrives::Fault => {
                if self.storms {
                    self.fault();
                }
                let next = self.rng.u64(1..3000);
                self.after(next, Arrives::Fault);
            }
            Arrives::Forge => {
                self.forge();
                let next = self.rng.u64(1..300);
                self.after(next, Arrives::Forge);
            }
            Arrives::Start => self.nsqd.is_up = true,
        }
    }

    pub(super) fn say(&mut self, said: Vec<(ConnectionId, Said)>) {
        for (to, said) in said {
            let vanishes = self.trouble.lossy && self.storms && self.rng.u8(..) < 40;
            if !(vanishes && matches!(said, Said::Heard { .. })) {
                self.send(to, false, Arrives::AtNode(to, said));
            }
        }
    }

    fn hears(&mut self, connection: ConnectionId, said: Said) {
        let Some((node, kind)) = self.owner(connection) else { return };
        let event = match said {
            Said::Delivered { token, published } => {
                LeaseEvent::TokenDelivered { token, published, fleet: fleet_config() }
            }
            Said::Ok { number } => LeaseEvent::HeartbeatConfirmed { number },
            Said::TouchFailed => LeaseEvent::TouchFailed,
            Said::Heard { beat, published } => {
                assert_eq!(kind, Kind::Monitor);
                LeaseEvent::HeartbeatReceived { beat, published }
            }
        };
        self.tell(node, event);
    }

    /// The node that still has this connection.
    fn owner(&self, connection: ConnectionId) -> Option<(usize, Kind)> {
        let (node, kind) = *self.owners.get(&connection)?;
        let current = match kind {
            Kind::Token => self.nodes[node].token,
            Kind::Monitor => self.nodes[node].monitor,
        };
        (current == Some(connection)).then_some((node, kind))
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        let Some((node, kind)) = self.owner(connection) else { return };
        self.leave(node, kind);
        self.tell(node, if kind == Kind::Token { LeaseEvent::Disconnected } else { LeaseEvent::MonitorLost });
    }

    /// The node lets its connection go, and nsqd hears of it some time.
    pub(super) fn leave(&mut self, node: usize, kind: Kind) {
        let left = match kind {
            Kind::Token => self.nodes[node].token.take(),
            Kind::Monitor => self.nodes[node].monitor.take(),
        };
        let late = self.rng.u64(..3000);
        left.into_iter().for_each(|connection| self.after(late, Arrives::Forgotten(connection)));
        let delay = self.rng.u64(1..300);
        self.after(delay, Arrives::Connect(node, kind));
    }

    fn connect(&mut self, node: usize, kind: Kind) {
        let taken = if kind == Kind::Token { self.nodes[node].token } else { self.nodes[node].monitor };
        if taken.is_some() {
            return;
        }
        if !self.nsqd.is_up || self.nodes[node].paused_until > self.now {
            self.after(100, Arrives::Connect(node, kind));
            return;
        }
        self.next_id += 1;
        let connection = self.next_id;
        self.owners.insert(connection, (node, kind));
        match kind {
            Kind::Token => {
                self.nodes[node].token = Some(connection);
                self.nsqd.subscribe(connection);
                self.tell(
                    node,
                    LeaseEvent::Connected { max_msg_timeout: Duration::from_millis(Nsqd::MAX_MSG_TIMEOUT) },
                );
            }
            Kind::Monitor => {
                self.nodes[node].monitor = Some(connection);
                self.nsqd.monitor.push(connection);
                self.tell(node, LeaseEvent::MonitorReady);
            }
        }
    }

    /// Something happens to a node, which a pause puts off.
    pub(super) fn tell(&mut self, node: usize, event: LeaseEvent) {
        self.nodes[node].inbox.push_back(event);
        self.wake(node);
    }

    fn wake(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if node.paused_until > now {
            let delay = node.paused_until - now;
            self.after(delay, Arrives::Wake(at));
            return;
        }
        let clock = node.clock(now);
        let mut actions = Vec::new();
        let events: Vec<LeaseEvent> = node.inbox.drain(..).chain([LeaseEvent::Tick]).collect();
        events.into_iter().for_each(|event| actions.extend(node.lease.handle(event, clock)));
        // a moment after it is due, by a clock of its own pace
        let due = node.lease.due().map(|due| (due.as_millis() as f64 / node.pace) as u64 + 2);
        if let Some(due) = due.filter(|due| *due != node.next_wake || *due <= now) {
            node.next_wake = due;
            self.after(due.saturating_sub(now).max(1), Arrives::Wake(at));
        }
        actions.into_iter().for_each(|action| self.act(at, action));
    }

    fn act(&mut self, node: usize, action: LeaseAction) {
        let command = match action {
            LeaseAction::Ready(ready) => Command::Ready(ready),
            LeaseAction::Heartbeat { beat, touch } => Command::Heartbeat { beat, touch },
            LeaseAction::Finish(token) => Command::Finish(token),
            LeaseAction::Requeue(token) | LeaseAction::Defer(token) => Command::Requeue(token),
            LeaseAction::PublishToken if self.trouble.lossy && (node != 0 || self.nsqd.tokens() > 0) => return,
            LeaseAction::PublishToken => Command::PublishToken,
            LeaseAction::CountTokens => return self.after(1, Arrives::CountAt(node)),
            LeaseAction::Reconnect => {
                self.leave(node, Kind::Token);
                return self.tell(node, LeaseEvent::Disconnected);
            }
            LeaseAction::ReconnectMonitor => {
                self.leave(node, Kind::Monitor);
                return self.tell(node, LeaseEvent::MonitorLost);
            }
            LeaseAction::WarnSettingsDiffer(_) => return,
        };
        if let Some(connection) = self.nodes[node].token {
            self.send(connection, true, Arrives::AtNsqd(connection, command));
        }
    }
}

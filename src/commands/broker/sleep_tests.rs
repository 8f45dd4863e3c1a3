//! A played world on a fake clock: a sleeping broker and a sleeping consumer, with models of
//! systemd's sockets and timer, of the log and of failures. The decisions are the real ones: whether
//! the broker leaves, what its note arranges, and which sockets it pokes.
//!
//! ```text
//!  client ─▶ socket ─▶ Broker (stays or leaves) ─▶ note ─▶ timer
//!               ▲          │ poke                            │ start
//!  Consumer ────┘ ◀────────┘            Broker ◀─────────────┘
//! ```
//!
//! Each run follows from its seed, which a failed run names; `SEED=n` plays one.

use std::collections::BinaryHeap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mqueue::broker::log::UnixMillis;
use mqueue::broker::state::Unfinished;
use mqueue::wake::decide::{GroupTotals, WakeSnapshot, decide, wanted};
use mqueue::wake::poke_history::PokeHistory;

use super::arm_timer::{Arranged, arrange};
use super::idle_exit::reason_to_stay;
use super::next_start::NextStart;

const RUNS: u64 = 10_000;
/// Time for which messages are published, and the idle times of broker and consumer.
const PUBLISHING: u64 = 6_000;
const IDLE: u64 = 300;
const CONSUMER_IDLE: u64 = 200;
/// The message timeout: after it the message of a killed consumer is back.
const MESSAGE_TIMEOUT: u64 = 2_000;
/// A poke that an exiting consumer drops is repeated after a second; the rest is starts.
const BOUND: u64 = 1_400;
/// Each kill may cost a message timeout, or a poke whose successor follows after 2, 4, 8 s.
const BOUND_WITH_KILLS: u64 = 16_000;

/// The state of a unit, as systemd sees it. Events of an earlier life carry an older number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Off,
    Starting,
    Running,
    /// The process is about to end, or ExecStopPost= runs.
    Ending,
    /// Killed, and started again in a moment.
    Restarting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Published, and not accepted by the broker.
    OnSocket,
    Deferred(u64),
    Queued,
    InFlight(u64),
    Done(u64),
    /// Its connection broke before OK.
    Refused,
}

#[derive(Debug, Clone, Copy)]
struct PlayedMessage {
    delay: u64,
    /// The time at which it can be handled.
    ready: u64,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Publish,
    Kill,
    Reboot,
    Accept,
    ClientLeaves(u32),
    BrokerReady(u32),
    LeaveBegins(u32, u32),
    LeaveDecides(u32),
    BrokerEnded(u32),
    Timer(u32),
    Look(u32),
    Due(usize),
    TimedOut(usize, u32),
    ConsumerReady(u32),
    Handled(usize, u32),
    ConsumerIdle(u32, u32),
    ConsumerEnded(u32),
}

/// The connection of the consumer to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    None,
    OnSocket,
    Open,
}

struct PlayedWorld {
    random: fastrand::Rng,
    start: Instant,
    now: u64,
    order: u64,
    events: BinaryHeap<std::cmp::Reverse<(u64, u64, Happening)>>,
    messages: Vec<PlayedMessage>,
    note: Option<NextStart>,
    timer: Option<(u64, u32)>,
    broker: Unit,
    life: u32,
    is_gate_closed: bool,
    /// Publishing clients that are connected.
    clients: u32,
    /// Counts what resets the idle time.
    activity: u32,
    is_start_requested: bool,
    history: PokeHistory,
    deliveries: u64,
    consumer: Unit,
    consumer_life: u32,
    consumer_activity: u32,
    link: Link,
    is_poked: bool,
    with_kills: bool,
    sleeps: u64,
    wakes: u64,
    /// The events so far, with the states before them.
    told: Vec<(u64, Happening, Unit, Unit, Link)>,
}

impl PlayedWorld {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let with_kills = random.u8(..3) == 0;
        Self {
            start: Instant::now(),
            now: 0,
            order: 0,
            events: BinaryHeap::new(),
            messages: Vec::new(),
            note: None,
            timer: None,
            broker: Unit::Off,
            life: 0,
            is_gate_closed: false,
            clients: 0,
            activity: 0,
            is_start_requested: false,
            history: PokeHistory::default(),
            deliveries: 0,
            consumer: Unit::Off,
            consumer_life: 0,
            consumer_activity: 0,
            link: Link::None,
            is_poked: false,
            with_kills,
            sleeps: 0,
            wakes: 0,
            told: Vec::new(),
            random,
        }
    }

    fn after(&mut self, delay: u64, happening: Happening) {
        self.order += 1;
        self.events.push(std::cmp::Reverse((self.now + delay, self.order, happening)));
    }

    fn within(&mut self, most: u64) -> u64 {
        self.random.u64(0..=most)
    }

    /// Plays to the end: until nothing happens any more.
    fn play(&mut self) -> Result<(), String> {
        let mut at = 0;
        while at < PUBLISHING {
            // often around the idle times
            at += if self.random.bool() { 280 + self.within(120) } else { self.within(700) };
            self.after(at, Happening::Publish);
        }
        if self.with_kills {
            for _ in 0..self.random.u32(1..4) {
                let at = self.within(PUBLISHING);
                self.after(at, Happening::Kill);
            }
            if self.random.u8(..4) == 0 {
                let at = self.within(PUBLISHING);
                self.after(at, Happening::Reboot);
            }
        }
        while let Some(std::cmp::Reverse((at, _, happening))) = self.events.pop() {
            self.now = self.now.max(at);
            self.told.push((at, happening, self.broker, self.consumer, self.link));
            self.happens(happening);
            if self.events.len() > 10_000 || at > 600_000 {
                return Err("it does not come to rest".to_owned());
            }
        }
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        let bound = if self.with_kills { BOUND_WITH_KILLS } else { BOUND };
        for (number, message) in self.messages.iter().enumerate() {
            match message.place {
                Place::Refused if self.with_kills => {}
                Place::Done(at) if at - message.ready <= bound => {}
                place => return Err(format!("message {number}, ready at {}: {place:?}", message.ready)),
            }
        }
        let is_asleep = self.broker == Unit::Off && self.consumer == Unit::Off && self.timer.is_none();
        is_asleep
            .then_some(())
            .ok_or_else(|| format!("not asleep: {:?} {:?} {:?}", self.broker, self.consumer, self.timer))
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Publish => self.publish(),
            Happening::Accept => self.accept(),
            Happening::ClientLeaves(life) if life == self.life && self.clients > 0 => {
                self.clients -= 1;
                self.quiet();
            }
            Happening::BrokerReady(life) if life == self.life => self.broker_ready(),
            Happening::LeaveBegins(life, activity)
                if life == self.life && activity == self.activity && self.broker == Unit::Running =>
            {
                self.is_gate_closed = true;
                let delay = self.within(2);
                self.after(delay, Happening::LeaveDecides(life));
            }
            Happening::LeaveDecides(life) if life == self.life && self.broker == Unit::Running => self.leave(),
            Happening::BrokerEnded(life) if life == self.life => self.broker_ended(),
            Happening::Timer(number) if self.timer.is_some_and(|(_, armed)| armed == number) => {
                self.timer = None;
                self.is_start_requested = true;
                self.trigger();
            }
            Happening::Look(life) if life == self.life && self.broker == Unit::Running => self.look(),
            Happening::Due(number) => self.due(number),
            Happening::TimedOut(number, life) if life == self.life => {
                if matches!(self.messages[number].place, Place::InFlight(until) if until <= self.now) {
                    self.messages[number].place = Place::Queued;
                    self.deliver();
                }
            }
            Happening::ConsumerReady(life) if life == self.consumer_life => {
                self.consumer = Unit::Running;
                // it takes the pokes that are there
                self.is_poked = false;
                self.connect();
            }
            Happening::Handled(number, life) if life == self.consumer_life && self.link == Link::Open => {
                if matches!(self.messages[number].place, Place::InFlight(_)) {
                    self.messages[number].place = Place::Done(self.now);
                }
                self.consumer_quiet();
                self.deliver();
            }
            Happening::ConsumerIdle(life, activity)
                if life == self.consumer_life
                    && activity == self.consumer_activity
                    && self.consumer == Unit::Running =>
            {
                self.consumer_leaves();
            }
            Happening::ConsumerEnded(life) if life == self.consumer_life => {
                // FlushPending=yes: a poke meanwhile is dropped
                self.is_poked = false;
                self.consumer = Unit::Off;
            }
            Happening::Kill => self.kill(),
            Happening::Reboot => self.reboot(),
            _ => {}
        }
    }

    fn publish(&mut self) {
        let delay = if self.random.u8(..4) == 0 { self.within(2_500) } else { 0 };
        self.messages.push(PlayedMessage { delay, ready: u64::MAX, place: Place::OnSocket });
        self.after(0, Happening::Accept);
        self.trigger();
    }

    /// systemd starts the broker if somebody waits on its socket, or its timer has elapsed.
    fn trigger(&mut self) {
        let waits = self.link == Link::OnSocket || self.messages.iter().any(|m| m.place == Place::OnSocket);
        if self.broker == Unit::Off && (waits || self.is_start_requested) {
            self.start_broker(Unit::Starting, 0);
        }
    }

    fn start_broker(&mut self, unit: Unit, delay: u64) {
        self.is_start_requested = false;
        self.broker = unit;
        self.life += 1;
        let delay = delay + 5 + self.within(60);
        self.after(delay, Happening::BrokerReady(self.life));
    }

    fn broker_ready(&mut self) {
        self.broker = Unit::Running;
        self.wakes += 1;
        self.note = Some(NextStart::Running);
        (self.is_gate_closed, self.clients, self.history) = (false, 0, PokeHistory::default());
        for number in 0..self.messages.len() {
            match self.messages[number].place {
                Place::InFlight(_) => self.messages[number].place = Place::Queued,
                Place::Deferred(due) if due <= self.now => self.messages[number].place = Place::Queued,
                Place::Deferred(due) => self.after(due - self.now, Happening::Due(number)),
                _ => {}
            }
        }
        self.accept();
        self.look();
        self.quiet();
    }

    fn accept(&mut self) {
        if self.broker != Unit::Running || self.is_gate_closed {
            return;
        }
        for number in 0..self.messages.len() {
            let message = &mut self.messages[number];
            if message.place != Place::OnSocket {
                continue;
            }
            // accepted, written, and answered with OK
            message.ready = self.now + message.delay;
            message.place = if message.delay > 0 { Place::Deferred(message.ready) } else { Place::Queued };
            if message.delay > 0 {
                let delay = message.delay;
                self.after(delay, Happening::Due(number));
            }
            self.clients += 1;
            let stays = self.within(30);
            self.after(stays, Happening::ClientLeaves(self.life));
        }
        if self.link == Link::OnSocket {
            self.link = Link::Open;
            self.consumer_quiet();
        }
        self.activity += 1;
        self.deliver();
    }

    fn due(&mut self, number: usize) {
        let is_due = matches!(self.messages[number].place, Place::Deferred(due) if due <= self.now);
        // a process that has decided to end does nothing more; the note tells the next one
        if is_due && self.broker == Unit::Running {
            self.messages[number].place = Place::Queued;
            self.deliver();
        }
    }

    /// Sends the next message to the consumer, or looks for one to wake.
    fn deliver(&mut self) {
        if self.broker != Unit::Running {
            return;
        }
        let is_busy = self.messages.iter().any(|message| matches!(message.place, Place::InFlight(_)));
        let Some(number) = self.messages.iter().position(|message| message.place == Place::Queued) else { return };
        if self.link != Link::Open {
            return self.look();
        }
        if !is_busy && self.consumer == Unit::Running {
            let until = self.now + MESSAGE_TIMEOUT;
            self.messages[number].place = Place::InFlight(until);
            self.deliveries += 1;
            let takes = self.within(20);
            self.after(takes, Happening::Handled(number, self.consumer_life));
            self.after(MESSAGE_TIMEOUT, Happening::TimedOut(number, self.life));
        }
    }

    fn snapshot(&self) -> WakeSnapshot {
        let depth = self.messages.iter().filter(|message| message.place == Place::Queued).count() as u64;
        let clients = u64::from(self.link == Link::Open);
        let group = GroupTotals { depth, clients, paused: false, deliveries: self.deliveries };
        let mut snapshot = WakeSnapshot::default();
        snapshot.groups.insert(("s".to_owned(), "g".to_owned()), group);
        snapshot.sockets.insert("g".to_owned(), vec![PathBuf::from("g.sock")]);
        snapshot
    }

    fn look(&mut self) {
        let (snapshot, now) = (self.snapshot(), self.start + Duration::from_millis(self.now));
        for _ in decide(&snapshot, 1000, &mut self.history, now) {
            self.is_poked = true;
            if self.consumer == Unit::Off {
                self.start_consumer();
            }
        }
        if let Some(due) = self.history.due(&snapshot, 1000, now) {
            let delay = u64::try_from(due.duration_since(now).as_millis()).expect("a short time");
            self.after(delay, Happening::Look(self.life));
        }
    }

    fn start_consumer(&mut self) {
        self.consumer = Unit::Starting;
        self.consumer_life += 1;
        let delay = 5 + self.within(60);
        self.after(delay, Happening::ConsumerReady(self.consumer_life));
    }

    fn connect(&mut self) {
        self.link = Link::OnSocket;
        self.after(0, Happening::Accept);
        self.trigger();
    }

    fn consumer_quiet(&mut self) {
        self.consumer_activity += 1;
        self.after(CONSUMER_IDLE, Happening::ConsumerIdle(self.consumer_life, self.consumer_activity));
    }

    /// A last look at the depth, then the connection ends, and a moment later the process.
    fn consumer_leaves(&mut self) {
        let has_more = self.messages.iter().any(|m| matches!(m.place, Place::Queued | Place::InFlight(_)));
        if self.link != Link::Open || has_more || self.is_poked {
            self.is_poked = false;
            return self.consumer_quiet();
        }
        self.consumer = Unit::Ending;
        self.link = Link::None;
        let delay = self.within(8);
        self.after(delay, Happening::ConsumerEnded(self.consumer_life));
        self.look();
        self.quiet();
    }

    /// The idle time begins if no connection is open.
    fn quiet(&mut self) {
        self.activity += 1;
        if self.broker == Unit::Running && self.clients == 0 && self.link != Link::Open {
            self.after(IDLE, Happening::LeaveBegins(self.life, self.activity));
        }
    }

    fn leave(&mut self) {
        let connections = self.clients as usize + usize::from(self.link == Link::Open);
        let due = self.messages.iter().filter_map(|message| match message.place {
            Place::Deferred(due) => Some(UnixMillis(due)),
            _ => None,
        });
        let in_flight = self.messages.iter().filter(|message| matches!(message.place, Place::InFlight(_))).count();
        let unfinished = Unfinished { in_flight, ephemeral: 0, next_due: due.min() };
        let is_waking = || {
            self.look();
            let snapshot = self.snapshot();
            let (name, group) = snapshot.groups.first_key_value().expect("the group");
            wanted(&snapshot, name, group, 1000, 0).is_some()
        };
        if reason_to_stay(connections, false, unfinished, is_waking).is_some() {
            self.is_gate_closed = false;
            self.accept();
            return self.quiet();
        }
        let due = unfinished.next_due.map(|due| due.0);
        self.note = Some(NextStart::Ended { by_signal: false, due, is_pending: false });
        self.broker = Unit::Ending;
        self.sleeps += 1;
        let delay = self.within(40);
        self.after(delay, Happening::BrokerEnded(self.life));
    }

    fn broker_ended(&mut self) {
        self.arrange(false);
        self.broker = Unit::Off;
        self.trigger();
    }

    fn wall_clock(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.now)
    }

    fn arrange(&mut self, is_boot: bool) {
        let arranged = arrange(self.note, is_boot, self.wall_clock());
        if arranged != Arranged::AsItIs {
            self.timer = None;
        }
        match arranged {
            Arranged::Nothing | Arranged::AsItIs => {}
            Arranged::Start => self.is_start_requested = true,
            Arranged::At(due) => {
                let due = u64::try_from(due.duration_since(UNIX_EPOCH).expect("later").as_millis()).expect("soon");
                self.order += 1;
                let number = u32::try_from(self.order).expect("a short run");
                self.timer = Some((due, number));
                self.after(due.saturating_sub(self.now), Happening::Timer(number));
            }
        }
    }

    fn kill(&mut self) {
        if self.random.bool() {
            self.kill_consumer();
        } else if matches!(self.broker, Unit::Starting | Unit::Running | Unit::Ending) {
            self.broker_is_gone();
            self.arrange(false);
            self.start_broker(Unit::Restarting, 100);
        }
    }

    fn kill_consumer(&mut self) {
        if self.consumer == Unit::Off {
            return;
        }
        self.consumer_life += 1;
        (self.consumer, self.is_poked) = (Unit::Off, false);
        let was_open = std::mem::replace(&mut self.link, Link::None) == Link::Open;
        if was_open && self.broker == Unit::Running {
            self.look();
            self.quiet();
        }
    }

    /// Connections break; those on the socket stay.
    fn broker_is_gone(&mut self) {
        self.life += 1;
        self.clients = 0;
        if self.link == Link::Open {
            self.link = Link::OnSocket;
        }
    }

    fn reboot(&mut self) {
        self.kill_consumer();
        self.broker_is_gone();
        self.link = Link::None;
        (self.timer, self.is_start_requested, self.broker) = (None, false, Unit::Off);
        let waiting = self.messages.iter_mut().filter(|message| message.place == Place::OnSocket);
        waiting.for_each(|message| message.place = Place::Refused);
        self.now += 3_000;
        self.arrange(true);
        self.trigger();
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures are part of the outcome")]
fn no_message_is_lost_or_late_however_broker_and_consumer_sleep() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..=seed).expect("SEED is a number"),
        Err(_) => 1..=RUNS,
    };
    let (mut messages, mut sleeps, mut wakes, mut waits) = (0, 0, 0, Vec::new());
    for seed in seeds.clone() {
        let mut world = PlayedWorld::new(seed);
        if let Err(why) = world.play() {
            let last = world.told.len().saturating_sub(80);
            panic!("seed {seed}: {why}\n{:#?}", &world.told[last..]);
        }
        messages += world.messages.len();
        (sleeps, wakes) = (sleeps + world.sleeps, wakes + world.wakes);
        waits.extend(world.messages.iter().filter_map(|message| match message.place {
            Place::Done(at) => Some(at - message.ready),
            _ => None,
        }));
    }
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    println!(
        "{messages} messages, {sleeps} sleeps and {wakes} wakes of the broker; ready → handled in ms: \
         p50 {}, p90 {}, p99 {}, max {}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
    if seeds.count() > 1 {
        assert!(sleeps > 5 * RUNS / 2, "{sleeps} sleeps are not many");
    }
}

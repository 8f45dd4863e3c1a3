//! A model of wakeup with its real decisions; its observations are simulated.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::unit::Unit;
use super::world::{Event, POLL, World};
use mqueue::wake::decide::{GroupName, GroupTotals, Wake, WakeSnapshot, decide, decide_arrival};
use mqueue::wake::poke_history::PokeHistory;

/// The minimum time between two polls.
const LEAST: Duration = Duration::from_millis(100);

/// The maximum age of an answer of nsqd's.
const LAG: Duration = Duration::from_millis(120);

/// A channel in `/stats`.
pub(super) type Seen = GroupTotals;

/// One run of wakeup.
#[derive(Debug)]
pub(super) struct Watch {
    /// The number of the run: events for a previous run are lost.
    pub(super) number: u32,
    memory: PokeHistory,
    seen: WakeSnapshot,
    /// The time of an extra poll before the next regular one.
    due: Option<Duration>,
    /// The time of the last extra poll.
    again: Option<Duration>,
    /// Streams with an established or pending subscription.
    listens: BTreeSet<usize>,
    hears: BTreeSet<usize>,
}

impl Watch {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            memory: PokeHistory::default(),
            seen: WakeSnapshot::default(),
            due: None,
            again: None,
            listens: BTreeSet::new(),
            hears: BTreeSet::new(),
        }
    }
}

fn group_of((_, group): &GroupName) -> usize {
    group.parse().expect("a group's number")
}

impl World {
    pub(super) fn tick(&mut self, watch: u32) {
        if watch == self.watch.number {
            self.after(POLL, Event::Tick { watch });
            self.poll();
        }
    }

    pub(super) fn poll_again(&mut self, watch: u32) {
        if watch != self.watch.number || self.watch.due.take_if(|due| *due == self.now).is_none() {
            return;
        }
        if self.watch.again.is_some_and(|again| self.now < again + LEAST) {
            self.wrong = Some("wakeup polls too often".to_owned());
        }
        self.watch.again = Some(self.now);
        self.poll();
    }

    fn poll(&mut self) {
        if !self.nsqd_is_up {
            return self.watch.hears.clear();
        }
        let seen = self.channels.iter().map(|channel| GroupTotals {
            depth: channel.queue.len() as u64,
            clients: channel.clients.len() as u64,
            paused: false,
            deliveries: channel.handed_out(),
        });
        let seen = seen.collect();
        let answer = if self.chance(5) { self.between_ms(10, 100) } else { self.between_ms(0, 5) };
        self.after(answer, Event::Polled { watch: self.watch.number, seen });
    }

    pub(super) fn polled(&mut self, watch: u32, seen: &[Seen]) {
        if watch != self.watch.number {
            return;
        }
        self.watch.seen = WakeSnapshot::default();
        for (group, seen) in seen.iter().enumerate() {
            let (stream, name) = (self.channels[group].stream.to_string(), group.to_string());
            let instances = self.settings.instances;
            let sockets = (0..instances).map(|instance| PathBuf::from((group * instances + instance).to_string()));
            self.watch.seen.sockets.insert(name.clone(), sockets.collect());
            self.watch.seen.groups.insert((stream, name), *seen);
        }
        let now = self.clock();
        let wakes = decide(&self.watch.seen, self.settings.per_consumer, &mut self.watch.memory, now);
        self.wake(&wakes);
        self.check_who_came();
        self.listen();
        let due = self.watch.memory.due(&self.watch.seen, self.settings.per_consumer, now);
        self.watch.due = due.map(|due| self.since_epoch(due));
        if let Some(due) = self.watch.due {
            self.at(due, Event::PollAgain { watch });
        }
    }

    /// Checks wakeup's reports: a consumer reported as woken was connected since the poke, and one
    /// reported as missing was not.
    fn check_who_came(&mut self) {
        let now = self.clock();
        for came in self.watch.memory.take_woken() {
            let served = self.channels[group_of(&came.name)].served(self.now);
            if served + LAG < self.now.saturating_sub(came.after) {
                self.wrong = Some(format!("{came:?}, but no consumer was connected since {served:?}"));
            }
            self.tally.count("consumers seen to come");
        }
        let unanswered = self.watch.memory.unanswered(&self.watch.seen, self.settings.per_consumer, now);
        let groups: BTreeSet<usize> = unanswered.iter().map(|(name, ..)| group_of(name)).collect();
        for group in groups {
            let served = self.channels[group].served(self.now);
            let is_connected = self.settings.instances == 1 && served + Duration::from_secs(4) > self.now;
            if self.settings.troubles == 0 || is_connected {
                self.wrong = Some(format!("group {group} is said to have no consumer: {:?}", self.channels[group]));
            }
            self.tally.count("consumers missed");
        }
    }

    /// Subscribes to exactly the streams of sleeping groups.
    fn listen(&mut self) {
        let streams = 0..self.settings.streams;
        let wanted: BTreeSet<usize> =
            streams.filter(|stream| self.watch.seen.wants_arrivals(&stream.to_string())).collect();
        self.watch.hears.retain(|stream| wanted.contains(stream));
        self.watch.listens.retain(|stream| wanted.contains(stream));
        for stream in wanted {
            if self.watch.listens.insert(stream) {
                self.after_ms(1, 20, Event::Listens { watch: self.watch.number, stream });
            }
        }
    }

    pub(super) fn listens(&mut self, watch: u32, stream: usize) {
        if watch == self.watch.number && self.watch.listens.contains(&stream) && self.nsqd_is_up {
            self.watch.hears.insert(stream);
        }
    }

    /// Copies a message to wakeup's channel. Returns true if wakeup receives it; it subscribes
    /// again after its next poll.
    pub(super) fn edge(&mut self, stream: usize) -> bool {
        let listens = self.watch.hears.remove(&stream);
        let heard = listens && !self.chance(self.settings.deaf);
        if listens {
            self.watch.listens.remove(&stream);
        }
        if heard {
            self.after_ms(0, 5, Event::Heard { watch: self.watch.number, stream });
        }
        heard
    }

    /// Returns true if the group sleeps, wakeup knows that, and has not poked it just now.
    pub(super) fn can_be_woken(&self, group: usize) -> bool {
        let stream = self.channels[group].stream.to_string();
        let seen = self.watch.seen.asleep(&stream).any(|(_, name)| *name == group.to_string());
        let instances = group * self.settings.instances..(group + 1) * self.settings.instances;
        let first = &self.units[instances.start];
        let pace = first.poked.is_none_or(|(_, at)| self.now >= at + Duration::from_secs(1));
        seen && pace && self.units[instances].iter().all(Unit::sleeps)
    }

    pub(super) fn heard(&mut self, watch: u32, stream: usize) {
        if watch == self.watch.number {
            let now = self.clock();
            let wakes = decide_arrival(&stream.to_string(), &self.watch.seen, &mut self.watch.memory, now);
            self.wake(&wakes);
        }
    }

    fn wake(&mut self, wakes: &[Wake]) {
        for wake in wakes {
            let unit: usize = wake.socket.to_str().and_then(|name| name.parse().ok()).expect("a unit's number");
            let before = self.units[unit].poked.replace((self.watch.number, self.now));
            if before.is_some_and(|(watch, at)| watch == self.watch.number && self.now - at < Duration::from_secs(1)) {
                self.wrong = Some(format!("unit {unit} is poked twice within a second"));
            }
            self.after_ms(0, 1, Event::Poke { unit });
        }
    }
}

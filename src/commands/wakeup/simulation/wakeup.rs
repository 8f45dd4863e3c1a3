//! A model of the wakeups of all hosts with their real decisions; their observations are simulated.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::unit::Unit;
use super::world::{Event, POLL, World};
use mqueue::wake::decide::{GroupName, GroupTotals, Wake, WakeSnapshot, decide, decide_arrival};
use mqueue::wake::hosts::{HostMembership, WakeHost, WakeHosts};
use mqueue::wake::poke_history::PokeHistory;

/// The minimum time between two polls.
const LEAST: Duration = Duration::from_millis(100);

/// The maximum age of an answer of nsqd's.
const LAG: Duration = Duration::from_millis(120);

/// A channel in `/stats`.
pub(super) type Seen = GroupTotals;

/// The time for which nsqd lists a wakeup that hangs.
const LISTED_FOR: Duration = Duration::from_secs(4);

/// An answer of nsqd's.
#[derive(Debug)]
pub(super) struct Answer {
    seen: Vec<Seen>,
    /// The hosts, if wakeup asked for them.
    listed: Vec<Arc<WakeHost>>,
    /// Other wakeups listen to streams.
    others_listen: bool,
    has_host_list: bool,
}

/// One run of a host's wakeup.
#[derive(Debug)]
pub(super) struct Watch {
    /// The number of the run: events for a previous run are lost.
    pub(super) number: u32,
    /// True after its start.
    pub(super) runs: bool,
    /// The end of the time in which it hangs.
    pub(super) hangs_until: Duration,
    memory: PokeHistory,
    seen: WakeSnapshot,
    /// The time of an extra poll before the next regular one.
    due: Option<Duration>,
    /// The time of the last extra poll.
    again: Option<Duration>,
    /// Streams with an established or pending subscription.
    listens: BTreeSet<usize>,
    hears: BTreeSet<usize>,
    hosts: WakeHosts,
    membership: HostMembership,
    asks: bool,
}

impl Watch {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            runs: false,
            hangs_until: Duration::ZERO,
            memory: PokeHistory::default(),
            seen: WakeSnapshot::default(),
            due: None,
            again: None,
            listens: BTreeSet::new(),
            hears: BTreeSet::new(),
            hosts: WakeHosts::new(number.to_string(), POLL),
            membership: HostMembership::default(),
            asks: true,
        }
    }
}

fn group_of((_, group): &GroupName) -> usize {
    group.parse().expect("a group's number")
}

impl World {
    /// Returns the host of a run; `None` if the run is over.
    fn host_of(&self, watch: u32) -> Option<usize> {
        self.watches.iter().position(|run| run.number == watch)
    }

    /// Postpones an event while the wakeup hangs; returns true if it was postponed.
    fn hangs(&mut self, host: usize, event: impl FnOnce() -> Event) -> bool {
        let until = self.watches[host].hangs_until;
        if self.now < until {
            self.at(until, event());
        }
        self.now < until
    }

    pub(super) fn tick(&mut self, watch: u32) {
        let Some(host) = self.host_of(watch) else { return };
        if !self.hangs(host, || Event::Tick { watch }) {
            self.watches[host].runs = true;
            self.after(POLL, Event::Tick { watch });
            self.poll(host);
        }
    }

    pub(super) fn poll_again(&mut self, watch: u32) {
        let Some(host) = self.host_of(watch) else { return };
        let now = self.now;
        if now < self.watches[host].hangs_until || self.watches[host].due.take_if(|due| *due == now).is_none() {
            return;
        }
        if self.watches[host].again.is_some_and(|again| now < again + LEAST) {
            self.wrong = Some("wakeup polls too often".to_owned());
        }
        self.watches[host].again = Some(now);
        self.poll(host);
    }

    fn poll(&mut self, host: usize) {
        if !self.nsqd_is_up {
            return self.watches[host].hears.clear();
        }
        let seen = self.channels.iter().map(|channel| GroupTotals {
            depth: channel.queue.len() as u64,
            clients: channel.clients.len() as u64,
            paused: false,
            deliveries: channel.handed_out(),
        });
        let others_listen =
            self.watches.iter().enumerate().any(|(other, watch)| other != host && !watch.hears.is_empty());
        let listed = if self.watches[host].asks { self.listed.values().cloned().collect() } else { Vec::new() };
        let has_host_list = !self.listed.is_empty();
        let answer = Answer { seen: seen.collect(), listed, others_listen, has_host_list };
        let delay = if self.chance(5) { self.between_ms(10, 100) } else { self.between_ms(0, 5) };
        self.after(delay, Event::Polled { watch: self.watches[host].number, answer });
    }

    pub(super) fn polled(&mut self, watch: u32, answer: Answer) {
        let Some(host) = self.host_of(watch) else { return };
        let until = self.watches[host].hangs_until;
        if self.now < until {
            return self.at(until, Event::Polled { watch, answer });
        }
        let now = self.clock();
        let Answer { seen, listed, others_listen, has_host_list } = answer;
        let run = &mut self.watches[host];
        run.hosts.are(listed, now);
        let is_member = run.membership.saw(others_listen || run.hosts.others().next().is_some(), now);
        run.asks = is_member || has_host_list;
        run.seen = WakeSnapshot { turns: run.hosts.turns(now), ..WakeSnapshot::default() };
        for (group, seen) in seen.iter().enumerate() {
            let (stream, name) = (self.channels[group].stream.to_string(), group.to_string());
            if self.settings.has_sockets(host, group) {
                let sockets = self.settings.units_of(host, group).map(|unit| PathBuf::from(unit.to_string()));
                run.seen.sockets.insert(name.clone(), sockets.collect());
            }
            run.seen.groups.insert((stream, name), *seen);
        }
        let wakes = decide(&run.seen, self.settings.per_consumer, &mut run.memory, now);
        self.wake(host, &wakes);
        self.check_who_came(host);
        self.listen(host);
        if is_member && !self.listed.contains_key(&watch) {
            self.after_ms(1, 20, Event::Listed { watch });
        } else if !is_member {
            self.listed.remove(&watch);
        }
        let run = &mut self.watches[host];
        run.due = run.memory.due(&run.seen, self.settings.per_consumer, now).map(|due| due - self.epoch);
        if let Some(due) = run.due {
            self.at(due, Event::PollAgain { watch });
        }
    }

    /// nsqd lists a host, which takes its turns a poll after the others see it.
    pub(super) fn is_listed(&mut self, watch: u32) {
        let Some(host) = self.host_of(watch).filter(|_| self.nsqd_is_up) else { return };
        let groups = (0..self.channels.len()).filter(|group| self.settings.has_sockets(host, *group));
        let sockets = groups.map(|group| (group.to_string(), self.settings.instances)).collect();
        let weight = self.settings.weights[host];
        let (id, name) = (watch.to_string(), format!("host-{host}"));
        self.listed.insert(watch, Arc::new(WakeHost { id, name, weight, sockets }));
        (0..self.channels.len()).for_each(|group| self.excuse(group, POLL + POLL));
        self.tally.count("hosts listed");
    }

    /// nsqd closes the connection of a wakeup that still hangs.
    pub(super) fn unlisted(&mut self, watch: u32) {
        if self.host_of(watch).is_some_and(|host| self.now < self.watches[host].hangs_until) {
            self.listed.remove(&watch);
        }
    }

    /// Stops a wakeup for some time, as SIGSTOP does: it answers no heartbeats.
    pub(super) fn hang(&mut self, host: usize, time: Duration) {
        self.watches[host].hangs_until = self.now + time;
        self.after(LISTED_FOR, Event::Unlisted { watch: self.watches[host].number });
    }

    /// Checks a wakeup's reports: a consumer reported as woken was connected since the poke, and one
    /// reported as missing was not.
    fn check_who_came(&mut self, host: usize) {
        let now = self.clock();
        for came in self.watches[host].memory.take_woken() {
            let served = self.channels[group_of(&came.name)].served(self.now);
            // of several hosts, another one's consumer may have come before this host's poke
            if self.settings.hosts == 1 && served + LAG < self.now.saturating_sub(came.after) {
                self.wrong = Some(format!("{came:?}, but no consumer was connected since {served:?}"));
            }
            self.tally.count("consumers seen to come");
        }
        let run = &self.watches[host];
        let unanswered = run.memory.unanswered(&run.seen, self.settings.per_consumer, now);
        let groups: BTreeSet<usize> = unanswered.iter().map(|(name, ..)| group_of(name)).collect();
        for group in groups {
            let served = self.channels[group].served(self.now);
            let is_alone = self.settings.hosts * self.settings.instances == 1;
            let is_connected = is_alone && served + Duration::from_secs(4) > self.now;
            if self.settings.troubles == 0 || is_connected {
                self.wrong = Some(format!("group {group} is said to have no consumer: {:?}", self.channels[group]));
            }
            self.tally.count("consumers missed");
        }
    }

    /// Subscribes to exactly the streams of sleeping groups that this host is the first to wake.
    fn listen(&mut self, host: usize) {
        let streams = 0..self.settings.streams;
        let run = &mut self.watches[host];
        let wanted: BTreeSet<usize> = streams.filter(|stream| run.seen.wants_arrivals(&stream.to_string())).collect();
        run.hears.retain(|stream| wanted.contains(stream));
        run.listens.retain(|stream| wanted.contains(stream));
        for stream in wanted {
            if self.watches[host].listens.insert(stream) {
                self.after_ms(1, 20, Event::Listens { watch: self.watches[host].number, stream });
            }
        }
    }

    pub(super) fn listens(&mut self, watch: u32, stream: usize) {
        let Some(host) = self.host_of(watch) else { return };
        if self.watches[host].listens.contains(&stream) && self.nsqd_is_up {
            self.watches[host].hears.insert(stream);
        }
    }

    /// Copies a message to the wakeups' channels. Returns the hosts that receive it; they subscribe
    /// again after their next poll.
    pub(super) fn edge(&mut self, stream: usize) -> Vec<usize> {
        let mut hearing = Vec::new();
        for host in 0..self.watches.len() {
            let listens = self.watches[host].hears.remove(&stream);
            if listens {
                self.watches[host].listens.remove(&stream);
            }
            if listens && !self.chance(self.settings.deaf) {
                self.after_ms(0, 5, Event::Heard { watch: self.watches[host].number, stream });
                hearing.push(host);
            }
        }
        hearing
    }

    /// Returns true if the group sleeps, the host's wakeup knows that, is to wake it, and has not
    /// poked it just now.
    pub(super) fn can_be_woken(&self, host: usize, group: usize) -> bool {
        let (run, stream) = (&self.watches[host], self.channels[group].stream.to_string());
        if !self.settings.has_sockets(host, group) || self.now < run.hangs_until {
            return false;
        }
        let mut asleep = run.seen.asleep(&stream);
        let is_first = |name: &GroupName| run.seen.turns.is_first(name, self.settings.instances);
        let seen = asleep.any(|name| name.1 == group.to_string() && is_first(name));
        let first = &self.units[self.settings.units_of(host, group).start];
        let pace = first.poked.is_none_or(|(_, at)| self.now >= at + Duration::from_secs(1));
        seen && pace && self.units.iter().filter(|unit| unit.group == group).all(Unit::sleeps)
    }

    pub(super) fn heard(&mut self, watch: u32, stream: usize) {
        let Some(host) = self.host_of(watch) else { return };
        if !self.hangs(host, || Event::Heard { watch, stream }) {
            let (now, run) = (self.clock(), &mut self.watches[host]);
            let wakes = decide_arrival(&stream.to_string(), &run.seen, &mut run.memory, now);
            self.wake(host, &wakes);
        }
    }

    fn wake(&mut self, host: usize, wakes: &[Wake]) {
        let number = self.watches[host].number;
        for wake in wakes {
            let unit: usize = wake.socket.to_str().and_then(|name| name.parse().ok()).expect("a unit's number");
            let before = self.units[unit].poked.replace((number, self.now));
            if before.is_some_and(|(watch, at)| watch == number && self.now - at < Duration::from_secs(1)) {
                self.wrong = Some(format!("unit {unit} is poked twice within a second"));
            }
            self.after_ms(0, 1, Event::Poke { unit });
        }
    }
}

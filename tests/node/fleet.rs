//! A fleet of nodes, each behind its own proxied connection, and an auditor that reads every event.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Mqueue, Nsqd, Redis, Wire, mqueue, wait_until};

/// `mqueue node` for an nsqd, with further arguments.
pub fn node(tcp: &str, nsqd: &Nsqd, args: &str) -> Mqueue {
    mqueue(&format!("node --nsqd-tcp-address {tcp} --nsqd-http-address {} {args}", nsqd.http())).env("MPORT", "0")
}

/// Nodes of stream `foo` and group `1`, or of list `foo`.
pub struct Fleet {
    pub nodes: Vec<Mqueue>,
    pub proxies: Vec<Wire>,
    args: String,
    /// The flags for the store behind this address.
    store: Box<dyn Fn(&str) -> String>,
    /// The logs of replaced nodes.
    replaced_logs: String,
}

impl Fleet {
    /// Starts `count` nodes with this ping interval in seconds.
    pub fn start(nsqd: &Nsqd, count: usize, ping_interval: u32, args: &str) -> Self {
        let http = nsqd.http();
        let store = move |tcp: &str| format!("--nsqd-tcp-address {tcp} --nsqd-http-address {http} --group 1");
        Self::of(&nsqd.tcp(), Box::new(store), count, ping_interval, args)
    }

    /// Starts them on Redis.
    pub fn on_redis(redis: &Redis, count: usize, ping_interval: u32, args: &str) -> Self {
        let store = |address: &str| format!("--store redis://{address}");
        Self::of(&format!("127.0.0.1:{}", redis.port()), Box::new(store), count, ping_interval, args)
    }

    fn of(target: &str, store: Box<dyn Fn(&str) -> String>, count: usize, ping_interval: u32, args: &str) -> Self {
        let proxies: Vec<Wire> = (0..count).map(|_| Wire::to(target.to_owned())).collect();
        let args = format!("--stream foo --ping-interval {ping_interval} {args}");
        let mut fleet = Self { nodes: Vec::new(), proxies, args, store, replaced_logs: String::new() };
        fleet.nodes = (0..count).map(|at| fleet.node(at)).collect();
        fleet
    }

    fn node(&self, at: usize) -> Mqueue {
        let store = (self.store)(self.proxies[at].address());
        mqueue(&format!("node {store} {}", self.args)).env("MPORT", "0").start()
    }

    /// Replaces a killed node by a new one.
    pub fn replace(&mut self, at: usize) {
        let another = self.node(at);
        let killed = std::mem::replace(&mut self.nodes[at], another).finish();
        self.replaced_logs += &killed.stderr;
    }

    /// Waits for a generator; returns its index and its epoch.
    #[track_caller]
    pub fn generator(&self) -> (usize, u64) {
        wait_until("a generator", || self.newest().is_some());
        self.newest().expect("waited for")
    }

    /// Waits until a later epoch begins; returns how long that took.
    #[track_caller]
    pub fn wait_for_generator_after(&self, epoch: u64) -> Duration {
        let start = Instant::now();
        wait_until(&format!("a generator after {epoch}"), || self.newest().is_some_and(|(_, newest)| newest > epoch));
        start.elapsed()
    }

    fn newest(&self) -> Option<(usize, u64)> {
        let all = self.nodes.iter().enumerate();
        all.filter_map(|(at, node)| Some((at, epochs(&node.stderr()).max()?))).max_by_key(|(_, epoch)| *epoch)
    }

    /// The epochs in the logs of all nodes. An epoch may end before its first event, and then has
    /// none.
    pub fn epochs(&self) -> Vec<u64> {
        let all: String = self.nodes.iter().map(Mqueue::stderr).chain([self.replaced_logs.clone()]).collect();
        epochs(&all).collect()
    }

    /// Stops all nodes by SIGTERM.
    pub fn end(&mut self) {
        self.end_by(Signal::SIGTERM);
    }

    /// Stops all nodes by this signal.
    pub fn end_by(&mut self, signal: Signal) {
        let running: Vec<_> = self.nodes.iter_mut().filter_map(|node| (!node.has_ended()).then_some(&*node)).collect();
        running.iter().for_each(|node| node.signal(signal));
        for node in &mut self.nodes {
            wait_until("the end of a node", || node.has_ended());
        }
    }
}

/// The epochs in a node's log.
fn epochs(log: &str) -> impl Iterator<Item = u64> {
    let lines =
        log.lines().filter_map(|line| line.split_once("generating epoch=").filter(|_| !line.contains("no longer")));
    lines.filter_map(|(_, rest)| rest.split(' ').next()?.parse().ok())
}

/// Reads every event of `foo`.
pub struct EventAuditor(Mqueue);

/// The summary of all events.
#[derive(Debug)]
pub struct EventSummary {
    pub events: usize,
    pub epochs: usize,
    /// The longest time from an epoch's last event to the first of the next epoch.
    pub longest_gap: Duration,
}

impl EventAuditor {
    pub fn of(nsqd: &Nsqd) -> Self {
        let args = format!("consumer --stream foo --group judge --output body --nsqd-tcp-address {}", nsqd.tcp());
        let auditor = Self(mqueue(&args).start());
        nsqd.wait_for_clients("foo", "judge", 1);
        auditor
    }

    #[track_caller]
    pub fn wait_for_more(&self, events: usize) {
        let before = self.0.stdout().lines().count();
        self.0.wait_for_lines(before + events);
    }

    /// Reads all events, and checks that epochs do not overlap, and that no event is missing or
    /// duplicated.
    #[track_caller]
    pub fn summary(self, nsqd: &Nsqd) -> EventSummary {
        nsqd.wait_for_empty("foo", "judge");
        self.0.signal(Signal::SIGTERM);
        let lines = self.0.finish().stdout;
        EventSummary::of(lines.lines())
    }
}

impl EventSummary {
    /// Checks that epochs do not overlap, and that no event is missing or duplicated.
    #[track_caller]
    pub fn of<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut count = 0;
        let mut epochs: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
        for line in lines {
            count += 1;
            let words: Vec<&str> = line.split(' ').collect();
            let [timestamp, epoch, sequence] = [1, 2, 3].map(|at| words[at].parse::<u64>().expect("a number"));
            let twice = epochs.entry(epoch).or_default().insert(sequence, timestamp);
            assert_eq!(twice, None, "event {sequence} of epoch {epoch} is duplicated");
        }
        let mut longest_gap = 0;
        let mut last_end = None;
        for (epoch, events) in &epochs {
            let (first, last) = (events.values().min().expect("some"), events.values().max().expect("some"));
            let whole = events.keys().copied().eq(1..=events.len() as u64);
            assert!(whole, "epoch {epoch} has gaps: {:?}", events.keys());
            if let Some(end) = last_end.replace(*last) {
                assert!(end <= *first, "epoch {epoch} began at {first}, and the one before had an event at {end}");
                longest_gap = longest_gap.max(first - end);
            }
        }
        let longest_gap = Duration::from_millis(longest_gap);
        Self { events: count, epochs: epochs.len(), longest_gap }
    }
}

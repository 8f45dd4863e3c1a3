//! What is known, and what was done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::once::Once;
use super::sockets::Sockets;
use super::ungrouped::{Ungrouped, Waiting};
use crate::commands::wakeup::args::Args;
use mqueue::client::Address;
use mqueue::plural::{count, times};
use mqueue::wake::decide::{self, Name, Observed, Wake};
use mqueue::wake::edge::{Heard, What};
use mqueue::wake::memory::{Came, Memory};
use mqueue::wake::observe::{Held, Poll};
use mqueue::wake::poke::{poke, remedy};
use mqueue::wake::shell_commands;
use mqueue::worker::DeadLetter;

/// Wakes whom it sees, and says once what stands in the way.
pub(super) struct Watch {
    pub(super) seen: Observed,
    pub(super) held: BTreeMap<Name, Held>,
    /// Streams that have messages and no group, as [`Poll`] has them.
    pub(super) without_group: BTreeMap<(String, String), u64>,
    /// Those of them that are paused.
    paused_without_group: BTreeSet<(String, String)>,
    pub(super) ungrouped: Ungrouped,
    pub(super) memory: Memory,
    pub(super) sockets: Sockets,
    pub(super) counters: Counters,
    /// Sockets that could not be poked, and why; said when it changes.
    pub(super) broken: HashMap<PathBuf, String>,
    /// nsqds that cannot be subscribed to; said when it begins and ends.
    deaf: BTreeSet<Address>,
    said: Said,
    per_consumer: u64,
    /// This look is the only one.
    is_once: bool,
    dry_run: bool,
}

/// What has been said.
struct Said {
    paused: Once<Name>,
    orphaned: Once<Name>,
    without_group: Once<(String, String)>,
    unanswered: Once<(Name, PathBuf)>,
    shared: Once<String>,
}

impl Watch {
    pub(super) fn new(args: &Args) -> Self {
        Self {
            seen: Observed::default(),
            held: BTreeMap::new(),
            without_group: BTreeMap::new(),
            paused_without_group: BTreeSet::new(),
            ungrouped: Ungrouped::new(),
            memory: Memory::default(),
            sockets: Sockets::new(&args.sockets),
            counters: Counters::new(),
            broken: HashMap::new(),
            deaf: BTreeSet::new(),
            said: Said {
                paused: Once::new(),
                orphaned: Once::new(),
                without_group: Once::new(),
                unanswered: Once::new(),
                shared: Once::new(),
            },
            is_once: args.once,
            per_consumer: args.per_consumer,
            dry_run: args.dry_run,
        }
    }

    /// Takes in a poll, and wakes whom it shows. `brokers` are the flags that lead a consumer to the nsqds.
    pub(super) fn polled(&mut self, poll: Poll, brokers: &str) {
        let sockets = self.sockets.of(poll.groups.keys().map(|(_, group)| group.as_str()));
        self.seen = Observed { groups: poll.groups, sockets };
        (self.held, self.without_group) = (poll.held, poll.without_group);
        self.paused_without_group = poll.paused_without_group;
        self.broken.retain(|socket, _| self.seen.sockets.values().flatten().any(|known| known == socket));
        self.say();
        self.say_ungrouped(poll.is_complete, brokers);
        let now = Instant::now();
        for wake in decide::decide(&self.seen, self.per_consumer, &mut self.memory, now) {
            self.wake(&wake);
        }
        self.say_who_came(now);
    }

    /// Of these streams, those that should be listened to.
    pub(super) fn worth_hearing(&self, mut streams: BTreeSet<(Address, String)>) -> BTreeSet<(Address, String)> {
        streams.retain(|(_, stream)| self.seen.is_worth_hearing(stream));
        streams
    }

    /// When somebody who waits may be poked again, which need not be when the next poll comes.
    pub(super) fn due(&self) -> Option<Instant> {
        self.memory.due(&self.seen, self.per_consumer, Instant::now())
    }

    /// A subscription told something.
    pub(super) fn heard(&mut self, Heard { nsqd, stream, what }: Heard) {
        match what {
            What::Subscribed => {
                if self.deaf.remove(&nsqd) {
                    tracing::info!("listening at {nsqd} again");
                }
            }
            What::Message => {
                self.counters.heard.inc();
                for wake in decide::arrived(&stream, &self.seen, &mut self.memory, Instant::now()) {
                    self.wake(&wake);
                }
            }
            What::Failed(why) => {
                if self.deaf.insert(nsqd) {
                    tracing::warn!(
                        "cannot listen: {why}: consumers are woken by polling alone, up to --poll-interval later"
                    );
                }
            }
        }
    }

    /// One line for people.
    pub(super) fn status(&self) -> String {
        let (streams, groups, asleep) = self.counts();
        format!(
            "woke {}, watching {} on {}, {asleep} asleep",
            self.counters.wakes.get(),
            count(groups, "group"),
            count(streams, "stream")
        )
    }

    /// Streams, groups, and groups asleep.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let streams: BTreeSet<&str> = self.seen.groups.keys().map(|(stream, _)| stream.as_str()).collect();
        let asleep = self.seen.groups.iter().filter(|(name, group)| self.seen.sleeps(name, group)).count();
        (streams.len(), self.seen.groups.len(), asleep)
    }

    #[allow(clippy::print_stdout, reason = "what --dry-run prints is its data")]
    fn wake(&mut self, wake: &Wake) {
        let Wake { stream, group, socket, reason } = wake;
        if self.dry_run {
            println!("would wake group {group} of stream {stream} by {}: {reason}", socket.display());
            return;
        }
        match poke(socket) {
            Ok(()) => {
                self.counters.pokes.inc();
                self.broken.remove(socket);
                tracing::info!(%stream, %group, socket = %socket.display(), "poked: {reason}");
            }
            Err(error) => {
                self.counters.failed_pokes.inc();
                self.memory.missed(wake);
                let remedy = remedy(self.sockets.unit(socket).as_ref(), &error);
                if self.broken.insert(socket.clone(), remedy.clone()).as_ref() != Some(&remedy) {
                    tracing::error!(%stream, %group, "cannot poke {}: {remedy}", socket.display());
                }
            }
        }
    }

    /// Says what is new and keeps messages from being handled.
    fn say(&mut self) {
        let held = |wanted: fn(&Held) -> u64| {
            let of_these = self.held.iter().filter(move |(_, held)| wanted(held) > 0);
            of_these.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>()
        };
        for name in self.said.paused.news(held(|held| held.paused)) {
            tracing::info!(stream = name.0, group = name.1, "has messages, but is paused: left alone");
        }
        let mut orphaned = held(|held| held.in_flight);
        orphaned.retain(|name| self.seen.groups.get(name).is_some_and(|group| group.clients == 0 && group.depth == 0));
        for name in self.said.orphaned.news(orphaned) {
            let count = self.held[&name].in_flight;
            tracing::info!(
                stream = name.0,
                group = name.1,
                "{count} in flight of consumers that are gone: back in the queue when their message timeout ends"
            );
        }
        let elsewhere = self.without_group.keys().map(|key| (key.clone(), self.groups_elsewhere(&key.1)));
        let elsewhere: BTreeMap<_, _> = elsewhere.filter(|(_, groups)| !groups.is_empty()).collect();
        for key in self.said.without_group.news(elsewhere.keys().cloned().collect()) {
            let ((http, stream), groups) = (&key, &elsewhere[&key]);
            let count = count(self.without_group[&key], "message");
            let names: Vec<&str> = groups.iter().map(String::as_str).collect();
            let create = shell_commands::create_groups(http, stream, &names, self.paused_without_group.contains(&key));
            let (group, is, it) = match &groups[..] {
                [group] => (format!("group {group}"), "is", "it there, and it gets them"),
                groups => (format!("groups {}", groups.join(", ")), "are", "them there, and each gets all"),
            };
            tracing::warn!("stream {stream} has {count} on nsqd {http}, where {group} {is} not: {create} makes {it}");
        }
        let shared = self.shared();
        for line in self.said.shared.news(shared) {
            tracing::warn!("{line}");
        }
    }

    /// All groups of this stream, if one of them can be woken; none of a stream of dead letters, which `mqueue errors` reads.
    fn groups_elsewhere(&self, stream: &str) -> Vec<String> {
        let groups: Vec<String> = self.seen.of_stream(stream).map(|((_, group), _)| group.clone()).collect();
        let can_be_woken = groups.iter().any(|group| self.seen.sockets.contains_key(group));
        if can_be_woken && !DeadLetter::is_stream(stream) { groups } else { Vec::new() }
    }

    /// Says which sockets are of groups that do not exist, if all nsqds have said which do.
    fn say_ungrouped(&mut self, is_complete: bool, brokers: &str) {
        if !is_complete {
            return self.ungrouped.are_unknown();
        }
        let now = Instant::now();
        self.ungrouped.are(self.sockets.others(), now);
        let mut waiting = Waiting::new();
        for ((_, stream), count) in &self.without_group {
            if !DeadLetter::is_stream(stream) && self.seen.of_stream(stream).next().is_none() {
                *waiting.entry(stream.clone()).or_default() += count;
            }
        }
        let (is_once, sockets) = (self.is_once, &self.sockets);
        let is_late = |since: Duration| is_once || Ungrouped::is_late(since);
        let unit = |socket: &Path| sockets.unit(socket);
        for (socket, group, line) in self.ungrouped.news(&waiting, unit, brokers, is_late, now) {
            tracing::warn!(%group, socket = %socket.display(), "{line}");
        }
    }

    /// Says which pokes brought a consumer, and once which have not for too long.
    fn say_who_came(&mut self, now: Instant) {
        let came = self.memory.came();
        if self.dry_run {
            return;
        }
        for Came { name: (stream, group), socket, after } in came {
            self.counters.wakes.inc();
            let seconds = after.as_secs_f64();
            tracing::info!(%stream, %group, socket = %socket.display(), "woken: its consumer came within {seconds:.1} s");
        }
        let unanswered: BTreeMap<(Name, PathBuf), u32> = self
            .memory
            .unanswered(&self.seen, self.per_consumer, now)
            .into_iter()
            .map(|(name, socket, pace)| ((name.clone(), socket.clone()), pace.pokes))
            .collect();
        self.counters.unanswered.set(unanswered.len() as u64);
        for key in self.said.unanswered.news(unanswered.keys().cloned().collect()) {
            let (((stream, group), socket), pokes) = (&key, unanswered[&key]);
            let look = match self.sockets.unit(socket) {
                Some(unit) => format!("systemctl status {} tells why", unit.service()),
                None => "see what whoever listens on it says".to_owned(),
            };
            tracing::warn!(%stream, %group, socket = %socket.display(), "poked {}, and no consumer came: {look}", times(pokes));
        }
    }

    /// Groups of the same name, on several streams, with one socket.
    fn shared(&self) -> BTreeSet<String> {
        let mut streams: HashMap<&str, Vec<&str>> = HashMap::with_capacity(self.seen.sockets.len());
        for (stream, group) in self.seen.groups.keys().filter(|(_, group)| self.seen.sockets.contains_key(group)) {
            streams.entry(group).or_default().push(stream);
        }
        let shared = streams.into_iter().filter(|(_, streams)| streams.len() > 1);
        let line = |(group, streams): (&str, Vec<&str>)| {
            let socket = self.seen.sockets[group].first().map(|path| path.display().to_string()).unwrap_or_default();
            let (first, others) = (streams[0], streams[1..].join(", "));
            format!(
                "{socket} is claimed by group {group} of stream {first} and of {others}: it is poked for each of them, \
                 but its consumer serves one; give the others groups of their own names"
            )
        };
        shared.map(line).collect()
    }
}

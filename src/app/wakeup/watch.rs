//! What is known, and what was done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Instant;

use super::counters::Counters;
use super::decide::{self, Memory, Name, Observed, Wake};
use super::edge::{Heard, What};
use super::observe::{Held, Poll};
use super::once::Once;
use super::poke::{poke, remedy};
use super::sockets::Sockets;
use crate::cli::wakeup::Args;
use crate::client::Address;

/// Wakes whom it sees, and says once what stands in the way.
pub(super) struct Watch {
    pub(super) seen: Observed,
    pub(super) held: BTreeMap<Name, Held>,
    /// Streams that have messages and no group, as [`Poll`] has them.
    pub(super) without_group: BTreeMap<(String, String), u64>,
    pub(super) memory: Memory,
    pub(super) sockets: Sockets,
    pub(super) counters: Counters,
    /// Sockets that could not be poked, and why; said when it changes.
    pub(super) broken: HashMap<PathBuf, String>,
    /// nsqds that cannot be subscribed to; said when it begins and ends.
    deaf: BTreeSet<Address>,
    said: Said,
    per_consumer: u64,
    dry_run: bool,
}

/// What has been said.
struct Said {
    paused: Once<Name>,
    orphaned: Once<Name>,
    without_group: Once<(String, String)>,
    shared: Once<String>,
}

impl Watch {
    pub(super) fn new(args: &Args) -> Self {
        Self {
            seen: Observed::default(),
            held: BTreeMap::new(),
            without_group: BTreeMap::new(),
            memory: Memory::default(),
            sockets: Sockets::new(&args.sockets),
            counters: Counters::new(),
            broken: HashMap::new(),
            deaf: BTreeSet::new(),
            said: Said { paused: Once::new(), orphaned: Once::new(), without_group: Once::new(), shared: Once::new() },
            per_consumer: args.per_consumer,
            dry_run: args.dry_run,
        }
    }

    /// Takes in a poll, and wakes whom it shows.
    pub(super) fn polled(&mut self, poll: Poll) {
        let sockets = self.sockets.of(poll.groups.keys().map(|(_, group)| group.as_str()));
        self.seen = Observed { groups: poll.groups, sockets };
        (self.held, self.without_group) = (poll.held, poll.without_group);
        self.broken.retain(|socket, _| self.seen.sockets.values().flatten().any(|known| known == socket));
        self.say();
        for wake in decide::decide(&self.seen, self.per_consumer, &mut self.memory, Instant::now()) {
            self.wake(&wake);
        }
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
        format!("woke {}, watching {groups} groups on {streams} streams, {asleep} asleep", self.counters.pokes.get())
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
                tracing::info!(%stream, %group, socket = %socket.display(), "woken: {reason}");
            }
            Err(error) => {
                self.counters.failed_pokes.inc();
                self.memory.missed(wake);
                let remedy = remedy(socket, &error);
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
        for (http, stream) in self.said.without_group.news(self.without_group.keys().cloned().collect()) {
            let count = self.without_group[&(http.clone(), stream.clone())];
            let topic = stream.replace('#', "%23");
            tracing::warn!(
                "stream {stream} has {count} messages and no group that could be woken: \
                 curl -X POST 'http://{http}/channel/create?topic={topic}&channel=GROUP' makes one, which gets them"
            );
        }
        let shared = self.shared();
        for line in self.said.shared.news(shared) {
            tracing::warn!("{line}");
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

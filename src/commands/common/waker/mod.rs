//! Poking: what is known of groups and sockets, and what was logged about them. For `wakeup`, which
//! polls nsqds, and for the broker, which looks at its own state.

pub(crate) mod log_once;
pub(crate) mod metrics;
pub(crate) mod sockets;
pub(crate) mod ungrouped;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::field::display;

use self::log_once::LogOnce;
use self::metrics::WakeupMetrics;
use self::sockets::Sockets;
use self::ungrouped::{UngroupedMessages, UngroupedSockets};
use super::socket_args;
use mqueue::client::Address;
use mqueue::plural::{count, times};
use mqueue::wake::aggregate::{GroupPending, QueueTotals};
use mqueue::wake::arrivals::{ArrivalEvent, ArrivalNews};
use mqueue::wake::decide::{self, GroupName, Wake, WakeSnapshot};
use mqueue::wake::hosts::WakeHosts;
use mqueue::wake::poke::{poke, remedy};
use mqueue::wake::poke_history::{PokeHistory, WokenConsumer};
use mqueue::wake::retry_name::{is_retry_stream, is_retry_stream_of};
use mqueue::wake::shell_commands::{ApiCommands, create_by_consumer};
use mqueue::worker::DeadLetter;

/// The time for which a socket that could not be poked is not told to other hosts.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(60);
/// The number of failed pokes in a row, a second apart, after which a socket keeps no broker awake.
const MAX_FAILED_POKES: u32 = 3;

/// Pokes sockets after polls and arrivals, and logs problems once.
pub(crate) struct SocketWaker {
    pub(crate) snapshot: WakeSnapshot,
    pub(crate) pending: BTreeMap<GroupName, GroupPending>,
    /// Streams that have messages and no group, as in [`QueueTotals`].
    pub(crate) without_group: BTreeMap<(String, String), u64>,
    /// Groups that only a retry stream has, as in [`QueueTotals`].
    only_retries: BTreeSet<GroupName>,
    pub(crate) ungrouped: UngroupedSockets,
    pub(crate) history: PokeHistory,
    /// The hosts that wake the same groups.
    pub(crate) hosts: WakeHosts,
    pub(crate) sockets: Sockets,
    commands: ApiCommands,
    pub(crate) metrics: WakeupMetrics,
    /// Sockets that could not be poked.
    failed_pokes: HashMap<PathBuf, FailedPokes>,
    /// nsqds without a working subscription; logged when this begins and ends.
    unsubscribed_nsqds: BTreeSet<Address>,
    logged: LoggedConditions,
    per_consumer: u64,
    max_consumers: usize,
    /// True for a single poll.
    is_once: bool,
    dry_run: bool,
}

/// The failed pokes of a socket since the last one that reached it.
struct FailedPokes {
    /// The remedy; logged when it changes.
    remedy: String,
    last: Instant,
    count: u32,
}

/// Settings of a [`SocketWaker`].
pub(crate) struct WakerSettings<'a> {
    /// The places of the sockets.
    pub(crate) sockets: &'a socket_args::Args,
    /// The commands to print for problems.
    pub(crate) commands: ApiCommands,
    /// Waiting messages for each consumer of a group with several sockets.
    pub(crate) per_consumer: u64,
    /// The maximum of a group's sockets that are used.
    pub(crate) max_consumers: usize,
    /// The hosts that wake the same groups.
    pub(crate) hosts: WakeHosts,
    /// True for a single poll: problems are logged at once.
    pub(crate) is_once: bool,
    /// True if nothing is poked.
    pub(crate) dry_run: bool,
}

/// The conditions that were logged.
struct LoggedConditions {
    paused: LogOnce<GroupName>,
    orphaned: LogOnce<GroupName>,
    without_group: LogOnce<(String, String)>,
    only_retries: LogOnce<GroupName>,
    unanswered: LogOnce<(GroupName, PathBuf)>,
    shared: LogOnce<String>,
}

impl SocketWaker {
    pub(crate) fn new(settings: WakerSettings<'_>) -> Self {
        Self {
            snapshot: WakeSnapshot::default(),
            pending: BTreeMap::new(),
            without_group: BTreeMap::new(),
            only_retries: BTreeSet::new(),
            ungrouped: UngroupedSockets::new(),
            history: PokeHistory::default(),
            hosts: settings.hosts,
            sockets: Sockets::new(settings.sockets),
            commands: settings.commands,
            metrics: WakeupMetrics::new(),
            failed_pokes: HashMap::new(),
            unsubscribed_nsqds: BTreeSet::new(),
            logged: LoggedConditions {
                paused: LogOnce::new(),
                orphaned: LogOnce::new(),
                without_group: LogOnce::new(),
                only_retries: LogOnce::new(),
                unanswered: LogOnce::new(),
                shared: LogOnce::new(),
            },
            is_once: settings.is_once,
            per_consumer: settings.per_consumer,
            max_consumers: settings.max_consumers,
            dry_run: settings.dry_run,
        }
    }

    /// Takes the totals of a poll, and pokes the sockets that they call for. `brokers` are the
    /// flags for a consumer of the same nsqds.
    pub(crate) fn polled(&mut self, poll: QueueTotals, brokers: &str) {
        let mut sockets = self.sockets.of(poll.groups.keys().map(|(_, group)| group.as_str()));
        sockets.values_mut().for_each(|sockets| sockets.truncate(self.max_consumers));
        let now = Instant::now();
        self.snapshot = WakeSnapshot { groups: poll.groups, sockets, turns: self.hosts.turns(now) };
        (self.pending, self.without_group) = (poll.pending, poll.without_group);
        self.only_retries = poll.only_retries;
        self.failed_pokes.retain(|socket, _| self.snapshot.sockets.values().flatten().any(|known| known == socket));
        self.log_changes();
        self.log_ungrouped(poll.is_complete, brokers);
        for wake in decide::decide(&self.snapshot, self.per_consumer, &mut self.history, now) {
            self.wake(&wake);
        }
        self.log_pokes(now);
    }

    /// Returns the number of each group's sockets, for the other hosts. A socket on which nobody
    /// listens is left out for a while, so that another host is the first for its group.
    pub(crate) fn socket_counts(&self) -> BTreeMap<String, usize> {
        let is_left_to_others =
            |path: &PathBuf| self.failed_pokes.get(path).is_some_and(|failed| failed.last.elapsed() < LEFT_TO_OTHERS);
        let count = |sockets: &[PathBuf]| sockets.iter().filter(|path| !is_left_to_others(path)).count();
        let groups = self.snapshot.sockets.iter().map(|(group, sockets)| (group.clone(), count(sockets)));
        groups.filter(|(_, count)| *count > 0).collect()
    }

    /// Returns those of these streams to subscribe to.
    pub(crate) fn streams_to_subscribe(&self, mut streams: BTreeSet<(Address, String)>) -> BTreeSet<(Address, String)> {
        streams.retain(|(_, stream)| self.snapshot.wants_arrivals(stream));
        streams
    }

    /// Returns the time of the next postponed poke, which may be before the next poll.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.history.due(&self.snapshot, self.per_consumer, Instant::now())
    }

    /// True if a group has too few consumers for its messages, and a socket that can be poked: a new
    /// one may refuse the first pokes, until systemd has given it its owner.
    pub(crate) fn is_waking(&self) -> bool {
        let mut waiting = self.history.waiting(&self.snapshot, self.per_consumer, Instant::now());
        let can_be_poked =
            |socket: &PathBuf| self.failed_pokes.get(socket).is_none_or(|failed| failed.count < MAX_FAILED_POKES);
        waiting.any(|(_, sockets)| sockets.iter().any(can_be_poked))
    }

    /// Returns the remedy for a socket that could not be poked.
    pub(crate) fn remedy(&self, socket: &Path) -> Option<&str> {
        self.failed_pokes.get(socket).map(|failed| failed.remedy.as_str())
    }

    /// Handles an event of a subscription.
    pub(crate) fn take_arrival(&mut self, ArrivalNews { nsqd, stream, event }: ArrivalNews) {
        match event {
            ArrivalEvent::Subscribed => {
                if self.unsubscribed_nsqds.remove(&nsqd) {
                    tracing::info!("subscribed to nsqd {nsqd} again");
                }
            }
            ArrivalEvent::Message => {
                self.metrics.heard.inc();
                for wake in decide::decide_arrival(&stream, &self.snapshot, &mut self.history, Instant::now()) {
                    self.wake(&wake);
                }
            }
            ArrivalEvent::Failed(why) => {
                if self.unsubscribed_nsqds.insert(nsqd) {
                    tracing::warn!(
                        "cannot subscribe: {why}: consumers are woken by polling alone, up to --poll-interval later"
                    );
                }
            }
        }
    }

    /// Returns the status line.
    pub(crate) fn status(&self) -> String {
        let (streams, groups, asleep) = self.counts();
        format!(
            "woke {}, watching {} on {}, {asleep} asleep",
            self.metrics.wakes.get(),
            count(groups, "group"),
            count(streams, "stream")
        )
    }

    /// Returns the numbers of streams, groups, and sleeping groups.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let streams: BTreeSet<&str> = self.snapshot.groups.keys().map(|(stream, _)| stream.as_str()).collect();
        let asleep = self.snapshot.groups.iter().filter(|(name, group)| self.snapshot.sleeps(name, group)).count();
        (streams.len(), self.snapshot.groups.len(), asleep)
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
                self.metrics.pokes.inc();
                self.failed_pokes.remove(socket);
                tracing::info!(%stream, %group, socket = %socket.display(), "poked: {reason}");
            }
            Err(error) => {
                self.metrics.failed_pokes.inc();
                self.history.poke_failed(wake);
                let remedy = remedy(self.sockets.unit(socket).as_ref(), &error);
                let before = self.failed_pokes.remove(socket);
                if before.as_ref().is_none_or(|before| before.remedy != remedy) {
                    tracing::error!(%stream, %group, "cannot poke {}: {remedy}", socket.display());
                }
                let count = before.map_or(0, |before| before.count).saturating_add(1);
                self.failed_pokes.insert(socket.clone(), FailedPokes { remedy, last: Instant::now(), count });
            }
        }
    }

    /// Logs new conditions that keep messages from being handled.
    fn log_changes(&mut self) {
        let pending = |wanted: fn(&GroupPending) -> u64| {
            let of_these = self.pending.iter().filter(move |(_, pending)| wanted(pending) > 0);
            of_these.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>()
        };
        for name in self.logged.paused.news(pending(|pending| pending.paused)) {
            let socket = self.snapshot.sockets.get(&name.1).and_then(|sockets| sockets.first());
            let socket = socket.map(|socket| display(socket.display()));
            tracing::info!(stream = %name.0, group = %name.1, socket, "group has messages, but is paused: not woken");
        }
        let mut orphaned = pending(|pending| pending.in_flight);
        orphaned
            .retain(|name| self.snapshot.groups.get(name).is_some_and(|group| group.clients == 0 && group.depth == 0));
        for name in self.logged.orphaned.news(orphaned) {
            let count = self.pending[&name].in_flight;
            tracing::info!(
                stream = %name.0,
                group = %name.1,
                "{count} in flight to disconnected consumers: requeued when their message timeout ends"
            );
        }
        let elsewhere = self.without_group.keys().map(|key| (key.clone(), self.groups_elsewhere(&key.1)));
        let elsewhere: BTreeMap<_, _> = elsewhere.filter(|(_, groups)| !groups.is_empty()).collect();
        for key in self.logged.without_group.news(elsewhere.keys().cloned().collect()) {
            let ((http, stream), groups) = (&key, &elsewhere[&key]);
            let count = count(self.without_group[&key], "message");
            let names: Vec<&str> = groups.iter().map(String::as_str).collect();
            let create = self.commands.create_groups(http, stream, &names);
            let (group, is, it) = match &groups[..] {
                [group] => (format!("group {group}"), "is", "it there, and it gets them"),
                groups => (format!("groups {}", groups.join(", ")), "are", "them there, and each gets all"),
            };
            tracing::warn!(
                "stream {stream} has {count} on nsqd {http}, where {group} {is} missing: {create} creates {it}"
            );
        }
        let shared = self.shared();
        for line in self.logged.shared.news(shared) {
            tracing::warn!("{line}");
        }
    }

    /// Returns all groups of this stream, if one of them has a socket. None for dead letters, which
    /// `mqueue errors` reads.
    fn groups_elsewhere(&self, stream: &str) -> Vec<String> {
        let names = self.snapshot.groups.keys();
        let groups: Vec<String> = match is_retry_stream(stream) {
            true => {
                names.filter(|(of, group)| is_retry_stream_of(stream, of, group)).map(|name| name.1.clone()).collect()
            }
            false => self.snapshot.of_stream(stream).map(|((_, group), _)| group.clone()).collect(),
        };
        let can_be_woken = groups.iter().any(|group| self.snapshot.sockets.contains_key(group));
        if can_be_woken && !DeadLetter::is_stream(stream) { groups } else { Vec::new() }
    }

    /// Logs sockets whose group does not exist, if all nsqds have answered.
    fn log_ungrouped(&mut self, is_complete: bool, brokers: &str) {
        if !is_complete {
            return self.ungrouped.are_unknown();
        }
        let now = Instant::now();
        self.log_only_retries(brokers);
        // those of a known stream were logged with it
        let mut others = self.sockets.others().clone();
        others.retain(|_, group| !self.only_retries.iter().any(|(_, name)| name == group));
        self.ungrouped.are(&others, now);
        let mut waiting = UngroupedMessages::new();
        for ((_, stream), count) in &self.without_group {
            if !DeadLetter::is_stream(stream)
                && !is_retry_stream(stream)
                && self.snapshot.of_stream(stream).next().is_none()
            {
                *waiting.entry(stream.clone()).or_default() += count;
            }
        }
        let (is_once, sockets) = (self.is_once, &self.sockets);
        let is_late = |since: Duration| is_once || UngroupedSockets::is_late(since);
        let unit = |socket: &Path| sockets.unit(socket);
        for (socket, group, line) in self.ungrouped.news(&waiting, unit, brokers, is_late, now) {
            tracing::warn!(%group, socket = %socket.display(), "{line}");
        }
    }

    /// Logs groups of sockets that only a retry stream has: they get nothing that is published.
    fn log_only_retries(&mut self, brokers: &str) {
        let is_elsewhere = |group: &str| self.snapshot.groups.keys().any(|(_, name)| name == group);
        let has_socket = |group: &String| {
            self.snapshot.sockets.contains_key(group) || self.sockets.others().values().any(|of| of == group)
        };
        let missing = self.only_retries.iter().filter(|name| {
            // the socket may be for another stream's group of this name
            has_socket(&name.1) && (self.snapshot.groups.contains_key(*name) || !is_elsewhere(&name.1))
        });
        for (stream, group) in self.logged.only_retries.news(missing.cloned().collect()) {
            let create = create_by_consumer(&stream, &group, brokers);
            tracing::warn!(
                "stream {stream} has no group {group} any more, so it gets only what was redriven to it: {create} creates it"
            );
        }
    }

    /// Logs the pokes that brought a consumer, and once the sockets that were poked in vain for too
    /// long.
    fn log_pokes(&mut self, now: Instant) {
        let came = self.history.take_woken();
        if self.dry_run {
            return;
        }
        for WokenConsumer { name: (stream, group), socket, after } in came {
            self.metrics.wakes.inc();
            let seconds = after.as_secs_f64();
            tracing::info!(%stream, %group, socket = %socket.display(), "woken: its consumer came within {seconds:.1} s");
        }
        let unanswered: BTreeMap<(GroupName, PathBuf), u32> = self
            .history
            .unanswered(&self.snapshot, self.per_consumer, now)
            .into_iter()
            .map(|(name, socket, pace)| ((name.clone(), socket.clone()), pace.pokes))
            .collect();
        self.metrics.unanswered.set(unanswered.len() as u64);
        for key in self.logged.unanswered.news(unanswered.keys().cloned().collect()) {
            let (((stream, group), socket), pokes) = (&key, unanswered[&key]);
            let look = match self.sockets.unit(socket) {
                Some(unit) => format!("systemctl status {} tells why", unit.service()),
                None => "see what whoever listens on it says".to_owned(),
            };
            tracing::warn!(%stream, %group, socket = %socket.display(), "poked {}, and no consumer came: {look}", times(pokes));
        }
    }

    /// Returns a line for each socket that groups of several streams share.
    fn shared(&self) -> BTreeSet<String> {
        let mut streams: HashMap<&str, Vec<&str>> = HashMap::with_capacity(self.snapshot.sockets.len());
        for (stream, group) in
            self.snapshot.groups.keys().filter(|(_, group)| self.snapshot.sockets.contains_key(group))
        {
            streams.entry(group).or_default().push(stream);
        }
        let shared = streams.into_iter().filter(|(_, streams)| streams.len() > 1);
        let line = |(group, streams): (&str, Vec<&str>)| {
            let socket =
                self.snapshot.sockets[group].first().map(|path| path.display().to_string()).unwrap_or_default();
            let (first, others) = (streams[0], streams[1..].join(", "));
            format!(
                "{socket} is claimed by group {group} of stream {first} and of {others}: it is poked for each of them, \
                 but its consumer serves one; give the others groups of their own names"
            )
        };
        shared.map(line).collect()
    }
}

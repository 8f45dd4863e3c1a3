//! wakeup's view, as JSON for `/state`.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::brokers::Brokers;
use super::watch::Watch;
use mqueue::wake::decide::{Group, Name};
use mqueue::wake::peer::Health;

/// All of it. Times are in seconds from now.
#[derive(Debug, Serialize)]
pub(super) struct State {
    version: &'static str,
    status: String,
    brokers: Vec<Health>,
    /// What is wrong with folders and files of sockets.
    complaints: Vec<String>,
    /// Streams with messages and no group.
    without_group: Vec<Ungrouped>,
    /// Sockets whose group no stream has.
    sockets_without_group: Vec<Sleeper>,
    groups: Vec<GroupState>,
}

#[derive(Debug, Serialize)]
struct Ungrouped {
    stream: String,
    nsqd: String,
    depth: u64,
}

#[derive(Debug, Serialize)]
struct Sleeper {
    path: PathBuf,
    group: String,
}

#[derive(Debug, Serialize)]
struct GroupState {
    stream: String,
    group: String,
    depth: u64,
    in_flight: u64,
    deferred: u64,
    clients: u64,
    paused: bool,
    asleep: bool,
    sockets: Vec<SocketState>,
}

#[derive(Debug, Serialize)]
struct SocketState {
    path: PathBuf,
    /// How long ago it was poked for this group; `null` if it was not.
    last_poke: Option<f64>,
    /// Since one brought a consumer.
    pokes_without_consumer: u32,
    /// In how long it may be poked again, if it has to be.
    next_poke: Option<f64>,
    /// Why it cannot be poked.
    trouble: Option<String>,
}

impl State {
    pub(super) fn new(watch: &Watch, brokers: &Brokers, now: Instant) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            status: watch.status(),
            brokers: brokers.health(now).collect(),
            complaints: watch.sockets.complaints().cloned().collect(),
            without_group: watch.without_group.iter().map(Ungrouped::new).collect(),
            sockets_without_group: watch.ungrouped.sockets.iter().map(Sleeper::new).collect(),
            groups: watch.seen.groups.iter().map(|(name, group)| GroupState::new(watch, name, group, now)).collect(),
        }
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("string keys only")
    }
}

impl Ungrouped {
    fn new(((nsqd, stream), depth): (&(String, String), &u64)) -> Self {
        Self { stream: stream.clone(), nsqd: nsqd.clone(), depth: *depth }
    }
}

impl Sleeper {
    fn new((path, (group, _)): (&PathBuf, &(String, Instant))) -> Self {
        Self { path: path.clone(), group: group.clone() }
    }
}

impl GroupState {
    fn new(watch: &Watch, name: &Name, group: &Group, now: Instant) -> Self {
        let held = watch.held.get(name).copied().unwrap_or_default();
        let sockets = watch.seen.sockets.get(&name.1).into_iter().flatten();
        Self {
            stream: name.0.clone(),
            group: name.1.clone(),
            depth: group.depth + held.paused,
            in_flight: held.in_flight,
            deferred: held.deferred,
            clients: group.clients,
            paused: group.paused,
            asleep: watch.seen.sleeps(name, group),
            sockets: sockets.map(|socket| SocketState::new(watch, socket, name, now)).collect(),
        }
    }
}

impl SocketState {
    fn new(watch: &Watch, socket: &PathBuf, name: &Name, now: Instant) -> Self {
        let pace = watch.memory.pace(socket, name);
        let millis = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
        Self {
            path: socket.clone(),
            last_poke: pace.map(|pace| millis(now.saturating_duration_since(pace.last).as_secs_f64())),
            pokes_without_consumer: pace.map_or(0, |pace| pace.pokes),
            next_poke: pace.map(|pace| millis(pace.next().saturating_duration_since(now).as_secs_f64())),
            trouble: watch.broken.get(socket).cloned(),
        }
    }
}

//! The state of wakeup as JSON, for `/state`.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::brokers::PolledBrokers;
use crate::commands::common::waker::SocketWaker;
use mqueue::wake::broker::BrokerHealth;
use mqueue::wake::decide::{GroupName, GroupTotals};
use mqueue::wake::hosts::WakeHost;

/// The document. Times are in seconds from now.
#[derive(Debug, Serialize)]
pub(super) struct WakeupState {
    version: &'static str,
    status: String,
    brokers: Vec<BrokerHealth>,
    /// The hosts that wake the same groups, this one first; empty if there is no other.
    hosts: Vec<StateHost>,
    /// Problems with socket folders and files.
    complaints: Vec<String>,
    /// Streams with messages and no group.
    without_group: Vec<StreamWithoutGroup>,
    /// Sockets whose group does not exist.
    sockets_without_group: Vec<SocketWithoutGroup>,
    groups: Vec<WakeupGroup>,
}

#[derive(Debug, Serialize)]
struct StateHost {
    name: String,
    weight: u32,
    /// The number of groups for which it has a socket.
    groups: usize,
}

#[derive(Debug, Serialize)]
struct StreamWithoutGroup {
    stream: String,
    nsqd: String,
    depth: u64,
}

#[derive(Debug, Serialize)]
struct SocketWithoutGroup {
    path: PathBuf,
    group: String,
}

#[derive(Debug, Serialize)]
struct WakeupGroup {
    stream: String,
    group: String,
    depth: u64,
    in_flight: u64,
    deferred: u64,
    clients: u64,
    paused: bool,
    asleep: bool,
    sockets: Vec<WakeupSocket>,
}

#[derive(Debug, Serialize)]
struct WakeupSocket {
    path: PathBuf,
    /// The time since the last poke for this group; `null` if there was none.
    last_poke: Option<f64>,
    /// Pokes since a consumer was seen.
    pokes_without_consumer: u32,
    /// The time until the next poke may follow.
    next_poke: Option<f64>,
    /// The reason why it cannot be poked.
    trouble: Option<String>,
}

impl WakeupState {
    pub(super) fn new(waker: &SocketWaker, brokers: &PolledBrokers, own: &WakeHost, now: Instant) -> Self {
        let others: Vec<&WakeHost> = waker.hosts.others().map(AsRef::as_ref).collect();
        let own = (!others.is_empty()).then_some(own);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            status: waker.status(),
            brokers: brokers.health(now).collect(),
            hosts: own.into_iter().chain(others).map(StateHost::new).collect(),
            complaints: waker.sockets.complaints().cloned().collect(),
            without_group: waker.without_group.iter().map(StreamWithoutGroup::new).collect(),
            sockets_without_group: waker.ungrouped.sockets.iter().map(SocketWithoutGroup::new).collect(),
            groups: waker
                .snapshot
                .groups
                .iter()
                .map(|(name, group)| WakeupGroup::new(waker, name, group, now))
                .collect(),
        }
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("string keys only")
    }
}

impl StateHost {
    fn new(host: &WakeHost) -> Self {
        Self { name: host.name.clone(), weight: host.weight, groups: host.sockets.len() }
    }
}

impl StreamWithoutGroup {
    fn new(((nsqd, stream), depth): (&(String, String), &u64)) -> Self {
        Self { stream: stream.clone(), nsqd: nsqd.clone(), depth: *depth }
    }
}

impl SocketWithoutGroup {
    fn new((path, (group, _)): (&PathBuf, &(String, Instant))) -> Self {
        Self { path: path.clone(), group: group.clone() }
    }
}

impl WakeupGroup {
    fn new(waker: &SocketWaker, name: &GroupName, group: &GroupTotals, now: Instant) -> Self {
        let pending = waker.pending.get(name).copied().unwrap_or_default();
        let sockets = waker.snapshot.sockets.get(&name.1).into_iter().flatten();
        Self {
            stream: name.0.clone(),
            group: name.1.clone(),
            depth: group.depth + pending.paused,
            in_flight: pending.in_flight,
            deferred: pending.deferred,
            clients: group.clients,
            paused: group.paused,
            asleep: waker.snapshot.sleeps(name, group),
            sockets: sockets.map(|socket| WakeupSocket::new(waker, socket, name, now)).collect(),
        }
    }
}

impl WakeupSocket {
    fn new(waker: &SocketWaker, socket: &PathBuf, name: &GroupName, now: Instant) -> Self {
        let pace = waker.history.pace(socket, name);
        let millis = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
        Self {
            path: socket.clone(),
            last_poke: pace.map(|pace| millis(now.saturating_duration_since(pace.last).as_secs_f64())),
            pokes_without_consumer: pace.map_or(0, |pace| pace.pokes),
            next_poke: pace.map(|pace| millis(pace.next().saturating_duration_since(now).as_secs_f64())),
            trouble: waker.remedy(socket).map(str::to_owned),
        }
    }
}

//! The metrics of wakeup, for `/metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::SocketWaker;
use mqueue::wake::aggregate::GroupPending;

/// Counters and gauges.
#[derive(Debug)]
pub(crate) struct WakeupMetrics {
    pub(crate) pokes: Counter,
    pub(crate) failed_pokes: Counter,
    pub(crate) wakes: Counter,
    pub(crate) unanswered: WakeupGauge,
    ungrouped: WakeupGauge,
    pub(crate) heard: Counter,
    pub(crate) polls: Counter,
    pub(crate) poll_errors: Counter,
    pub(crate) poll_duration: Histogram,
    streams: WakeupGauge,
    groups: WakeupGauge,
    asleep: WakeupGauge,
    depth: WakeupGauge,
    in_flight: WakeupGauge,
    deferred: WakeupGauge,
    paused: WakeupGauge,
    subscriptions: WakeupGauge,
    hosts: WakeupGauge,
}

type WakeupGauge = Gauge<u64, AtomicU64>;

impl WakeupMetrics {
    pub(crate) fn new() -> Self {
        Self {
            pokes: Counter::default(),
            failed_pokes: Counter::default(),
            wakes: Counter::default(),
            unanswered: WakeupGauge::default(),
            ungrouped: WakeupGauge::default(),
            heard: Counter::default(),
            polls: Counter::default(),
            poll_errors: Counter::default(),
            poll_duration: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
            streams: WakeupGauge::default(),
            groups: WakeupGauge::default(),
            asleep: WakeupGauge::default(),
            depth: WakeupGauge::default(),
            in_flight: WakeupGauge::default(),
            deferred: WakeupGauge::default(),
            paused: WakeupGauge::default(),
            subscriptions: WakeupGauge::default(),
            hosts: WakeupGauge::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("wakeup");
        for (name, help, counter) in [
            ("pokes", "Sockets poked", &self.pokes),
            ("failed_pokes", "Pokes that reached nobody", &self.failed_pokes),
            ("wakes", "Consumers that came after a poke", &self.wakes),
            ("heard", "Messages heard of by subscription", &self.heard),
            ("polls", "Answers of nsqds to polls", &self.polls),
            ("poll_errors", "Polls of nsqds and nsqlookupds that failed", &self.poll_errors),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register("poll_duration_seconds", "How long nsqd took to answer a poll", self.poll_duration.clone());
        for (name, help, number) in [
            ("streams", "Streams with a group", &self.streams),
            ("groups", "Groups", &self.groups),
            ("groups_asleep", "Groups with a socket and no consumer", &self.asleep),
            ("unanswered", "Sockets that were poked again and again, and no consumer came", &self.unanswered),
            ("sockets_without_group", "Sockets whose group no stream has", &self.ungrouped),
            ("depth", "Messages waiting for a consumer, in all groups", &self.depth),
            ("in_flight", "Messages out with consumers, in all groups", &self.in_flight),
            ("deferred", "Messages for later, in all groups", &self.deferred),
            ("paused_depth", "Messages waiting in paused groups", &self.paused),
            ("subscriptions", "Streams listened to", &self.subscriptions),
            ("hosts", "Hosts that wake the same groups, with this one", &self.hosts),
        ] {
            registry.register(name, help, number.clone());
        }
    }

    /// Updates the gauges.
    pub(crate) fn look(&self, waker: &SocketWaker, subscriptions: usize) {
        let (streams, groups, asleep) = waker.counts();
        let depth: u64 = waker.snapshot.groups.values().map(|group| group.depth).sum();
        let sum = |of: fn(&GroupPending) -> u64| waker.pending.values().map(of).sum();
        self.streams.set(streams as u64);
        self.groups.set(groups as u64);
        self.asleep.set(asleep as u64);
        self.ungrouped.set(waker.ungrouped.sockets.len() as u64);
        self.depth.set(depth);
        self.in_flight.set(sum(|pending| pending.in_flight));
        self.deferred.set(sum(|pending| pending.deferred));
        self.paused.set(sum(|pending| pending.paused));
        self.subscriptions.set(subscriptions as u64);
        self.hosts.set(waker.hosts.others().count() as u64 + 1);
    }
}

//! The gateway's metrics, for `/metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type MetricGauge = Gauge<u64, AtomicU64>;

/// The counters and gauges.
#[derive(Debug, Clone, Default)]
pub(super) struct GatewayMetrics {
    pub(super) handed_out: Counter,
    pub(super) done: Counter,
    pub(super) retried: Counter,
    pub(super) dead_letters: Counter,
    pub(super) released: Counter,
    pub(super) silent_workers: Counter,
    pub(super) published: Counter,
    pub(super) refused: Counter,
    pub(super) workers: MetricGauge,
    pub(super) held: MetricGauge,
    pub(super) groups: MetricGauge,
    pub(super) connections: MetricGauge,
}

impl GatewayMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gateway");
        for (name, help, counter) in [
            ("jobs_handed_out", "Jobs sent to workers", &self.handed_out),
            ("jobs_done", "Jobs that workers said were done", &self.done),
            ("jobs_retried", "Jobs that workers gave back to be tried again", &self.retried),
            ("jobs_dead", "Jobs that went to the dead letters", &self.dead_letters),
            ("jobs_given_back", "Jobs given back because their worker was gone", &self.released),
            ("silent_workers", "Workers that said nothing until their deadline", &self.silent_workers),
            ("published", "Messages published", &self.published),
            ("refused", "Requests answered with an error", &self.refused),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, number) in [
            ("workers", "Workers that are there", &self.workers),
            ("jobs_held", "Jobs that workers have", &self.held),
            ("groups", "Groups that are open", &self.groups),
            ("connections", "HTTP connections", &self.connections),
        ] {
            registry.register(name, help, number.clone());
        }
    }
}

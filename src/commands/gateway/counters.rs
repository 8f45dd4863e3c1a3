//! The gateway's metrics, for `/metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use mqueue::plural::count;

type GatewayGauge = Gauge<u64, AtomicU64>;

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
    pub(super) workers: GatewayGauge,
    pub(super) held: GatewayGauge,
    pub(super) groups: GatewayGauge,
    pub(super) connections: GatewayGauge,
}

impl GatewayMetrics {
    /// Logs what became of the jobs, at the end.
    pub(super) fn log_totals(&self) {
        tracing::info!(
            "ended: {} handed out, {} done, {} retried, {} given back",
            count(self.handed_out.get(), "job"),
            self.done.get(),
            self.retried.get(),
            self.released.get()
        );
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gateway");
        for (name, help, counter) in [
            ("jobs_handed_out", "Jobs sent to workers", &self.handed_out),
            ("jobs_done", "Jobs done", &self.done),
            ("jobs_retried", "Jobs requeued to be retried", &self.retried),
            ("jobs_dead", "Jobs that became dead letters", &self.dead_letters),
            ("jobs_given_back", "Jobs requeued without a result", &self.released),
            ("silent_workers", "Workers silent until their deadline", &self.silent_workers),
            ("published", "Messages published", &self.published),
            ("refused", "Requests answered with an error", &self.refused),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, number) in [
            ("workers", "Connected workers", &self.workers),
            ("jobs_held", "Jobs held by workers", &self.held),
            ("groups", "Open groups", &self.groups),
            ("connections", "HTTP connections", &self.connections),
        ] {
            registry.register(name, help, number.clone());
        }
    }
}

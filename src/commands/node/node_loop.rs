//! The loop that drives the lease: a store, a clock, and the generated events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::clock;
use super::event;
use super::expvar::NodeVars;
use super::fleet_store::{FleetStore, StoreEvent};
use super::generator::Generator;
use super::lease::{FleetConfig, Lease, LeaseAction, LeaseConfig, LeaseEvent, NodeSecret};
use super::repeated_warning::RepeatedWarning;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use mqueue::plural::count;
use mqueue::shutdown::Shutdown;

/// A wait without an end.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// The loop that drives the lease and generates events.
pub(super) struct NodeLoop<S> {
    store: S,
    fleet: FleetConfig,
    lease: Lease,
    generator: Generator,
    vars: Arc<NodeVars>,
    leading: watch::Sender<bool>,
    /// Tokens and heartbeats of nodes with other settings.
    other_fleets: RepeatedWarning,
}

impl<S: FleetStore> NodeLoop<S> {
    /// Makes the loop of the node of this name, with an open store.
    pub(super) fn new(
        store: S,
        node: String,
        fleet: FleetConfig,
        interval: Duration,
        vars: Arc<NodeVars>,
        leading: watch::Sender<bool>,
    ) -> Result<Self, Failure> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|e| Failure::new(Exit::Unavailable, format!("no randomness from the system: {e}")))?;
        let mut rng = event::rng();
        let config = LeaseConfig { node, fleet: fleet.clone(), secret: NodeSecret::new(secret) };
        let lease = Lease::new(config, rng.fork());
        let generator = Generator::new(interval, rng);
        Ok(Self { store, fleet, lease, generator, vars, leading, other_fleets: RepeatedWarning::default() })
    }

    /// Runs until shutdown.
    pub(super) async fn run(mut self, shutdown: &Shutdown) {
        self.log_waiting();
        loop {
            let now = clock::now();
            let wait = self.lease.due().map_or(NEVER, |due| due.saturating_sub(now));
            let generates = self.lease.leads(now).is_some() && self.store.has_room();
            tokio::select! {
                biased;
                () = shutdown.draining.cancelled() => {
                    self.handle(LeaseEvent::Stop);
                    break;
                }
                event = self.store.next() => match event {
                    StoreEvent::Lease(event) => self.handle(event),
                    StoreEvent::EventStored => drop(self.vars.published.fetch_add(1, Ordering::Relaxed)),
                },
                () = tokio::time::sleep(wait) => self.handle(LeaseEvent::Tick),
                _ = self.generator.due(), if generates => self.generate(),
            }
        }
        self.update_leadership();
        self.store.close().await;
    }

    fn handle(&mut self, event: LeaseEvent) {
        match event {
            LeaseEvent::Connected { .. } => self.vars.has_token_connection.store(true, Ordering::Relaxed),
            LeaseEvent::Disconnected => self.vars.has_token_connection.store(false, Ordering::Relaxed),
            _ => {}
        }
        self.lease.observe_epoch(self.vars.seen_epoch.load(Ordering::Relaxed));
        for action in self.lease.handle(event, clock::now()) {
            match action {
                LeaseAction::WarnSettingsDiffer(theirs) => self.warn_settings_differ(&theirs),
                action => {
                    if let Some(event) = self.store.execute(action) {
                        self.handle(event);
                    }
                }
            }
        }
        self.update_leadership();
    }

    fn generate(&mut self) {
        // checked as late as possible, just before the write
        let Some(epoch) = self.lease.leads(clock::now()) else { return self.update_leadership() };
        let body = self.generator.event(epoch);
        self.store.publish(epoch, body);
        self.vars.generated.fetch_add(1, Ordering::Relaxed);
    }

    /// Updates the counters, the log and the consumer when this node starts or stops to generate.
    fn update_leadership(&mut self) {
        let epoch = self.lease.leads(clock::now()).unwrap_or(0);
        let before = self.vars.epoch.swap(epoch, Ordering::Relaxed);
        if before == epoch {
            return;
        }
        if before > 0 {
            tracing::info!(epoch = before, "no longer generating: {}", count(self.generator.events(), "event"));
            self.log_waiting();
        }
        if epoch > 0 {
            self.vars.terms.fetch_add(1, Ordering::Relaxed);
            self.generator.begin(epoch);
            tracing::info!(epoch, stream = %self.fleet.stream, "generating");
        }
        self.leading.send_replace(epoch > 0);
    }

    /// Logs that a node that only generates is idle.
    fn log_waiting(&self) {
        if self.vars.only_generates {
            tracing::info!(
                stream = %self.fleet.stream,
                "waiting to generate: it begins when no other node generates"
            );
        }
    }

    /// Warns about nodes with other settings: another fleet, or forged heartbeats.
    fn warn_settings_differ(&mut self, theirs: &FleetConfig) {
        let Some(count) = self.other_fleets.record(clock::now()) else { return };
        let shown = |fleet: &FleetConfig| {
            let lease = humantime::format_duration(Duration::from_millis(fleet.lease_ms)).to_string();
            format!("stream {}, ping interval {lease}", fleet.stream)
        };
        tracing::warn!(
            count,
            "nodes with other settings use {} ({}; here: {}): use the same on all, or another --token-stream",
            self.store.token_name(),
            shown(theirs),
            shown(&self.fleet)
        );
    }
}

/// Makes a name for a node, which no other run of any node has.
pub(super) fn node_name() -> String {
    format!("{}-{}-{:016x}", hostname(), std::process::id(), event::rng().u64(..))
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "node".to_owned(), |name| name.to_string_lossy().into_owned())
}

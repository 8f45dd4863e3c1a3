//! A node of the model: a lease, a clock of its own speed, and the events that came during a pause.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::{FleetConfig, Lease, LeaseConfig, LeaseEvent, NodeSecret};
use super::nsqd::{ConnectionId, Nsqd};
use mqueue::proto::TopicName;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) lease: Lease,
    /// The number of this start of the node.
    pub(super) run: u64,
    pub(super) token: Option<ConnectionId>,
    pub(super) monitor: Option<ConnectionId>,
    /// The speed of its clock.
    pub(super) pace: f64,
    pub(super) paused_until: u64,
    pub(super) inbox: VecDeque<LeaseEvent>,
    pub(super) next_wake: u64,
}

impl Node {
    pub(super) fn new(at: usize, run: u64, rng: &mut fastrand::Rng) -> Self {
        let mut secret = [0; 32];
        rng.fill(&mut secret);
        let config =
            LeaseConfig { node: format!("{at}-{run}"), fleet: fleet_config(), secret: NodeSecret::new(secret) };
        let lease = Lease::new(config, rng.fork());
        let pace = 0.97 + 0.06 * rng.f64();
        Self { lease, run, token: None, monitor: None, pace, paused_until: 0, inbox: VecDeque::new(), next_wake: 0 }
    }

    pub(super) fn clock(&self, now: u64) -> Duration {
        Duration::from_millis(now).mul_f64(self.pace)
    }
}

pub(super) fn fleet_config() -> FleetConfig {
    FleetConfig { stream: TopicName::new("foo").unwrap(), lease_ms: Nsqd::LEASE }
}

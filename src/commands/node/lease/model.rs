//! A model of the fleet on a fake clock, with many seeds. Invariants under pauses, restarts,
//! partitions, clock steps, lost heartbeats and second tokens: no two nodes lead at the same time,
//! and epochs increase.

mod faults;
mod node;
mod nsqd;
mod world;

use std::time::Duration;

use self::nsqd::Nsqd;
use self::world::World;

/// The kinds of faults in a run.
#[derive(Debug, Clone, Copy)]
struct FaultConfig {
    /// nsqd's clock is set back, too.
    clock_steps_back: bool,
    /// Heartbeats get lost silently; then only one node publishes tokens.
    lossy: bool,
    /// Forged heartbeats are published throughout the run.
    forger: bool,
}

/// The time with faults, and the time without faults after it.
const FAULTY_TIME: Duration = Duration::from_secs(100);
const CALM_TIME: Duration = Duration::from_secs(30);

fn run(seed: u64, fault_config: FaultConfig) -> World {
    let mut world = World::new(seed, fault_config);
    world.run_until(FAULTY_TIME, true);
    world.run_until(FAULTY_TIME + CALM_TIME, false);
    // the allowance is for a handover, which forged heartbeats may delay
    let within = Duration::from_secs(if fault_config.forger { 4 } else { 3 });
    assert!(world.led_within(within), "seed {seed}, {fault_config:?}: no node leads without faults");
    assert_eq!(world.tokens(), 1, "seed {seed}, {fault_config:?}: one token is left");
    world
}

/// The number of seeds: `MQUEUE_SEEDS=100000 cargo test --release two_nodes_never_lead` for a
/// night.
fn seeds() -> u64 {
    std::env::var("MQUEUE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(100)
}

#[test]
fn two_nodes_never_lead_under_faults() {
    let (mut terms, mut inherited, mut surplus) = (0, 0, 0);
    for seed in 0..seeds() {
        let world = run(seed, FaultConfig { clock_steps_back: seed % 2 == 1, lossy: seed % 5 == 4, forger: false });
        terms += world.terms();
        inherited += world.inherited;
        surplus += world.surplus;
    }
    // the runs covered takeovers, handovers and second tokens
    assert!(terms > 10 * seeds() && inherited > seeds() && surplus > 5 * seeds(), "{terms} {inherited} {surplus}");
}

#[test]
fn two_nodes_never_lead_with_forged_heartbeats_and_one_does_in_the_end() {
    // fewer seeds, because forged heartbeats make a run much longer
    let seeds = seeds().div_ceil(4);
    let (mut terms, mut forged, mut surplus) = (0, 0, 0);
    for seed in 0..seeds {
        let world = run(seed, FaultConfig { clock_steps_back: seed % 2 == 1, lossy: false, forger: true });
        terms += world.terms();
        forged += world.forged;
        surplus += world.surplus;
    }
    assert!(terms > 10 * seeds && forged > 1000 * seeds && surplus > 5 * seeds, "{terms} {forged} {surplus}");
}

/// Returns the time from the start of all nodes until one leads, with clocks that differ by at most
/// 3%.
fn first_lead(seed: u64) -> u64 {
    let mut world = World::new(seed, FaultConfig { clock_steps_back: false, lossy: false, forger: false });
    world.nsqd.wraps = false;
    world.run_until(Duration::from_secs(4), false);
    world.first_led.unwrap_or_else(|| panic!("seed {seed}: no node leads"))
}

#[test]
fn a_fleet_that_starts_at_once_has_a_leader_within_a_lease() {
    let mut times: Vec<(u64, u64)> = (0..3 * seeds()).map(|seed| (first_lead(seed), seed)).collect();
    times.sort_unstable();
    let most = times[times.len() - 1];
    // by the slowest clock, plus network delays
    assert!(most.0 <= Nsqd::LEASE * 100 / 97 + 30, "{most:?}, median {:?}", times[times.len() / 2]);
}

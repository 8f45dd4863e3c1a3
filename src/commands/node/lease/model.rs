//! The promise, on a fake clock and for many seeds: whatever pauses, restarts, partitions, clock steps, lost beats and second tokens there are,
//! never do two nodes lead at the same instant, and epochs go up.

mod faults;
mod node;
mod nsqd;
mod world;

use std::time::Duration;

use self::nsqd::Nsqd;
use self::world::World;

/// What may go wrong in a run.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    /// nsqd's clock is set back, too.
    back: bool,
    /// Beats vanish without a trace; then only one node makes tokens.
    lossy: bool,
    /// Somebody publishes beats that no node has sent, to the end.
    forger: bool,
}

/// For so long things go wrong, and for so long they do not.
const STORM: Duration = Duration::from_secs(100);
const CALM: Duration = Duration::from_secs(30);

fn run(seed: u64, trouble: Trouble) -> World {
    let mut world = World::new(seed, trouble);
    world.run_until(STORM, true);
    world.run_until(STORM + CALM, false);
    // but for a hand-over, where what is heard may put it off
    let within = Duration::from_secs(if trouble.forger { 4 } else { 3 });
    assert!(world.led_within(within), "seed {seed}, {trouble:?}: nobody leads when all is calm");
    assert_eq!(world.tokens(), 1, "seed {seed}, {trouble:?}: one token is left");
    world
}

/// How many seeds: `MQUEUE_SEEDS=100000 cargo test --release never_do_two` for a night.
fn seeds() -> u64 {
    std::env::var("MQUEUE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(100)
}

#[test]
fn never_do_two_lead_whatever_goes_wrong() {
    let (mut terms, mut inherited, mut surplus) = (0, 0, 0);
    for seed in 0..seeds() {
        let world = run(seed, Trouble { back: seed % 2 == 1, lossy: seed % 5 == 4, forger: false });
        terms += world.terms();
        inherited += world.inherited;
        surplus += world.surplus;
    }
    // all that is to be tried was tried
    assert!(terms > 10 * seeds() && inherited > seeds() && surplus > 5 * seeds(), "{terms} {inherited} {surplus}");
}

#[test]
fn never_do_two_lead_nor_none_whatever_beats_are_made_up() {
    // each hears many more beats than without
    let seeds = seeds().div_ceil(4);
    let (mut terms, mut forged, mut surplus) = (0, 0, 0);
    for seed in 0..seeds {
        let world = run(seed, Trouble { back: seed % 2 == 1, lossy: false, forger: true });
        terms += world.terms();
        forged += world.forged;
        surplus += world.surplus;
    }
    assert!(terms > 10 * seeds && forged > 1000 * seeds && surplus > 5 * seeds, "{terms} {forged} {surplus}");
}

/// From when all are there until one leads, with clocks that differ by 3% at the most.
fn first_lead(seed: u64) -> u64 {
    let mut world = World::new(seed, Trouble { back: false, lossy: false, forger: false });
    world.nsqd.wraps = false;
    world.run_until(Duration::from_secs(4), false);
    world.first_led.unwrap_or_else(|| panic!("seed {seed}: nobody leads"))
}

#[test]
fn a_fleet_that_starts_at_once_has_a_leader_within_a_lease() {
    let mut times: Vec<(u64, u64)> = (0..3 * seeds()).map(|seed| (first_lead(seed), seed)).collect();
    times.sort_unstable();
    let most = times[times.len() - 1];
    // by the slowest clock, and what is on its way
    assert!(most.0 <= Nsqd::LEASE * 100 / 97 + 30, "{most:?}, median {:?}", times[times.len() / 2]);
}

//! A simulation of sleeping and waking on a fake clock: the consumer's real lifecycle
//! ([`life`](super::consumer::life)), its real idle timer, and wakeup's real decisions, with models
//! of nsqd, systemd's sockets, and failures.
//!
//! ```text
//!  publish ─▶ Channel ─▶ Process (lifecycle, Idle) ─▶ asleep
//!                │ /stats, edge       ▲ start
//!                └─▶ Watch (decide) ─poke─▶ Unit
//! ```
//!
//! Each run follows from its seed. A failed run is repeated and prints its last events; `SEED=n`
//! runs one seed.

mod consumer;
mod nsqd;
mod settings;
mod trouble;
mod unit;
mod wakeup;
mod world;

use std::time::Duration;

use self::settings::Tally;
use self::world::{START, World};

const RUNS: u64 = 2000;

#[test]
#[allow(clippy::print_stdout, reason = "the figures are part of the outcome")]
fn no_message_is_lost_or_waits_long_however_consumers_sleep_and_wake() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..=seed).expect("SEED is a number"),
        Err(_) => 1..=RUNS,
    };
    let mut total = Tally::default();
    for seed in seeds.clone() {
        match World::new(seed, false).play() {
            Ok(tally) => total.add(tally),
            Err(why) => {
                let mut again = World::new(seed, true);
                let _ = again.play();
                panic!("seed {seed}: {why}\n{}", again.told());
            }
        }
    }
    println!("{}", told(&mut total));
    if seeds.count() > 1 {
        assert!(at(&total.heard, 99) < START, "what wakeup hears of is not handed out at once");
        assert!(total.sleeps > 5000, "{} sleeps are not many", total.sleeps);
        assert!(total.starts > 1000, "{} starts on several hosts are not many", total.starts);
        let doubles = total.double_starts * 100;
        assert!(doubles <= total.starts, "{} of {} starts are double", total.double_starts, total.starts);
        for (what, count) in total.exits {
            assert!(count > 100, "{what} hardly ever happened: {count}");
        }
    }
}

fn told(total: &mut Tally) -> String {
    let Tally { published, sleeps, pokes, starts, double_starts, exits, waits, heard } = total;
    let (all, heard) = (distribution(waits), distribution(heard));
    format!(
        "{published} messages, {sleeps} sleeps, {pokes} pokes, {exits:?}
on several hosts: {starts} starts, {double_starts} double
from ready to handed out: {all}
where wakeup heard of it: {heard}"
    )
}

fn distribution(waits: &mut [Duration]) -> String {
    waits.sort_unstable();
    let shares = [(50, "p50"), (90, "p90"), (99, "p99"), (100, "max")];
    let ms = shares.map(|(percent, name)| format!("{name} {:.1} ms", at(waits, percent).as_secs_f64() * 1e3));
    ms.join(", ")
}

/// Returns a percentile of the sorted waits.
fn at(waits: &[Duration], percent: usize) -> Duration {
    waits.get(waits.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

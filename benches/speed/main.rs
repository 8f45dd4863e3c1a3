//! How fast the binary and the library are beside their peers, as ratios.
//!
//! Run: `cargo bench --bench speed`, or `-- publish lines quiet bulk log broker pipeline gateway` for some of it. Every contender does the same work on the
//! same nsqd, in turns (A B A B …), and the medians of all rounds are compared: what a noisy machine does to one it does to
//! the other. nsqd and nsq's own programs come from `make peers`. With `--features tokio-nsq` there is `client`, too.

#![allow(clippy::print_stdout, clippy::unwrap_used, unreachable_pub)]

#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../tests/support/mod.rs"]
mod support;

mod bare;
mod broker;
mod bulk;
#[cfg(feature = "tokio-nsq")]
mod client;
mod gateway;
mod lines;
mod log;
mod pipeline;
mod publish;
mod quiet;

use support::peer;

/// Rounds that each contender gets.
const ROUNDS: usize = 5;

fn main() {
    // cargo adds --bench
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for program in ["nsqd", "nsq_tail", "to_nsq"] {
        assert!(peer(program).is_some(), "{program} is missing: make peers");
    }
    let parts: &[(&str, fn())] = &[
        ("publish", publish::run),
        ("lines", lines::run),
        ("quiet", quiet::run),
        ("bulk", bulk::run),
        ("log", log::run),
        ("broker", broker::run),
        ("pipeline", pipeline::run),
        ("gateway", gateway::run),
        #[cfg(feature = "tokio-nsq")]
        ("client", client::run),
    ];
    for (name, run) in parts {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            run();
        }
    }
}

/// One contender's figures, a round each.
struct Contender {
    name: &'static str,
    figures: Vec<f64>,
}

impl Contender {
    fn median(&self) -> f64 {
        median(&self.figures)
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// What one contender does in a round: its figure.
type Round<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// Runs the contenders in turns.
fn compare(contenders: Vec<(&'static str, Round<'_>)>) -> Vec<Contender> {
    let mut results: Vec<Contender> =
        contenders.iter().map(|(name, _)| Contender { name, figures: Vec::new() }).collect();
    let mut rounds: Vec<Round<'_>> = contenders.into_iter().map(|(_, round)| round).collect();
    for _ in 0..ROUNDS {
        for (result, round) in results.iter_mut().zip(&mut rounds) {
            result.figures.push(round());
        }
    }
    results
}

/// Prints medians, spread, and the ratio to the first contender.
fn report(title: &str, unit: &str, results: &[Contender]) {
    println!("\n{title}");
    let first = results[0].median();
    for result in results {
        let (low, high) = result.figures.iter().fold((f64::MAX, f64::MIN), |(l, h), f| (l.min(*f), h.max(*f)));
        let median = result.median();
        let ratio = median / first;
        let digits = if ratio < 0.1 { 4 } else { 2 };
        println!("  {:<44} {median:>12.1} {unit} ({low:.1} to {high:.1})  {ratio:>7.digits$}x", result.name);
    }
}

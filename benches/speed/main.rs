//! The speed of the binary and the library beside their peers, as ratios.
//!
//! Run: `cargo bench --bench speed`, or with the names of parts after `--` for some of it; `make
//! compare` writes docs/benchmarks. Every contender does the same work on the same nsqd, in turns
//! (A B A B …), and the medians of all rounds are compared: noise of the machine affects all
//! contenders alike. nsqd and nsq's own programs come from `make peers`. With `--features
//! tokio-nsq` there is the part `client`, too.

#![allow(clippy::print_stdout, clippy::unwrap_used, unreachable_pub)]

#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../tests/support/mod.rs"]
mod support;

mod bare;
mod batch;
mod book;
mod bridge;
mod broker;
mod bulk;
#[cfg(feature = "tokio-nsq")]
mod client;
mod durable;
mod exec;
mod fanout;
mod gateway;
mod large;
mod least;
mod lines;
mod log;
mod measured;
mod others;
mod page;
mod pipeline;
mod publish;
mod quiet;
mod threads;
mod tls;

use std::path::Path;
use std::sync::LazyLock;

use book::{Contender, Goal, report};
use support::peer;

/// The number of rounds of each contender: five, or the variable ROUNDS for a quick run.
static ROUNDS: LazyLock<usize> =
    LazyLock::new(|| std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5));

fn main() {
    // cargo adds --bench
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for program in ["nsqd", "nsq_tail", "to_nsq"] {
        assert!(peer(program).is_some(), "{program} is missing: make peers");
    }
    // only the page again: its texts were changed
    if std::env::args().any(|arg| arg == "--page") {
        return page::write_page(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"));
    }
    let parts: &[(&str, fn())] = &[
        ("publish", publish::run),
        ("lines", lines::run),
        ("quiet", quiet::run),
        ("batch", batch::run),
        ("bulk", bulk::run),
        ("large", large::run),
        ("tls", tls::run),
        ("others", others::run),
        ("log", log::run),
        ("broker", broker::run),
        ("fanout", fanout::run),
        ("threads", threads::run),
        ("pipeline", pipeline::run),
        ("gateway", gateway::run),
        ("bridge", bridge::run),
        ("durable", durable::run),
        #[cfg(feature = "tokio-nsq")]
        ("client", client::run),
        ("exec", exec::run),
    ];
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (name, run) in parts {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            run();
            // after each part, so that an interrupted run keeps its figures
            if std::env::args().any(|arg| arg == "--write") {
                page::write(&docs, "make compare");
            }
        }
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// A contender's work in a round; returns its figure.
type Round<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// Runs the contenders in turns.
fn compare(contenders: Vec<(&'static str, Round<'_>)>) -> Vec<Contender> {
    let mut results: Vec<Contender> =
        contenders.iter().map(|(name, _)| Contender { name, figures: Vec::new() }).collect();
    let mut rounds: Vec<Round<'_>> = contenders.into_iter().map(|(_, round)| round).collect();
    for _ in 0..*ROUNDS {
        for (result, round) in results.iter_mut().zip(&mut rounds) {
            result.figures.push(round());
        }
    }
    results
}

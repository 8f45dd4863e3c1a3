//! The latency from publishing to handling under load: each broker at half of its own highest rate.

use std::time::Duration;

use super::jet_stream::JetStream;
use super::{ALWAYS, INTERVAL};
use crate::book::Contender;
use crate::measured::{bench, figure, nsqd};
use crate::support::Nsqd;
use crate::{Goal, ROUNDS, report};

const QUANTILES: [(&str, &str); 3] = [("p50", "p50"), ("p99", "p99"), ("p99.9", "p999")];
const BATCH: u64 = 20;
const NSQD: &str = "nsqd, all through its disk queue";
const JET_STREAM: &str = "JetStream, synced every 2 min";

/// A load that publishes and consumes at once.
pub struct Load {
    /// Messages published together.
    pub batch: u64,
    /// Messages a second; the highest possible rate if there is none.
    pub rate: Option<f64>,
    pub duration: Duration,
}

/// Measures the three quantiles in milliseconds at half of the highest rate.
type Measure = fn() -> [f64; 3];

pub fn run() {
    let mut servers: Vec<(&'static str, Measure)> = vec![
        (INTERVAL, || nsq(&|| Nsqd::embedded(&["--sync=interval"]))),
        (ALWAYS, || nsq(&|| Nsqd::embedded(&["--sync=always"]))),
        (NSQD, || nsq(&|| nsqd(0))),
    ];
    if JetStream::is_here() {
        servers.push((JET_STREAM, jet_stream));
    }
    let mut figures = vec![Vec::new(); servers.len()];
    for _ in 0..*ROUNDS {
        for (figures, (_, measure)) in figures.iter_mut().zip(&servers) {
            figures.push(measure());
        }
    }
    for (index, (name, _)) in QUANTILES.iter().enumerate() {
        let contenders: Vec<Contender> = servers
            .iter()
            .zip(&figures)
            .map(|((name, _), rounds)| Contender { name, figures: rounds.iter().map(|three| three[index]).collect() })
            .collect();
        let goal = (*name == "p99").then_some(Goal::AtMost(0.5));
        let pairs: Vec<_> = (2..servers.len()).map(|peer| (0, peer, goal)).collect();
        let what = format!("publish → handled at half of the highest rate, 200 B in batches of {BATCH}, {name}");
        report(&what, "ms", &contenders, &pairs);
    }
}

fn nsq(start: &dyn Fn() -> Nsqd) -> [f64; 3] {
    let both = |more: &str| {
        let server = start();
        bench(&server, &format!("both --batch {BATCH} --connections 2 --max-in-flight 2500 --warm-up 1s {more}"))
    };
    let highest = figure(&both("--duration 2s"), "/handled/messages_per_s");
    println!("  highest rate: {highest:.0} messages/s");
    let report = both(&format!("--duration 3s --rate {:.0}", highest / 2.0));
    QUANTILES.map(|(_, field)| figure(&report, &format!("/handled/latency_ms/{field}")))
}

fn jet_stream() -> [f64; 3] {
    let load = |rate, seconds| {
        let load = Load { batch: BATCH, rate, duration: Duration::from_secs(seconds) };
        JetStream::start("2m").load(&load)
    };
    let highest = load(None, 3).len() as f64 / 3.0;
    println!("  highest rate of JetStream: {highest:.0} messages/s");
    let mut times = load(Some(highest / 2.0), 4);
    // the first second, in which it warms up, does not count
    times.drain(..times.len() / 4);
    times.sort_unstable();
    [0.5, 0.99, 0.999].map(|quantile| {
        let index = ((times.len() - 1) as f64 * quantile) as usize;
        times[index].as_secs_f64() * 1e3
    })
}

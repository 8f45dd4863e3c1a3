//! Three stages without work, each a process: their throughput, and the latency that a hop adds to
//! a quiet feed.

use std::process::Command;

use crate::ROUNDS;
use crate::median;
use crate::support::Nsqd;

pub fn run() {
    let nsqd = Nsqd::real(&["--mem-queue-size=1000000"]);
    let rates: Vec<f64> = (0..*ROUNDS).map(|_| figure(&pipeline(&nsqd, "max", 300_000), "end", "/s")).collect();
    println!("\npipeline of three stages without work, nsqd (goal: at least 30,000 messages/s)");
    println!("  {:.0} messages/s", median(&rates));
    let quiet = pipeline(&nsqd, "500", 10_000);
    println!("a hop at 500/s, from publishing to the next hop's OK (goal: p99 of at most 2 ms)");
    for stage in ["stage 1", "stage 2", "stage 3"] {
        println!("  {stage}: p99 {} ms", figure(&quiet, stage, "ms"));
    }
}

fn pipeline(nsqd: &Nsqd, rate: &str, count: u64) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
    command.args(["pipeline", "--work", "0", "--rate", rate, "--count", &count.to_string()]);
    command.args(["--nsqd-tcp-address", &nsqd.tcp(), "--nsqd-http-address", &nsqd.http()]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("lost 0"), "{text}");
    text
}

/// The last figure with this unit in a row of the last table.
fn figure(text: &str, row: &str, unit: &str) -> f64 {
    let table = text.rsplit_once("working   latency").unwrap().1;
    let row = table.lines().find(|line| line.trim_start().starts_with(row)).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    let at = words.iter().rposition(|word| word.ends_with(unit)).unwrap();
    let word = if words[at] == unit { words[at - 1] } else { words[at].trim_end_matches(unit) };
    word.parse().unwrap()
}

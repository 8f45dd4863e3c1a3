//! Lines from stdin: `mqueue producer -` beside nsq's to_nsq.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::measured::{BROKERS, Broker};
use crate::support::peer;
use crate::{Goal, compare, report};

/// to_nsq gets fewer lines: it is much slower, and only the rate is compared.
const OURS: usize = 1_000_000;
const THEIRS: usize = 50_000;

pub fn run() {
    BROKERS.iter().for_each(on);
}

fn on(broker: &Broker) {
    let server = (broker.start)();
    let folder = tempfile::tempdir().unwrap();
    let lines = |count: usize| {
        let path = folder.path().join(count.to_string());
        let mut file = std::io::BufWriter::new(File::create(&path).unwrap());
        for n in 0..count {
            writeln!(file, "{n:0199}").unwrap();
        }
        path
    };
    let (ours, theirs) = (lines(OURS), lines(THEIRS));
    let rate = |count: usize, input: &std::path::Path, command: &mut Command| {
        let before = server.published("lines");
        let start = Instant::now();
        let status = command.stdin(File::open(input).unwrap()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let took = start.elapsed();
        assert!(status.unwrap().success());
        assert_eq!(server.published("lines") - before, count as u64, "all lines are published");
        // the next run finds the broker in the same state
        server.delete_topic("lines");
        count as f64 / took.as_secs_f64()
    };
    let address = server.tcp();
    let results = compare(vec![
        (
            "to_nsq",
            Box::new(|| {
                let mut command = Command::new(peer("to_nsq").unwrap());
                rate(THEIRS, &theirs, command.args(["--topic=lines", &format!("--nsqd-tcp-address={address}")]))
            }),
        ),
        (
            "mqueue producer -",
            Box::new(|| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
                rate(OURS, &ours, command.args(["producer", "--stream=lines", "--nsqd-tcp-address", &address, "-"]))
            }),
        ),
    ]);
    let what = format!("lines of 200 B from stdin, on {}", broker.name);
    report(&what, "lines/s", &results, &[(1, 0, broker.goal(Goal::AtLeast(30.0)))]);
}

//! Our own client beside the crate tokio-nsq, in the same program, by `mqueue bench` (`--features tokio-nsq`).

use std::process::Command;

use serde_json::Value;

use crate::support::Nsqd;
use crate::{Round, compare, report};

/// What is measured: a title, its unit, mqueue bench's arguments, where its figure stands in the report, and how many units it is.
type Measurement = (&'static str, &'static str, &'static str, &'static str, f64);

const MEASUREMENTS: [Measurement; 6] = [
    ("publish -> OK, one at a time, 200 B, p50", "us", ONE, "/published/latency_ms/p50", 1e3),
    ("publish, 200 B, batches of 200", "messages/s", BATCHES, "/published/messages_per_s", 1.0),
    ("publish -> handled at 50/s, max-in-flight 200, p50", "us", QUIET, "/handled/latency_ms/p50", 1e3),
    ("the same, p99", "us", QUIET, "/handled/latency_ms/p99", 1e3),
    ("consume, 200 B", "messages/s", CONSUME, "/handled/messages_per_s", 1.0),
    ("consume, 200 B, client's CPU", "ns a message", CONSUME, "/client_usage/cpu_us_per_message", 1e3),
];
const ONE: &str = "publish --duration 3s";
const BATCHES: &str = "publish --duration 3s --batch 200";
const QUIET: &str = "both --duration 4s --rate 50";
const CONSUME: &str = "consume --messages 300000 --max-in-flight 2500";

pub fn run() {
    let nsqd = &Nsqd::real(&["--mem-queue-size=1000000"]);
    for (title, unit, args, figure, units) in MEASUREMENTS {
        let contender = |client: &'static str| -> (&'static str, Round<'_>) {
            (client, Box::new(move || measured(nsqd, client, args, figure) * units))
        };
        report(title, unit, &compare(vec![contender("tokio-nsq"), contender("own")]));
    }
}

fn measured(nsqd: &Nsqd, client: &str, args: &str, figure: &str) -> f64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
    command.arg("bench").args(args.split(' ')).args(["--output", "json", "--log", "error", "--client", client]);
    command.args(["--nsqd-tcp-address", &nsqd.tcp(), "--nsqd-http-address", &nsqd.http()]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report.pointer(figure).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {figure} in {report}"))
}

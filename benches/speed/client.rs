//! Our own client beside the crate tokio-nsq, in the same program, by `mqueue bench` (`--features tokio-nsq`).

use std::process::Command;

use serde_json::Value;

use crate::support::Nsqd;
use crate::{Round, compare, report};

/// What is measured: a title, its unit, mqueue bench's arguments, and where its figure stands in the report.
type Measurement = (&'static str, &'static str, &'static str, &'static str);

const MEASUREMENTS: [Measurement; 6] = [
    ("publish -> OK, one at a time, 200 B, p50", "ms", "publish --duration 3s", "/published/latency_ms/p50"),
    ("publish, 200 B, batches of 200", "messages/s", "publish --duration 3s --batch 200", "/published/messages_per_s"),
    (
        "publish -> handled at 50/s, max-in-flight 200, p50",
        "ms",
        "both --duration 4s --rate 50",
        "/handled/latency_ms/p50",
    ),
    ("the same, p99", "ms", "both --duration 4s --rate 50", "/handled/latency_ms/p99"),
    ("consume, 200 B", "messages/s", CONSUME, "/handled/messages_per_s"),
    ("consume, 200 B, client's CPU", "us", CONSUME, "/client_usage/cpu_us_per_message"),
];
const CONSUME: &str = "consume --messages 300000 --max-in-flight 2500";

pub fn run() {
    let nsqd = Nsqd::real(&["--mem-queue-size=1000000"]);
    for (title, unit, args, figure) in MEASUREMENTS {
        let contender = |client: &'static str| -> (&'static str, Round<'_>) {
            (client, Box::new(|| measured(&nsqd, client, args, figure)))
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

//! The cost of a command for each message: `exec:` beside xargs, and `pipe:`, where one process
//! handles all messages, beside `exec:`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::Nsqd;
use crate::{Goal, compare, report};

/// Runs of `true`, two at a time.
const RUNS: usize = 3000;
/// pipe: gets more messages: it is much faster, and only the rate is compared.
const LINES: usize = 100_000;

const LOOP: &str = "pipe:while read -r line; do echo ok; done";
const PYTHON: &str = r#"pipe:python3 -uc '
import json, sys
for line in sys.stdin:
    json.loads(line)["body"]
    print("ok")'"#;

pub fn run() {
    let nsqd = Nsqd::real(&["--mem-queue-size=1000000"]);
    let results = compare(vec![
        ("xargs -P2 -n1 true", Box::new(|| 1e6 / xargs())),
        ("mqueue consumer --handler exec:true", Box::new(|| 1e6 / consumer(&nsqd, "exec:true", RUNS))),
    ]);
    report("a command a message, two at a time", "us", &results, &[(1, 0, Some(Goal::AtMost(1.2)))]);
    let results = compare(vec![
        ("exec:true", Box::new(|| consumer(&nsqd, "exec:true", RUNS))),
        ("pipe: with a loop of sh", Box::new(|| consumer(&nsqd, LOOP, LINES))),
        ("pipe: with a loop of Python that parses", Box::new(|| consumer(&nsqd, PYTHON, LINES))),
    ]);
    let goal = Some(Goal::AtLeast(20.0));
    report("messages of 20 B through a command", "messages/s", &results, &[(1, 0, goal), (2, 0, goal)]);
}

/// Runs per second.
fn xargs() -> f64 {
    let lines: String = (0..RUNS).map(|n| format!("{n}\n")).collect();
    let start = Instant::now();
    let mut xargs = Command::new("xargs").args(["-P2", "-n1", "true"]).stdin(Stdio::piped()).spawn().unwrap();
    xargs.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(xargs.wait().unwrap().success());
    RUNS as f64 / start.elapsed().as_secs_f64()
}

/// Messages per second, from the consumer's start to its end, when all are finished.
fn consumer(nsqd: &Nsqd, handler: &str, count: usize) -> f64 {
    nsqd.create("work", "g");
    let lines: String = (0..count).map(|n| format!("{n:020}\n")).collect();
    nsqd.publish_lines("work", lines.as_bytes());
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
    command.args(["--log=warn", "consumer", "--stream=work", "--group=g", "--handler", handler]);
    command.args(["--nsqd-tcp-address", &nsqd.tcp(), "--count", &count.to_string()]);
    if handler.starts_with("exec:") {
        command.arg("--concurrency=2");
    }
    let start = Instant::now();
    assert!(command.status().unwrap().success());
    let rate = count as f64 / start.elapsed().as_secs_f64();
    nsqd.wait_for_empty("work", "g");
    nsqd.delete_topic("work");
    rate
}

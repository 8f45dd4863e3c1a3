//! Batches published and messages consumed: the client's rate and its processor time, beside nsq's
//! own bench programs; and messages to a file beside nsq_to_file.

use std::cell::RefCell;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::measured::{BROKERS, Broker, bench, children_cpu, figure};
use crate::support::{Nsqd, peer, wait_until};
use crate::{Contender, Goal, Round, compare, report};

/// The backlog on nsqd for a consumer.
const FILLED: &str = "1000000";
const TO_FILE: usize = 300_000;

/// The rate of one of nsq's programs in messages per second, and its processor time per message in
/// microseconds.
fn go(server: &Nsqd, program: &str, flags: &[&str]) -> (f64, f64) {
    let mut command = Command::new(peer(program).expect("make peers"));
    command.args(["--topic=bench", "--runfor=2s"]).args(flags).arg(format!("--nsqd-tcp-address={}", server.tcp()));
    let before = children_cpu();
    let output = command.output().unwrap();
    let cpu = children_cpu() - before;
    let said = String::from_utf8_lossy(&output.stderr);
    // duration: 2.0s - 120mb/s - 600000ops/s - 1.6us/op
    let number = |unit: &str| said.split(" - ").find_map(|part| part.trim().strip_suffix(unit)?.parse::<f64>().ok());
    let rate = number("ops/s").unwrap_or_else(|| panic!("{program} said: {said}"));
    (rate, cpu * 1e6 / (rate * 2.0))
}

/// The same figures of `mqueue bench`.
fn ours(server: &Nsqd, args: &str, done: &str) -> (f64, f64) {
    let report = bench(server, args);
    (figure(&report, &format!("/{done}/messages_per_s")), figure(&report, "/client_usage/cpu_us_per_message"))
}

/// A client's figures: messages per second, and processor time per message.
type Measure = fn(&Nsqd) -> (f64, f64);

/// Runs both in turns; reports rate and processor time.
fn beside(broker: &Broker, what: &str, names: [&'static str; 2], theirs: Measure, ours: Measure) {
    let what = format!("{what}, on {}", broker.name);
    let costs = [RefCell::new(Vec::new()), RefCell::new(Vec::new())];
    let round = |measure: Measure, cost| -> Round<'_> {
        let cost: &RefCell<Vec<f64>> = cost;
        Box::new(move || {
            let (rate, cpu) = measure(&broker.with_channel());
            cost.borrow_mut().push(cpu);
            rate
        })
    };
    let results = compare(vec![(names[0], round(theirs, &costs[0])), (names[1], round(ours, &costs[1]))]);
    report(&what, "messages/s", &results, &[(1, 0, broker.goal(Goal::AtLeast(1.0)))]);
    let costs: Vec<Contender> =
        names.into_iter().zip(costs).map(|(name, figures)| Contender { name, figures: figures.into_inner() }).collect();
    let what = format!("{what}: the client's processor time");
    report(&what, "us a message", &costs, &[(1, 0, broker.goal(Goal::AtMost(0.5)))]);
}

pub fn run() {
    for broker in BROKERS {
        beside(
            &broker,
            "publish 200 B, batches of 200",
            ["bench_writer", "mqueue bench publish"],
            |server| go(server, "bench_writer", &["--size=200", "--batch-size=200"]),
            |server| ours(server, "publish --batch 200 --connections 2 --warm-up 0s --duration 2s", "published"),
        );
        beside(
            &broker,
            "consume 200 B and discard it",
            ["bench_reader", "mqueue bench consume"],
            |server| {
                go(server, "bench_writer", &["--size=200", "--batch-size=200"]);
                go(server, "bench_reader", &["--size=200", "--channel=ch"])
            },
            |server| {
                ours(server, &format!("consume --messages {FILLED} --connections 2 --max-in-flight 2500"), "handled")
            },
        );
        files(&broker);
    }
}

/// Messages to a file.
fn files(broker: &Broker) {
    let results = compare(vec![
        (
            "nsq_to_file",
            Box::new(|| {
                to_file(broker, |folder, tcp| {
                    let mut command = Command::new(peer("nsq_to_file").expect("make peers"));
                    // nsq_to_file sends FIN after its sync, which is every 30 s if fewer than
                    // max-in-flight messages are there
                    command.args(["--topic=bench", "--channel=ch", "--max-in-flight=1000", "--sync-interval=100ms"]);
                    command.args(["--output-dir", folder]);
                    command.arg(format!("--nsqd-tcp-address={tcp}"));
                    command
                })
            }),
        ),
        (
            "mqueue consumer --handler file:PATH",
            Box::new(|| {
                to_file(broker, |folder, tcp| {
                    let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
                    command.args([
                        "consumer",
                        "--stream=bench",
                        "--group=ch",
                        "--handler",
                        &format!("file:{folder}/lines"),
                    ]);
                    command.args(["--nsqd-tcp-address", tcp]);
                    command
                })
            }),
        ),
    ]);
    let what = format!("consume 200 B to a file, on {}", broker.name);
    report(&what, "messages/s", &results, &[(1, 0, broker.goal(Goal::AtLeast(3.0)))]);
}

/// Messages per second until the broker's backlog is empty.
fn to_file(broker: &Broker, command: impl Fn(&str, &str) -> Command) -> f64 {
    let (server, folder) = (broker.with_channel(), tempfile::tempdir().unwrap());
    let lines = format!("{:0200}\n", 7).repeat(2000);
    (0..TO_FILE / 2000).for_each(|_| server.publish_lines("bench", lines.as_bytes()));
    wait_until("all messages in the channel", || server.channel("bench", "ch").depth == TO_FILE as i64);
    let mut command = command(folder.path().to_str().unwrap(), &server.tcp());
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let done = || server.channel("bench", "ch");
    while done().depth > 0 || done().in_flight_count > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let rate = TO_FILE as f64 / start.elapsed().as_secs_f64();
    child.kill().unwrap();
    child.wait().unwrap();
    rate
}

//! Messages of one megabyte, published and consumed, beside nsq's bench programs (go-nsq's
//! protocol).

use std::process::Command;

use crate::measured::{BROKERS, Broker, bench, figure, nsqd};
use crate::support::{Nsqd, peer};
use crate::{Goal, compare, report};

/// Megabytes per second.
fn go(server: &Nsqd, program: &str, flags: &[&str]) -> f64 {
    let mut command = Command::new(peer(program).expect("make peers"));
    command.args(["--topic=bench", "--size=1000000", "--runfor=2s"]).args(flags);
    let output = command.arg(format!("--nsqd-tcp-address={}", server.tcp())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let rate = said.split(" - ").find_map(|part| part.trim().strip_suffix("ops/s")?.parse::<f64>().ok());
    rate.unwrap_or_else(|| panic!("{program} said: {said}"))
}

pub fn run() {
    // fewer messages than elsewhere, which makes nsqd faster
    let [_, embedded] = BROKERS;
    [Broker { name: "nsqd", start: || nsqd(1_000_000) }, embedded].iter().for_each(on);
}

fn on(broker: &Broker) {
    let goal = broker.goal(Goal::AtLeast(1.2));
    let written = compare(vec![
        ("bench_writer", Box::new(|| go(&broker.with_channel(), "bench_writer", &["--batch-size=4"]))),
        (
            "mqueue bench publish",
            Box::new(|| {
                let report = bench(
                    &broker.with_channel(),
                    "publish --size 1000000 --batch 4 --connections 2 --warm-up 0s --duration 2s",
                );
                figure(&report, "/published/mb_per_s")
            }),
        ),
    ]);
    report(&format!("publish 1 MB, batches of 4, on {}", broker.name), "MB/s", &written, &[(1, 0, goal)]);
    let read = compare(vec![
        (
            "bench_reader",
            Box::new(|| {
                let server = broker.with_channel();
                go(&server, "bench_writer", &["--batch-size=4"]);
                go(&server, "bench_reader", &["--channel=ch", "--rdy=100"])
            }),
        ),
        (
            "mqueue bench consume",
            Box::new(|| {
                let args = "consume --size 1000000 --messages 2000 --batch 4 --connections 2 --max-in-flight 100";
                figure(&bench(&broker.with_channel(), args), "/handled/mb_per_s")
            }),
        ),
    ]);
    report(&format!("consume 1 MB, on {}", broker.name), "MB/s", &read, &[(1, 0, goal)]);
}

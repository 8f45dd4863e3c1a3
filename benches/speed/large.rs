//! Messages of a megabyte, both ways, beside nsq's bench programs (go-nsq's protocol) on nsqd.

use std::process::Command;

use crate::measured::{bench, figure};
use crate::support::{Nsqd, peer};
use crate::{Goal, compare, report};

fn nsqd() -> Nsqd {
    let nsqd = Nsqd::real(&["--mem-queue-size=1000000"]);
    nsqd.create("bench", "ch");
    nsqd
}

/// Megabytes a second.
fn go(server: &Nsqd, program: &str, flags: &[&str]) -> f64 {
    let mut command = Command::new(peer(program).expect("make peers"));
    command.args(["--topic=bench", "--size=1000000", "--runfor=2s"]).args(flags);
    let output = command.arg(format!("--nsqd-tcp-address={}", server.tcp())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let rate = said.split(" - ").find_map(|part| part.trim().strip_suffix("ops/s")?.parse::<f64>().ok());
    rate.unwrap_or_else(|| panic!("{program} said: {said}"))
}

pub fn run() {
    let goal = Some(Goal::AtLeast(1.2));
    let written = compare(vec![
        ("bench_writer", Box::new(|| go(&nsqd(), "bench_writer", &["--batch-size=4"]))),
        (
            "mqueue bench publish",
            Box::new(|| {
                let report = bench(&nsqd(), "publish --size 1000000 --batch 4 --connections 2 --duration 2s");
                figure(&report, "/published/mb_per_s")
            }),
        ),
    ]);
    report("publish 1 MB, batches of 4, on nsqd", "MB/s", &written, &[(1, 0, goal)]);
    let read = compare(vec![
        (
            "bench_reader",
            Box::new(|| {
                let nsqd = nsqd();
                go(&nsqd, "bench_writer", &["--batch-size=4"]);
                go(&nsqd, "bench_reader", &["--channel=ch", "--rdy=100"])
            }),
        ),
        (
            "mqueue bench consume",
            Box::new(|| {
                let args = "consume --size 1000000 --messages 2000 --batch 4 --connections 2 --max-in-flight 100";
                figure(&bench(&nsqd(), args), "/handled/mb_per_s")
            }),
        ),
    ]);
    report("consume 1 MB, on nsqd", "MB/s", &read, &[(1, 0, goal)]);
}

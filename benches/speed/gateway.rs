//! The HTTP job queue: the latency of a job beside a plain consumer, the throughput, and the cost
//! of idle workers.

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::quiet::measure;
use crate::support::{Gateway, Nsqd};
use crate::{ROUNDS, compare, median, report};

const JOBS: usize = 200_000;
const IDLE: usize = 5000;

pub fn run() {
    let nsqd = Nsqd::real(&["--mem-queue-size=1000000"]);
    latency(&nsqd);
    let rates: Vec<f64> = (0..*ROUNDS).map(|round| rate(&nsqd, &format!("rate{round}"))).collect();
    println!("\njobs of 200 B streamed to one worker, and acknowledged in batches (goal: at least 20,000 jobs/s)");
    println!("  {:.0} jobs/s", median(&rates));
    idle(&nsqd);
}

fn latency(nsqd: &Nsqd) {
    let results = compare(vec![
        (
            "mqueue consumer, NSQ's own protocol",
            Box::new(|| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
                command.args(["consumer", "--stream=plain", "--group=g", "--output=body", "--max-in-flight=200"]);
                let figure = measure(nsqd, "plain", command.args(["--nsqd-tcp-address", &nsqd.tcp()]));
                nsqd.wait_for_clients("plain", "g", 0);
                figure
            }),
        ),
        (
            "mqueue worker, over HTTP",
            Box::new(|| {
                let gateway = Gateway::start(nsqd, "");
                let mut command = worker(&gateway, "http");
                let figure = measure(nsqd, "http", command.args(["--in-flight=200"]));
                drop(gateway);
                nsqd.wait_for_clients("http", "g", 0);
                figure
            }),
        ),
    ]);
    report("publish → line printed by a worker, 50/s, p50 (goal: 1 ms more)", "us", &results, &[(1, 0, None)]);
    println!("  {:.0} us more", results[1].median() - results[0].median());
}

fn worker(gateway: &Gateway, stream: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
    command.args([
        "--log=warn",
        "worker",
        "--group=g",
        "--handler=print",
        "--stream",
        stream,
        "--queue",
        &gateway.url(),
    ]);
    command
}

/// Jobs per second, from the worker's start to its end, when all are acknowledged.
fn rate(nsqd: &Nsqd, stream: &str) -> f64 {
    nsqd.create(stream, "g");
    let lines = format!("{}\n", "x".repeat(200)).repeat(2000);
    (0..JOBS / 2000).for_each(|_| nsqd.publish_lines(stream, lines.as_bytes()));
    let gateway = Gateway::start(nsqd, "--log info,mqueue::commands::gateway::exchange=warn");
    let start = Instant::now();
    let mut command = worker(&gateway, stream);
    let status =
        command.args(["--in-flight=2000", "--count", &JOBS.to_string()]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    let rate = JOBS as f64 / start.elapsed().as_secs_f64();
    assert_eq!((gateway.metric("jobs_done_total"), gateway.metric("jobs_given_back_total")), (JOBS as u64, 0));
    nsqd.wait_for_empty(stream, "g");
    nsqd.delete_topic(stream);
    rate
}

fn idle(nsqd: &Nsqd) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let gateway = Gateway::start(nsqd, "");
    let before = gateway.program.rss();
    let mut workers: Vec<TcpStream> =
        (0..IDLE).map(|_| gateway.worker_that_waits("/streams/idle/groups/g/jobs?create=true")).collect();
    workers.iter_mut().for_each(|worker| assert!(worker.read(&mut [0; 1024]).unwrap() > 0));
    gateway.wait_for_metric("workers", IDLE as u64);
    let after = gateway.program.rss();
    let each = (after - before) as f64 / IDLE as f64;
    println!("\n{IDLE} idle workers: {:.1} MB, {each:.1} KiB a worker", after as f64 / 1e3);
}

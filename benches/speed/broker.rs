//! The embedded broker beside nsqd, by nsq's own `bench_writer` and `bench_reader` (200 B, batches
//! of 200), and the memory of a million messages. Also a minimal server, which shows the possible
//! gain, and `mqueue bench`, a client that takes less time itself.

use std::process::Command;

use bytes::Bytes;
use mqueue::proto::{Command as Nsq, TopicName};

use crate::bare::Bare;
use crate::least::Least;
use crate::measured::{bench, figure, nsqd};
use crate::support::{Nsqd, peer};
use crate::{Goal, Round, compare, report};

/// The duration of each program in a round.
const RUNNING: &str = "--runfor=2s";
const QUEUED: usize = 1_000_000;

/// Starts a server.
type Start = fn() -> Nsqd;

/// The rate that one of nsq's programs measures on a server, in operations per second.
fn measure(tcp: &str, program: &str, flags: &[&str]) -> f64 {
    let mut command = Command::new(peer(program).expect("make peers"));
    command.args(["--topic=bench", "--size=200", RUNNING]).args(flags);
    let output = command.arg(format!("--nsqd-tcp-address={tcp}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let rate = said.split(" - ").find_map(|part| part.strip_suffix("ops/s"));
    rate.unwrap_or_else(|| panic!("{program} said: {said}")).parse().unwrap()
}

fn write(tcp: &str) -> f64 {
    measure(tcp, "bench_writer", &["--batch-size=200"])
}

fn read(tcp: &str) -> f64 {
    measure(tcp, "bench_reader", &["--channel=ch"])
}

fn write_then_read(server: &Nsqd) -> f64 {
    write(&server.tcp());
    read(&server.tcp())
}

/// The rate of publishing by a client that takes less time.
fn publish(server: &Nsqd) -> f64 {
    figure(
        &bench(server, "publish --batch 200 --connections 2 --warm-up 0s --duration 2s"),
        "/published/messages_per_s",
    )
}

/// The rate of consuming by that client.
fn consume(server: &Nsqd) -> f64 {
    let report = bench(server, "consume --messages 2000000 --connections 2 --max-in-flight 2500");
    figure(&report, "/handled/messages_per_s")
}

/// The rate of publishing and consuming at once, by one client.
fn both(server: &Nsqd) -> f64 {
    let report = bench(server, "both --batch 200 --window 4 --max-in-flight 2500 --duration 2s");
    figure(&report, "/handled/messages_per_s")
}

fn single(server: &Nsqd) -> f64 {
    figure(&bench(server, "publish --batch 1 --connections 8 --duration 2s"), "/published/messages_per_s")
}

/// The server's memory with a million messages, in megabytes.
fn queue_a_million(server: &Nsqd) -> f64 {
    let (topic, body) = (TopicName::new("bench").unwrap(), Bytes::from(vec![b'x'; 200]));
    let mut bare = Bare::connect(&server.tcp());
    for _ in 0..QUEUED / 200 {
        bare.ask(&Nsq::Mpub { topic: topic.clone(), bodies: std::iter::repeat_n(body.clone(), 200).collect() });
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

pub fn run() {
    // nsqd's best setting for each: bench_writer finds the first 7 % faster, bench_reader the
    // second
    let (nsqd, nsqd_read): (Start, Start) = (|| nsqd(100_000_000), || nsqd(10_000_000));
    let memory = || Nsqd::embedded(&["--memory", "--max-memory=16000000000"]);
    let interval = || Nsqd::embedded(&["--sync=interval"]);
    let servers: [(&str, Start); 3] = [
        ("nsqd, all in memory", nsqd),
        ("mqueue broker --memory", memory),
        ("mqueue broker --sync=interval", interval),
    ];
    // a new server each time, with a channel that gets all messages
    let round = |start: Start, measure: fn(&Nsqd) -> f64| -> Round<'_> {
        Box::new(move || {
            let server = start();
            server.create("bench", "ch");
            measure(&server)
        })
    };
    let rounds = |measure| -> Vec<_> { servers.iter().map(|(name, start)| (*name, round(*start, measure))).collect() };
    let half = Some(Goal::AtLeast(1.5));
    let pairs = [(1, 0, None), (2, 0, half)];
    let least = Least::start();
    let address = least.tcp();
    let with_least = |measure, theirs: fn(&str) -> f64| {
        let mut rounds = rounds(measure);
        rounds.push(("reads, keeps and answers, nothing else", Box::new(move || theirs(address))));
        rounds
    };
    // beside a server that has no protocol and no queue: more is not possible
    let of_the_least = |share| [pairs[0], pairs[1], (1, 3, Some(Goal::AtLeast(share)))];
    let written = compare(with_least(|server| write(&server.tcp()), write));
    report("bench_writer, 200 B, batches of 200", "messages/s", &written, &of_the_least(0.9));
    let mut reading = with_least(write_then_read, read);
    reading[0].1 = round(nsqd_read, write_then_read);
    report("bench_reader, 200 B", "messages/s", &compare(reading), &of_the_least(0.95));
    report("mqueue bench publish, 200 B, batches of 200", "messages/s", &compare(rounds(publish)), &pairs);
    report("mqueue bench consume, 200 B", "messages/s", &compare(rounds(consume)), &pairs);
    report("mqueue bench both, 200 B, batches of 200", "messages/s", &compare(rounds(both)), &pairs);
    report(
        "single PUBs on 8 connections, 200 B",
        "messages/s",
        &compare(rounds(single)),
        &[(1, 0, Some(Goal::AtLeast(1.6))), (2, 0, half)],
    );
    let mut queued = rounds(queue_a_million);
    queued.push(("nsqd, as it comes (10,000 in memory)", round(Nsqd::start, queue_a_million)));
    queued.push(("the bodies alone", Box::new(|| (QUEUED * 200) as f64 / f64::from(1 << 20))));
    report(
        "memory with a million messages of 200 B queued",
        "MB",
        &compare(queued),
        &[(1, 0, None), (2, 0, None), (2, 3, None), (1, 4, Some(Goal::AtMost(1.05)))],
    );
}

//! The cost of TLS and compression: publishing with and without them, by the library's publisher
//! and by go-nsq's producer (tests/peers/gonsq), on one connection.
//!
//! The client has one processor and the broker another. Left to the scheduler, both share one in
//! some rounds: a round trip takes 9 us then, and 60 us otherwise, whatever is compressed.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use mqueue::client::{ConnectConfig, Publisher, PublisherConfig};
use mqueue::net::transport::Compression;
use mqueue::proto::TopicName;

use crate::measured::{BROKERS, Broker};
use crate::support::{Certificates, Mode, Nsqd, Tls, peer};
use crate::{Goal, Round, compare, median, report};

/// Names of the modes, and their order in a round; the names of go-nsq in each, too.
const MODES: [(&str, &str, Mode); 4] = [
    ("mqueue, plain", "go-nsq, plain", Mode::PLAIN),
    ("mqueue, TLS", "go-nsq, TLS", Mode { tls: Tls::On, ..Mode::PLAIN }),
    ("mqueue, snappy", "go-nsq, snappy", Mode { compression: Some(Compression::Snappy), ..Mode::PLAIN }),
    ("mqueue, deflate", "go-nsq, deflate", Mode { compression: Some(Compression::Deflate(6)), ..Mode::PLAIN }),
];
const CALLS: usize = 2000;

/// Bodies of 200 B as they are in practice: text of which a part repeats.
fn body(n: usize) -> String {
    let mut text = String::new();
    for field in 0.. {
        text += &format!("\"field{field}\": {}, ", (n + 1) * (field + 7919) % 1_000_003);
        if text.len() >= 200 {
            break;
        }
    }
    text.truncate(200);
    text
}

pub fn run() {
    let Some(gonsq) = peer("gonsq") else { return println!("\nskipped: gonsq is missing (make peers)") };
    let (own, all) = (std::process::id(), std::thread::available_parallelism().map_or(1, |count| count.get()));
    if all < 2 {
        return println!("\nskipped: two processors are needed");
    }
    pin(own, "0");
    measure(&gonsq);
    pin(own, &format!("0-{}", all - 1));
}

/// Binds all threads of a process to processors; those that it starts have the same.
fn pin(pid: u32, processors: &str) {
    let output = Command::new("taskset").args(["-apc", processors, &pid.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn measure(gonsq: &Path) {
    let certificates = Certificates::new();
    for broker in BROKERS {
        for (count, what, goals) in [
            (
                200,
                "publish 200 B, batches of 200, one connection",
                [Some(Goal::AtMost(1.25)), Some(Goal::AtMost(1.15))],
            ),
            (1, "publish → OK, one at a time, 200 B, p50, one connection", [Some(Goal::MoreByAtMost(60.0)), None]),
        ] {
            let secured = served(&broker, &certificates);
            pin(secured.pid(), "1");
            let (server, certificates) = (&secured, &certificates);
            let ours = MODES.map(|(name, _, mode)| -> (&'static str, Round<'_>) {
                (name, Box::new(move || ours(server, mode, certificates, count)))
            });
            let theirs = MODES.map(|(_, name, mode)| -> (&'static str, Round<'_>) {
                (name, Box::new(move || theirs(gonsq, server, mode, certificates, count)))
            });
            let results = compare(ours.into_iter().chain(theirs).collect());
            let beside_go = (0..MODES.len()).map(|mode| (mode, mode + MODES.len(), None));
            let costs = [(1, 0, goals[0]), (2, 0, goals[1]), (3, 0, None)];
            let rows: Vec<_> = costs.into_iter().chain(beside_go).collect();
            report(&format!("{what}, on {}", broker.name), "us", &results, &rows);
        }
    }
}

/// A broker that offers TLS, and demands nothing.
fn served(broker: &Broker, certificates: &Certificates) -> Nsqd {
    let flags = certificates.flags("server");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    match broker.name {
        "nsqd" => Nsqd::real(&[&["--mem-queue-size=10000000"], &flags[..]].concat()),
        _ => Nsqd::embedded(&[&["--memory", "--max-memory=16000000000"], &flags[..]].concat()),
    }
}

/// The median time of a publish of `count` messages, in microseconds.
fn ours(server: &Nsqd, mode: Mode, certificates: &Certificates, count: usize) -> f64 {
    let topic = TopicName::new("bench").unwrap();
    let bodies: Vec<Bytes> = (0..count).map(|n| body(n).into()).collect();
    let connect = ConnectConfig::default().with_security(mode.security(certificates));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let times = runtime.block_on(async {
        let config = PublisherConfig::default().with_connect(connect);
        let publisher = Publisher::connect(&[server.tcp().parse().unwrap()], config).await.unwrap();
        let mut times = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let start = Instant::now();
            match count {
                1 => publisher.publish(&topic, bodies[0].clone()).await.unwrap(),
                _ => publisher.publish_many(&topic, bodies.clone()).await.unwrap(),
            }
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times
    });
    server.delete_topic("bench");
    median(&times)
}

/// The same figure of go-nsq's producer.
fn theirs(gonsq: &Path, server: &Nsqd, mode: Mode, certificates: &Certificates, count: usize) -> f64 {
    let bodies: Vec<String> = (0..count).map(body).collect();
    let fields = mode.fields(certificates, &server.tcp(), "bench", &bodies.join("\n"));
    let output = Command::new(gonsq).args(["publish", &CALLS.to_string(), &fields]).output().unwrap();
    server.delete_topic("bench");
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| panic!("gonsq: {said} {}", String::from_utf8_lossy(&output.stderr)))
}

//! The broker with many channels, many consumers and many topics, beside nsqd and beside itself.

use std::time::Instant;

use bytes::Bytes;
use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::proto::{Command as Nsq, TopicName};

use crate::bare::Bare;
use crate::measured::cpu_of;
use crate::support::{Nsqd, wait_until};
use crate::{Contender, Goal, ROUNDS, Round, compare, report};

type Start = fn() -> Nsqd;
type Measure = fn(&Nsqd) -> f64;

const SERVERS: [(&str, Start); 2] = [
    ("nsqd, all in memory", || Nsqd::real(&["--mem-queue-size=100000000"])),
    ("mqueue broker --memory", || Nsqd::embedded(&["--memory", "--max-memory=16000000000"])),
];

pub fn run() {
    let goal = Some(Goal::AtLeast(2.0));
    for (what, measure) in [
        ("10 topics with 10 channels each, 200 B, published and drained", fan_out as Measure),
        ("1,000 consumers of one channel, 200 B, drained", thousand_consumers),
    ] {
        let round = |start: Start| -> Round<'_> { Box::new(move || measure(&start())) };
        let results = compare(SERVERS.iter().map(|(name, start)| (*name, round(*start))).collect());
        report(what, "messages/s", &results, &[(1, 0, goal)]);
    }
    grow(
        "the broker's processor time for a message of one channel, published and drained, with more channels",
        [("1 channel", |server| cost(server, 1, 1)), ("1,000 channels", |server| cost(server, 1, 1000))],
    );
    grow(
        "the broker's processor time for a message, published, with more topics",
        [("1 topic", |server| publish_cost(server, 1)), ("10,000 topics", |server| publish_cost(server, 10_000))],
    );
}

/// The broker beside itself.
fn grow(what: &str, sizes: [(&'static str, Measure); 2]) {
    let mut results = sizes.map(|(name, _)| Contender { name, figures: Vec::new() });
    for _ in 0..*ROUNDS {
        for (result, (_, measure)) in results.iter_mut().zip(sizes) {
            result.figures.push(measure(&SERVERS[1].1()));
        }
    }
    report(what, "us", &results, &[(1, 0, Some(Goal::AtMost(1.5)))]);
}

fn name(prefix: &str, n: usize) -> String {
    format!("{prefix}{n}")
}

/// Publishes so many messages to each topic, 200 together.
fn fill(server: &Nsqd, topics: usize, each: usize) {
    let (mut bare, body) = (Bare::connect(&server.tcp()), Bytes::from(vec![b'x'; 200]));
    let together = each.min(200);
    for _ in 0..each / together {
        for topic in 0..topics {
            let topic = TopicName::new(&name("t", topic)).unwrap();
            bare.ask(&Nsq::Mpub { topic, bodies: std::iter::repeat_n(body.clone(), together).collect() });
        }
    }
}

/// Drains channels `c0`… of topics `t0`… with so many consumers each, and returns when all messages were FINished.
fn drain(server: &Nsqd, topics: usize, channels: usize, consumers: usize, total: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (sender, mut done) = tokio::sync::mpsc::unbounded_channel();
        for n in 0..topics * channels * consumers {
            let topic = name("t", n % topics).parse().unwrap();
            let channel = name("c", n / topics % channels).parse().unwrap();
            let mut config = ConsumerConfig::new(topic, channel);
            config.nsqd.push(server.tcp().parse().unwrap());
            let mut consumer = Consumer::connect(config).await.unwrap();
            let sender = sender.clone();
            tokio::spawn(async move {
                loop {
                    let deliveries = consumer.recv_many(200).await;
                    let _ = sender.send(deliveries.len());
                    deliveries.into_iter().for_each(mqueue::client::Delivery::finish);
                }
            });
        }
        let mut left = total;
        while left > 0 {
            left -= done.recv().await.unwrap();
        }
    });
}

fn create(server: &Nsqd, topics: usize, channels: usize) {
    for topic in 0..topics {
        for channel in 0..channels {
            server.create(&name("t", topic), &name("c", channel));
        }
    }
}

/// Copies a second.
fn fan_out(server: &Nsqd) -> f64 {
    const EACH: usize = 10_000;
    create(server, 10, 10);
    let start = Instant::now();
    fill(server, 10, EACH);
    drain(server, 10, 10, 1, 100 * EACH);
    (100 * EACH) as f64 / start.elapsed().as_secs_f64()
}

fn thousand_consumers(server: &Nsqd) -> f64 {
    const ALL: usize = 500_000;
    create(server, 1, 1);
    fill(server, 1, ALL);
    let start = Instant::now();
    drain(server, 1, 1, 1000, ALL);
    ALL as f64 / start.elapsed().as_secs_f64()
}

/// Microseconds of the broker for each copy, of 400,000, of one topic with so many channels.
fn cost(server: &Nsqd, topics: usize, channels: usize) -> f64 {
    const COPIES: usize = 400_000;
    create(server, topics, channels);
    let before = cpu_of(server.pid());
    fill(server, topics, COPIES / channels);
    drain(server, topics, channels, 1, COPIES);
    (cpu_of(server.pid()) - before) * 1e6 / COPIES as f64
}

/// Microseconds of the broker for each of a million messages, 100 together, over so many topics.
fn publish_cost(server: &Nsqd, topics: usize) -> f64 {
    const ALL: usize = 1_000_000;
    let (mut bare, body) = (Bare::connect(&server.tcp()), Bytes::from(vec![b'x'; 200]));
    let names: Vec<TopicName> = (0..topics).map(|n| TopicName::new(&name("t", n)).unwrap()).collect();
    // making a topic is no message's cost
    for topic in &names {
        bare.ask(&Nsq::Pub { topic: topic.clone(), body: body.clone() });
    }
    wait_until("the topics", || server.stats().topics.len() == topics);
    let before = cpu_of(server.pid());
    for n in 0..ALL / 100 {
        let bodies = std::iter::repeat_n(body.clone(), 100).collect();
        bare.ask(&Nsq::Mpub { topic: names[n % topics].clone(), bodies });
    }
    (cpu_of(server.pid()) - before) * 1e6 / ALL as f64
}

//! publish → OK, one at a time, 200 bytes: the library's publisher beside a bare blocking socket.
//!
//! nsqd and the publishers are each kept on a processor of their own: where the system moves them about, a round trip takes
//! 10 or 60 us by chance, for either contender.

use std::time::Instant;

use bytes::Bytes;
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::proto::{Command, TopicName};

use crate::bare::Bare;
use crate::support::Nsqd;
use crate::{compare, median, report};

const MESSAGES: usize = 5000;

pub fn run() {
    let nsqd = Nsqd::start();
    pin(nsqd.pid(), "0");
    pin(std::process::id(), "1");
    let topic = TopicName::new("speed").unwrap();
    let body = Bytes::from(vec![b'x'; 200]);
    let mut bare = Bare::connect(&nsqd.tcp());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let publisher =
        runtime.block_on(Publisher::connect(&[nsqd.tcp().parse().unwrap()], PublisherConfig::default())).unwrap();
    let results = compare(vec![
        ("bare blocking socket", {
            let (topic, body) = (topic.clone(), body.clone());
            Box::new(move || {
                let command = Command::Pub { topic: topic.clone(), body: body.clone() };
                micros(|| bare.ask(&command))
            })
        }),
        (
            "mqueue's publisher",
            Box::new(|| {
                let mut times = Vec::with_capacity(MESSAGES);
                runtime.block_on(async {
                    for _ in 0..MESSAGES {
                        let start = Instant::now();
                        publisher.publish(&topic, body.clone()).await.unwrap();
                        times.push(start.elapsed().as_secs_f64() * 1e6);
                    }
                });
                median(&times)
            }),
        ),
    ]);
    pin(std::process::id(), "0-1");
    report("publish -> OK, one at a time, 200 B, p50 (goal: at most 1.3x)", "us", &results);
}

fn micros(mut publish: impl FnMut()) -> f64 {
    let mut times = Vec::with_capacity(MESSAGES);
    for _ in 0..MESSAGES {
        let start = Instant::now();
        publish();
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    median(&times)
}

/// Keeps a process, with all its threads, on these processors; where there is only one, it stays as it is.
fn pin(process: u32, processors: &str) {
    let _ = std::process::Command::new("taskset").args(["-apc", processors, &process.to_string()]).output();
}

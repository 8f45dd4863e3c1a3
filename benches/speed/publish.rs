//! publish → OK, one at a time, 200 bytes: the library's publisher beside a bare blocking socket.
//!
//! nsqd and the publishers are each pinned to a processor: if the system moves them, a round trip
//! takes 10 or 60 us by chance, for either contender.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqueue::client::{Publisher, PublisherConfig};
use mqueue::proto::{Command, TopicName};

use crate::bare::Bare;
use crate::support::Nsqd;
use crate::{Contender, Goal, compare, report};

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
    let highest = [RefCell::new(Vec::new()), RefCell::new(Vec::new())];
    let results = compare(vec![
        ("bare blocking socket", {
            let command = Command::Pub { topic: topic.clone(), body: body.clone() };
            let highest = &highest[0];
            Box::new(move || {
                let times = (0..MESSAGES).map(|_| {
                    let start = Instant::now();
                    bare.ask(&command);
                    start.elapsed()
                });
                p50_and_p99(times.collect(), highest)
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
                        times.push(start.elapsed());
                    }
                });
                p50_and_p99(times, &highest[1])
            }),
        ),
    ]);
    pin(std::process::id(), "0-1");
    report("publish → OK, one at a time, 200 B, p50", "us", &results, &[(1, 0, Some(Goal::AtMost(1.15)))]);
    let names = [results[0].name, results[1].name];
    let highest: Vec<Contender> = names
        .into_iter()
        .zip(highest)
        .map(|(name, figures)| Contender { name, figures: figures.into_inner() })
        .collect();
    report("publish → OK, one at a time, 200 B, p99", "us", &highest, &[(1, 0, Some(Goal::AtMost(1.3)))]);
}

/// The median of these times in microseconds; records the 99th percentile.
fn p50_and_p99(times: Vec<Duration>, highest: &RefCell<Vec<f64>>) -> f64 {
    let mut micros: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    micros.sort_by(f64::total_cmp);
    highest.borrow_mut().push(micros[micros.len() * 99 / 100]);
    micros[micros.len() / 2]
}

/// Pins a process with all its threads to these processors, unless there is only one.
fn pin(process: u32, processors: &str) {
    let _ = std::process::Command::new("taskset").args(["-apc", processors, &process.to_string()]).output();
}

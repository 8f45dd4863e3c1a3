//! `mqueue bridge` in both directions, beside a bare client of Redis that takes or pushes the same
//! entries with one command for a thousand of them, and does nothing else.

use std::process::Command;
use std::time::Instant;

use crate::support::{Nsqd, Redis, RedisValue};
use crate::{Goal, compare, report};

const ENTRIES: usize = 500_000;
const BATCH: usize = 1000;

pub fn run() {
    let Some(redis) = Redis::start(&["--appendonly", "no"]) else { return };
    let nsqd = Nsqd::embedded(&["--memory", "--max-memory=4000000000"]);
    let results = compare(vec![
        ("a bare client: LPOP of 1,000", Box::new(|| bare_take(&redis))),
        ("mqueue bridge", Box::new(|| bridge_from(&redis, &nsqd))),
    ]);
    let goal = Some(Goal::AtLeast(0.5));
    report("entries of 200 B from Redis to a stream", "entries/s", &results, &[(1, 0, goal)]);
    let results = compare(vec![
        ("a bare client: LPUSH of 1,000", Box::new(|| bare_push(&redis))),
        ("mqueue bridge", Box::new(|| bridge_to(&redis, &nsqd))),
    ]);
    report("messages of 200 B from a stream to Redis", "messages/s", &results, &[(1, 0, goal)]);
}

fn rate(start: Instant) -> f64 {
    ENTRIES as f64 / start.elapsed().as_secs_f64()
}

fn fill(redis: &Redis) {
    let mut client = redis.client();
    let entry = [b'x'; 200];
    let mut command: Vec<&[u8]> = vec![b"LPUSH", b"jobs"];
    command.extend((0..BATCH).map(|_| &entry[..]));
    for _ in 0..ENTRIES / BATCH {
        assert!(matches!(client.ask(&command), RedisValue::Number(_)));
    }
}

fn bare_take(redis: &Redis) -> f64 {
    fill(redis);
    let mut client = redis.client();
    let start = Instant::now();
    for _ in 0..ENTRIES / BATCH {
        let RedisValue::List(taken) = client.ask(&[b"RPOP", b"jobs", b"1000"]) else { panic!("no list") };
        assert_eq!(taken.len(), BATCH);
    }
    rate(start)
}

fn bare_push(redis: &Redis) -> f64 {
    let start = Instant::now();
    fill(redis);
    let rate = rate(start);
    redis.ask("DEL jobs");
    rate
}

fn bridge(from: &str, to: &str, nsqd: &Nsqd, more: &[&str]) -> f64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqueue"));
    command.args(["--log=warn", "bridge", "--from", from, "--to", to, "--nsqd-tcp-address", &nsqd.tcp()]);
    command.args(["--count", &ENTRIES.to_string()]).args(more);
    let start = Instant::now();
    assert!(command.status().expect("cargo built it").success());
    rate(start)
}

fn bridge_from(redis: &Redis, nsqd: &Nsqd) -> f64 {
    nsqd.create("bridged", "g");
    fill(redis);
    let rate = bridge(&redis.list("jobs"), "bridged", nsqd, &[]);
    nsqd.delete_topic("bridged");
    rate
}

fn bridge_to(redis: &Redis, nsqd: &Nsqd) -> f64 {
    nsqd.create("bridged", "g");
    fill(redis);
    bridge(&redis.list("jobs"), "bridged", nsqd, &[]);
    let rate = bridge("bridged", &redis.list("jobs"), nsqd, &["--group", "g"]);
    nsqd.delete_topic("bridged");
    redis.ask("DEL jobs");
    rate
}

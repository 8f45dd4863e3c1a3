//! Redis: lists and a stream, with its append-only file.

use std::process::Command;
use std::time::Instant;

use super::Entry;
use crate::support::{Redis, RedisValue, peer};

const BODY: [u8; 200] = [b'x'; 200];
const DEPTH: usize = 200;
/// The number of messages that are consumed.
const CONSUMED: usize = 300_000;

/// Returns an entry; `None` if Redis is missing.
pub fn entry(name: &'static str, sync: &'static str, measure: fn(&Redis) -> f64) -> Option<Entry> {
    peer("redis-server")?;
    let round = move || measure(&Redis::start(&["--appendfsync", sync]).expect("it was found"));
    Some((name, Box::new(round)))
}

/// The rate that redis-benchmark says for a command.
fn benchmark(redis: &Redis, flags: &str, command: &[&str]) -> f64 {
    let mut program = Command::new("redis-benchmark");
    program.args(["-h", "127.0.0.1", "-p", &redis.port().to_string(), "--csv"]);
    let output = program.args(flags.split(' ')).args(command).output().expect("it comes with redis-server");
    let said = String::from_utf8_lossy(&output.stdout);
    // "name","rps",… in the last line
    let rate = said.lines().last().and_then(|line| line.rsplit_once("\",\"").map(|_| line));
    let fields: Vec<&str> = rate.unwrap_or_else(|| panic!("redis-benchmark said: {said}")).split("\",\"").collect();
    fields[1].trim_matches('"').parse().unwrap()
}

fn body() -> &'static str {
    str::from_utf8(&BODY).unwrap()
}

/// The rate of LPUSH, with `depth` under way on each connection.
pub fn push(redis: &Redis, depth: u32, connections: u32, count: u32) -> f64 {
    benchmark(redis, &format!("-P {depth} -c {connections} -n {count}"), &["LPUSH", "jobs", body()])
}

/// The rate of values with 200 of them in each LPUSH.
pub fn push_together(redis: &Redis) -> f64 {
    let mut command = vec!["LPUSH", "jobs"];
    command.extend([body(); DEPTH]);
    benchmark(redis, "-P 1 -c 2 -n 5000", &command) * DEPTH as f64
}

/// The rate of XADD, pipelined.
pub fn add(redis: &Redis) -> f64 {
    benchmark(redis, "-P 200 -c 2 -n 500000", &["XADD", "jobs", "*", "b", body()])
}

/// The rate of consuming a list: 200 LMOVE into a list of the consumer, then 200 LREM.
pub fn move_and_remove(redis: &Redis) -> f64 {
    benchmark(redis, &format!("-P 200 -c 2 -n {CONSUMED}"), &["LPUSH", "jobs", body()]);
    let mut client = redis.client();
    let begun = Instant::now();
    for _ in 0..CONSUMED / DEPTH {
        for command in [&[&b"LMOVE"[..], b"jobs", b"mine", b"RIGHT", b"LEFT"][..], &[b"LREM", b"mine", b"-1", &BODY]] {
            client.send(&[command; DEPTH]).unwrap();
            for _ in 0..DEPTH {
                let reply = client.reply().expect("a reply");
                assert!(matches!(reply, RedisValue::Text(_) | RedisValue::Number(1)), "{reply:?}");
            }
        }
    }
    CONSUMED as f64 / begun.elapsed().as_secs_f64()
}

/// The rate of consuming a stream as a group: XREADGROUP of 200, then one XACK of 200.
pub fn read_group(redis: &Redis) -> f64 {
    redis.ask("XGROUP CREATE jobs g $ MKSTREAM");
    benchmark(redis, &format!("-P 200 -c 2 -n {CONSUMED}"), &["XADD", "jobs", "*", "b", body()]);
    let mut client = redis.client();
    let (begun, mut count) = (Instant::now(), 0);
    while count < CONSUMED {
        let read = [&b"XREADGROUP"[..], b"GROUP", b"g", b"c", b"COUNT", b"200", b"STREAMS", b"jobs", b">"];
        let ids = ids(client.ask(&read));
        let mut ack: Vec<&[u8]> = vec![b"XACK", b"jobs", b"g"];
        ack.extend(ids.iter().map(Vec::as_slice));
        assert_eq!(client.ask(&ack), RedisValue::Number(i64::try_from(ids.len()).unwrap()));
        count += ids.len();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// The ids in an answer to XREADGROUP.
fn ids(answer: RedisValue) -> Vec<Vec<u8>> {
    let list = |value| match value {
        RedisValue::List(list) => list,
        other => panic!("{other:?}"),
    };
    let stream = list(list(answer).pop().expect("a stream")).pop().expect("its entries");
    let id = |entry| match list(entry).swap_remove(0) {
        RedisValue::Text(id) => id,
        other => panic!("{other:?}"),
    };
    list(stream).into_iter().map(id).collect()
}

//! The costs of `mqueue web`: processor time and memory with many nsqds, streams and viewers.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{FakeCluster, Web, is_optimised, wait_until};

/// Reads events for a while; returns their number.
fn watch(web: &Web, time: Duration) -> u64 {
    let mut events = web.events();
    let (start, mut number) = (Instant::now(), 0);
    while start.elapsed() < time {
        let (name, _) = events.next_event().expect("it goes on");
        number += u64::from(name != "settings");
    }
    number
}

#[test]
fn eighty_one_nsqds_and_twenty_viewers_cost_little() {
    let cluster = FakeCluster::start(81, 200, 1, 600);
    let web = Web::with(&format!("--nsqd-http-address {}", cluster.http()));
    let mut events = web.events();
    let all = events.wait_for("the streams", |stream| stream["groups"][0]["consumers"] == 81 * 600);
    assert_eq!(all["groups"][0]["in_flight"], 81 * 3);
    let time = Duration::from_secs(10);
    let before = web.program.processor_time();
    let alone = watch(&web, time);
    let one = web.program.processor_time() - before;
    let (before, asked) = (web.program.processor_time(), cluster.served().2);
    let seen: u64 = std::thread::scope(|scope| {
        let viewers: Vec<_> = (0..20).map(|_| scope.spawn(|| watch(&web, time))).collect();
        viewers.into_iter().map(|viewer| viewer.join().unwrap()).sum()
    });
    let (twenty, asked_by_twenty) = (web.program.processor_time() - before, cluster.served().2 - asked);
    assert!(seen >= 10 * alone, "{seen} events for twenty, {alone} for one");
    assert!(asked_by_twenty <= 12 * 81, "{asked_by_twenty} requests in 10 s, at one look a second");
    let (peak, now, own) = (web.program.peak(), web.program.rss(), web.program.own_memory());
    let figures = format!(
        "10 s: {one:?} for one viewer, {twenty:?} for twenty; {alone} updates; peak {peak} KiB, {now} now, {own} of them \
         its own"
    );
    eprintln!("{figures}");
    if is_optimised() {
        assert!(one <= Duration::from_millis(500) && twenty <= Duration::from_millis(1000), "{figures}");
        assert!(peak <= 60 << 10, "{figures}");
    }
}

#[test]
fn ten_thousand_streams_are_shown() {
    let cluster = FakeCluster::start(1, 10_000, 1, 0);
    let web = Web::with(&format!("--nsqd-http-address {}", cluster.http()));
    let mut events = web.events();
    let mut all = Value::Null;
    wait_until("all streams", || {
        let (_, data) = events.next_event().expect("it goes on");
        let has_all = data["streams"].as_array().is_some_and(|streams| streams.len() == 10_000);
        all = data;
        has_all
    });
    assert_eq!(all["streams"][9_999]["stream"], "stream-of-orders-9999");
    // the limit of series
    assert_eq!(web.get("/api/sparks").json().as_object().unwrap().len(), 1000);
    eprintln!("10,000 streams: peak {} KiB, {:?}", web.program.peak(), web.program.processor_time());
}

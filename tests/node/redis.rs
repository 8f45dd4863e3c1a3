//! `mqueue node --store redis://…` with a real redis-server: exactly one node generates, and nothing
//! is lost.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::GeneratorFault;
use super::fleet::{EventSummary, Fleet};
use crate::support::{Mqueue, Redis, RedisValue, Told, mqueue, wait_until};

const SEEDS_EVENT: &str = "0b7a2f3c-1d2e-4f5a-8b9c-0d1e2f3a4b5c at 2016-11-21 05:57:08.1 +0000 UTC";

/// Reads every event that is pushed to list `foo`, in Redis' order.
struct PushAuditor(Arc<Mutex<Vec<String>>>);

impl PushAuditor {
    fn of(redis: &Redis) -> Self {
        let mut client = redis.client();
        assert_eq!(client.ask(&[b"MONITOR"]), RedisValue::Text(b"OK".to_vec()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let events = seen.clone();
        std::thread::spawn(move || {
            while let Some(RedisValue::Text(line)) = client.reply() {
                let line = String::from_utf8_lossy(&line).into_owned();
                if let Some((_, event)) = line.split_once("lua] \"LPUSH\" \"foo\" \"") {
                    events.lock().unwrap().push(event.trim_end_matches('"').to_owned());
                }
            }
        });
        Self(seen)
    }

    fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn wait_for_more(&self, events: usize) {
        let before = self.events().len();
        wait_until(&format!("{events} events"), || self.events().len() >= before + events);
    }

    /// Checks that epochs never decrease; returns all that were seen.
    fn epochs(&self) -> HashSet<u64> {
        let events = self.events();
        let epochs: Vec<u64> = events.iter().map(|event| event.split(' ').nth(2).unwrap().parse().unwrap()).collect();
        assert!(epochs.is_sorted(), "an event of an old epoch is late: {epochs:?}");
        epochs.into_iter().collect()
    }

    /// Checks all events from the first epoch on.
    fn summary(&self) -> EventSummary {
        self.epochs();
        EventSummary::of(self.events().iter().map(String::as_str))
    }
}

fn node(redis: &Redis, args: &str) -> Mqueue {
    mqueue(&format!("node --store redis://127.0.0.1:{} {args}", redis.port())).env("MPORT", "0")
}

fn push(redis: &Redis, list: &str, entry: &str) {
    assert!(matches!(redis.client().ask(&[b"LPUSH", list.as_bytes(), entry.as_bytes()]), RedisValue::Number(_)));
}

/// The entries of all lists whose names match.
fn entries_of(redis: &Redis, pattern: &str) -> Vec<String> {
    let RedisValue::List(keys) = redis.ask(&format!("KEYS {pattern}")) else { panic!("no list") };
    let keys = keys.into_iter().map(|key| if let RedisValue::Text(key) = key { key } else { panic!("{key:?}") });
    let entries = keys.flat_map(|key| redis.entries(std::str::from_utf8(&key).unwrap()));
    entries.map(|entry| String::from_utf8(entry).unwrap()).collect()
}

/// Injects `rounds` faults into the generator, and checks all events at the end.
fn inject_faults(rounds: usize) {
    let Some(redis) = Redis::start(&["--appendfsync", "no"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let handled = folder.path().join("handled");
    let auditor = PushAuditor::of(&redis);
    let args = format!("--interval 20ms --invalid 0.2 --handler file:{}", handled.display());
    let mut fleet = Fleet::on_redis(&redis, 5, 1, &args);
    let handled = || std::fs::read_to_string(&handled).unwrap_or_default();
    let mut times = Vec::new();
    for round in 0..rounds {
        let (generator, epoch) = fleet.generator();
        auditor.wait_for_more(10);
        let before = handled().lines().count();
        let fault = [GeneratorFault::Killed, GeneratorFault::Stopped, GeneratorFault::Disconnected][round % 3];
        match fault {
            GeneratorFault::Killed => fleet.nodes[generator].signal(Signal::SIGKILL),
            GeneratorFault::Stopped => fleet.nodes[generator].signal(Signal::SIGSTOP),
            GeneratorFault::Disconnected => fleet.proxies[generator].cut(),
        }
        let time = fleet.wait_for_generator_after(epoch);
        assert!(time < Duration::from_secs(10), "{fault:?}: taken over after {time:?}");
        times.push(time);
        match fault {
            GeneratorFault::Killed => fleet.replace(generator),
            GeneratorFault::Stopped => fleet.nodes[generator].signal(Signal::SIGCONT),
            GeneratorFault::Disconnected => fleet.proxies[generator].mend(),
        }
        wait_until("consumers to go on", || handled().lines().count() > before + 5);
    }
    fleet.end();
    let summary = auditor.summary();
    assert!(summary.epochs > rounds && summary.events > 10 * rounds, "{summary:?}");
    let begun = fleet.epochs();
    let distinct: HashSet<u64> = begun.iter().copied().collect();
    assert_eq!(distinct.len(), begun.len(), "each epoch is one node's: {begun:?}");
    let dead = redis.length("errors");
    assert!(dead > 0);
    let everywhere =
        [entries_of(&redis, "foo"), entries_of(&redis, "errors"), entries_of(&redis, "{foo}:mqueue:batch:*")];
    let handled = handled();
    let everywhere = everywhere.concat().into_iter().chain(handled.lines().map(str::to_owned));
    let mut counts: HashMap<String, usize> = HashMap::new();
    everywhere.for_each(|event| *counts.entry(event).or_default() += 1);
    let lost: Vec<String> = auditor.events().into_iter().filter(|event| !counts.contains_key(event)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    let twice: usize = counts.values().map(|count| count - 1).sum();
    eprintln!(
        "{rounds} faults on Redis, taken over after {median:.2?} (median), {most:.2?} (most), lease 1 s; {summary:?}, {dead} dead letters, {twice} twice"
    );
}

#[test]
fn exactly_one_node_generates_on_redis_under_faults() {
    inject_faults(6);
}

#[test]
#[ignore = "takes two minutes, and prints figures"]
fn exactly_one_node_generates_on_redis_under_thirty_faults() {
    inject_faults(30);
}

#[test]
fn a_generator_on_redis_hands_over_at_once() {
    let Some(redis) = Redis::start(&[]) else { return };
    let auditor = PushAuditor::of(&redis);
    let mut fleet = Fleet::on_redis(&redis, 3, 2, "--interval 20ms");
    let (generator, first) = fleet.generator();
    // 5 s: a release is accepted from a node whose heartbeats came for a whole lease
    auditor.wait_for_more(250);
    fleet.nodes[generator].signal(Signal::SIGTERM);
    fleet.wait_for_generator_after(first);
    auditor.wait_for_more(5);
    fleet.end();
    let summary = auditor.summary();
    assert!(summary.epochs >= 2, "{summary:?}");
    assert!(summary.longest_gap < Duration::from_millis(1900), "less than a lease: {summary:?}");
    assert_eq!(redis.ask("EXISTS lock:gen"), RedisValue::Number(0), "the last one gave it back, too");
    assert_eq!(entries_of(&redis, "{foo}:mqueue:batch:*"), Vec::<String>::new());
}

#[test]
fn a_lost_lease_and_a_restarted_redis_are_survived() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let auditor = PushAuditor::of(&redis);
    let mut fleet = Fleet::on_redis(&redis, 3, 1, "--interval 20ms");
    let (generator, first) = fleet.generator();
    auditor.wait_for_more(10);
    // as a failover without replication loses it, with its epoch
    redis.ask("DEL lock:gen {lock:gen}:mqueue:epoch");
    let time = fleet.wait_for_generator_after(first);
    assert!(time > Duration::from_millis(500), "a lease is waited out: {time:?}");
    fleet.nodes[generator].wait_to_say("no longer generating");
    auditor.wait_for_more(10);
    assert!(auditor.summary().epochs >= 2);
    let (_, second) = fleet.generator();
    redis.restart();
    fleet.wait_for_generator_after(second);
    let after = PushAuditor::of(&redis);
    after.wait_for_more(10);
    fleet.end();
    assert!(after.epochs().iter().all(|epoch| *epoch > second), "{:?}, {second}", after.epochs());
    let distinct: HashSet<u64> = fleet.epochs().iter().copied().collect();
    assert_eq!(distinct.len(), fleet.epochs().len(), "{:?}", fleet.epochs());
}

#[test]
fn seed_programs_share_the_lease_and_the_lists() {
    let Some(redis) = Redis::start(&[]) else { return };
    // a seed's generator: it renews this for 15 s at each ping
    redis.ask("SET lock:gen seed PX 600000 NX");
    push(&redis, "a", SEEDS_EVENT);
    let node = node(&redis, "--ping-interval 1 --interval 20ms --invalid 0 --handler sleep:0ms").start();
    let told = Told::by(&node);
    let vars = || -> serde_json::Value { serde_json::from_str(&told.get("/debug/vars").1).unwrap() };
    wait_until("the seed's event", || vars()["mqueue"]["handled"] == 1);
    push(&redis, "a", "no event");
    wait_until("the error", || redis.entries("errors") == [b"no event"]);
    assert_eq!((node.times_said(" generating epoch="), redis.length("a")), (0, 0), "{}", node.stderr());
    // the seed has died
    redis.ask("PEXPIRE lock:gen 1");
    node.wait_to_say(" generating epoch=");
    assert_eq!(redis.ask("SET lock:gen seed PX 15000 NX"), RedisValue::Nothing, "the seed waits");
    // as its consumers read
    let RedisValue::List(popped) = redis.ask("BRPOP a 5") else { panic!("nothing to pop") };
    let RedisValue::Text(event) = &popped[1] else { panic!("{popped:?}") };
    let event = String::from_utf8_lossy(event);
    assert!(event.len() > 36 && event.split(' ').next().is_some_and(|uuid| uuid.len() == 36), "{event}");
    node.signal(Signal::SIGTERM);
    let ended = node.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn entries_of_a_dead_node_are_taken_over_and_a_stopped_node_returns_them() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.ask("SET lock:gen seed PX 600000 NX");
    let entries: Vec<String> = (0..5).map(|n| format!("{SEEDS_EVENT} {n}")).collect();
    entries.iter().for_each(|entry| push(&redis, "a", entry));
    let slow = || node(&redis, "--invalid 0 --handler sleep:600s --grace 1s").start();
    let first = slow();
    wait_until("the entries to be taken", || entries_of(&redis, "{a}:mqueue:batch:*").len() == 5);
    first.signal(Signal::SIGTERM);
    assert_eq!(first.finish().code, Some(130), "its handlers did not end");
    let back: Vec<String> = entries_of(&redis, "a").into_iter().rev().collect();
    assert_eq!(back, entries, "in their order");
    assert_eq!(entries_of(&redis, "{a}:mqueue:batch:*"), Vec::<String>::new());
    let second = slow();
    wait_until("the entries to be taken", || entries_of(&redis, "{a}:mqueue:batch:*").len() == 5);
    second.signal(Signal::SIGKILL);
    second.finish();
    let folder = tempfile::tempdir().unwrap();
    let handled = folder.path().join("handled");
    let third = node(&redis, &format!("--invalid 0 --handler file:{}", handled.display())).start();
    third.wait_to_say("5 entries of a dead node taken over");
    wait_until("all", || std::fs::read_to_string(&handled).is_ok_and(|text| text.lines().count() == 5));
    third.signal(Signal::SIGTERM);
    assert_eq!(third.finish().code, Some(0));
    let RedisValue::List(keys) = redis.ask("KEYS {a}:mqueue:*") else { panic!("no list") };
    assert_eq!(keys, [], "nothing is left behind");
}

#[test]
fn failing_entries_are_tried_again_and_then_kept_as_errors() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.ask("SET lock:gen seed PX 600000 NX");
    push(&redis, "a", SEEDS_EVENT);
    let args = "--invalid 0 --handler exec:false --max-attempts 2 --retry-delay 10ms --listen 127.0.0.1:0";
    let node = node(&redis, args).start();
    wait_until("the error", || redis.entries("errors") == [SEEDS_EVENT.as_bytes()]);
    for words in ["entry failed, again in 10ms: exit status 1", "given up, now in list errors: exit status 1"] {
        wait_until(words, || node.times_said(words) == 1);
    }
    let log = node.stderr();
    let address = log.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).expect("it listens");
    let metrics = crate::support::get(address, "/metrics");
    for line in [
        r#"mqueue_messages_dead_total{stream="a",group="1"} 1"#,
        r#"mqueue_messages_retried_total{stream="a",group="1"} 1"#,
        r#"mqueue_connections{stream="a",group="1"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(crate::support::get(address, "/healthz").contains("ok"));
}

#[test]
fn the_seeds_variables_name_the_lists() {
    let Some(redis) = Redis::start(&[]) else { return };
    push(&redis, "jobs", "no event");
    let address = format!("127.0.0.1:{}", redis.port());
    let node = mqueue("node --store redis")
        .env("MPORT", "0")
        .env("REDIS_URL", &address)
        .env("REDIS_QUEUE", "jobs")
        .env("REDIS_ERROR_QUEUE", "bad:jobs")
        .env("REDIS_POOL_SIZE", "100")
        .start();
    wait_until("the error", || redis.entries("bad:jobs") == [b"no event"]);
    assert_eq!(node.times_said("not used"), 0, "{}", node.stderr());
    node.signal(Signal::SIGTERM);
    assert_eq!(node.finish().code, Some(0));
    let errors = mqueue("errors --store redis --get --yes")
        .env("REDIS_URL", &address)
        .env("REDIS_QUEUE", "jobs")
        .env("REDIS_ERROR_QUEUE", "bad:jobs")
        .run();
    assert_eq!((errors.code, errors.stdout.as_str()), (Some(0), "no event\n"), "{}", errors.stderr);
    assert_eq!(redis.length("bad:jobs"), 0);
}

#[test]
fn a_store_that_cannot_work_is_named_in_one_line() {
    let Some(locked) = Redis::start(&["--requirepass", "right"]) else { return };
    let Some(redis) = Redis::start(&[]) else { return };
    let master = redis.port().to_string();
    let Some(replica) = Redis::start(&["--replicaof", "127.0.0.1", &master]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "wrong").unwrap();
    redis.ask("SET text x");
    for (refused, code, words) in [
        (node(&locked, ""), 1, "--redis-auth-file (NOAUTH"),
        (node(&locked, &format!("--redis-auth-file {}", wrong.display())), 1, "wrong user or password"),
        (node(&redis, "--redis-queue text"), 1, "is no list: name another (WRONGTYPE"),
        (node(&redis, "--redis-error-queue text"), 1, "/text: this key is no list: name another (WRONGTYPE"),
        (node(&replica, ""), 1, "this is a replica: name the master"),
        (node(&redis, "--redis-pool-size 2"), 2, "a node needs 3 connections"),
        (mqueue("node --store redis://127.0.0.1:1"), 69, "cannot connect to Redis at 127.0.0.1:1"),
        (mqueue("node --store redis://:secret@127.0.0.1:1"), 2, "--redis-auth-file"),
        (mqueue("node --store redis").env("REDIS_URL", "http://127.0.0.1:1"), 2, "the address of Redis cannot be used"),
        (mqueue("node --store mysql"), 2, "use nsq, redis, or redis://HOST:PORT"),
        (mqueue("errors --store redis://127.0.0.1:1"), 69, "cannot connect to Redis"),
        (mqueue("errors --store nsq"), 2, "--stream"),
    ] {
        let ended = refused.env("MPORT", "0").run();
        let lines: Vec<&str> = ended.stderr.lines().filter(|line| line.contains(words)).collect();
        assert_eq!((ended.code, lines.len()), (Some(code), 1), "{words}: {}", ended.stderr);
        assert!(!ended.stderr.contains("secret@"), "{}", ended.stderr);
    }
    redis.ask("SET lock:gen x");
    let waiting = node(&redis, "--mode generator --ping-interval 1").start();
    waiting.wait_to_say("key lock:gen has no time to live");
}

#[test]
fn errors_in_redis_are_listed_printed_redriven_and_dropped() {
    let Some(redis) = Redis::start(&[]) else { return };
    let errors = |args: &str| mqueue(&format!("errors --store redis://127.0.0.1:{} {args}", redis.port()));
    let fill = || (0..250).for_each(|n| push(&redis, "errors", &format!("entry {n}")));
    fill();
    let listed = errors("--limit 2").run();
    assert_eq!(listed.stdout, "\"entry 0\"\n\"entry 1\"\n", "{}", listed.stderr);
    assert!(listed.stderr.contains("2 of 250 entries of list errors"), "{}", listed.stderr);
    let found = errors("--filter 49 --json").run();
    let bodies: Vec<serde_json::Value> = found.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(bodies, [49, 149, 249].map(|n| serde_json::json!({ "body": format!("entry {n}") })));
    let would = errors("--drop --dry-run --filter 49").run();
    assert!(would.stderr.contains("would drop 3 of 250"), "{}", would.stderr);
    let asks = errors("--get").run();
    assert!(asks.code == Some(2) && asks.stderr.contains("--yes") && asks.stdout.is_empty(), "{}", asks.stderr);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!((errors("--get --yes").with_stdout(full).run().code, redis.length("errors")), (Some(1), 250));
    let dropped = errors("--drop --yes --filter 49").run();
    assert!(dropped.stderr.contains("3 dropped, 247 left"), "{}", dropped.stderr);
    let redriven = errors("--redrive --yes --filter 48").run();
    assert!(redriven.stderr.contains("3 published again, 244 left"), "{}", redriven.stderr);
    assert_eq!(entries_of(&redis, "a"), ["entry 248", "entry 148", "entry 48"]);
    let slow = errors("--redrive --yes --rate 20").start();
    wait_until("some", || redis.length("a") > 5);
    slow.signal(Signal::SIGINT);
    let ended = slow.finish();
    assert!(ended.code == Some(130) && ended.stderr.contains("the rest is still there"), "{}", ended.stderr);
    assert_eq!(redis.length("a") + redis.length("errors"), 247);
    let got = errors("--get --yes").run();
    assert_eq!(
        (got.code, got.stdout.lines().count() as i64, redis.length("errors")),
        (Some(0), 247 - redis.length("a"), 0)
    );
    let none = errors("--get --yes").run();
    assert!(none.code == Some(0) && none.stderr.contains("no entries in list errors"), "{}", none.stderr);
    redis.ask("SET errors x");
    let wrong = errors("").run();
    assert!(wrong.code == Some(1) && wrong.stderr.contains("this key is no list"), "{}", wrong.stderr);
}

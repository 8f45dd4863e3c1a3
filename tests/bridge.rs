//! `mqueue bridge`, with a real redis-server: nothing is lost, whatever is killed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mqueue::client::{Consumer, ConsumerConfig, Publisher, PublisherConfig};
use nix::sys::signal::Signal;

use crate::support::{Finished, Mqueue, Nsqd, PATIENCE, Redis, RedisValue, get, mqueue, needs, wait_until};

fn from_redis(redis: &Redis, nsqd: &Nsqd, args: &str) -> Mqueue {
    let list = redis.list("jobs");
    mqueue(&format!("bridge --from {list} --to foo --nsqd-tcp-address {} {args}", nsqd.tcp()))
}

fn to_redis(redis: &Redis, nsqd: &Nsqd, args: &str) -> Mqueue {
    let list = redis.list("jobs");
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    mqueue(&format!(
        "bridge --from foo --group bridge --to {list} --nsqd-tcp-address {tcp} --nsqd-http-address {http} {args}"
    ))
}

#[track_caller]
fn succeeded(finished: Finished) -> Finished {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished
}

/// Pushes entries with `command`, many at once.
fn push(redis: &Redis, command: &str, entries: &[Vec<u8>]) {
    let mut client = redis.client();
    for chunk in entries.chunks(1000) {
        let mut words: Vec<&[u8]> = vec![command.as_bytes(), b"jobs"];
        words.extend(chunk.iter().map(Vec::as_slice));
        assert!(matches!(client.ask(&words), RedisValue::Number(_)));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn publish(nsqd: &Nsqd, bodies: Vec<Vec<u8>>) {
    runtime().block_on(async {
        let nsqds = [nsqd.tcp().parse().expect("an address")];
        let publisher = Publisher::connect(&nsqds, PublisherConfig::default()).await.expect("it runs");
        let bodies = bodies.into_iter().map(Into::into).collect();
        publisher.publish_many(&"foo".parse().expect("a name"), bodies).await.expect("published");
    });
}

/// Takes all messages of group `1` of foo, until it is empty and `is_over`.
fn consumed(nsqd: &Nsqd, is_over: impl Fn(usize) -> bool) -> HashMap<Vec<u8>, usize> {
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    runtime().block_on(async {
        let config = ConsumerConfig::new("foo".parse().expect("a name"), "1".parse().expect("a name"));
        let config = config.with_nsqd(nsqd.tcp().parse().expect("an address")).with_max_in_flight(1000);
        let mut consumer = Consumer::connect(config).await.expect("it runs");
        let start = Instant::now();
        loop {
            match tokio::time::timeout(Duration::from_millis(200), consumer.recv_many(1000)).await {
                Ok(batch) => {
                    for delivery in batch {
                        *seen.entry(delivery.message().body.to_vec()).or_default() += 1;
                        delivery.finish();
                    }
                }
                Err(_) if is_over(seen.len()) => break,
                Err(_) => assert!(start.elapsed() < 3 * PATIENCE, "{} came, and then nothing", seen.len()),
            }
        }
        consumer.stop();
        while consumer.recv().await.is_some() {}
    });
    seen
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("{{\"number\":{n}}}").into_bytes()).collect()
}

fn sorted(mut entries: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    entries.sort();
    entries
}

#[test]
fn entries_cross_byte_for_byte_from_both_ends() {
    let Some(redis) = Redis::start(&[]) else { return };
    needs!("nsqd");
    let sizes = ["--max-msg-size=20000000", "--max-body-size=80000000"];
    for nsqd in [Nsqd::embedded(&sizes), Nsqd::real(&sizes)] {
        for (command, flag) in [("LPUSH", "left"), ("RPUSH", "right")] {
            nsqd.delete_topic("foo");
            nsqd.create("foo", "1");
            let binary: Vec<u8> = (0..=255).collect();
            let mut entries = vec![b"\r\n".to_vec(), binary, vec![b'x'; 10_000_000], vec![0; 10_000_000]];
            entries.extend(numbered(1500));
            push(&redis, command, &entries);
            let ended = succeeded(from_redis(&redis, &nsqd, &format!("--redis-push {flag} --timeout 1s")).run());
            assert!(ended.stderr.contains("1504 entries published to foo"), "{}", ended.stderr);
            assert_eq!(redis.ask("KEYS *"), RedisValue::List(vec![]), "nothing is left behind");
            let (list, tcp) = (redis.list("jobs"), nsqd.tcp());
            let args = format!("bridge --from foo --group 1 --to {list} --nsqd-tcp-address {tcp}");
            let args = format!("{args} --redis-push {flag} --count 1504");
            succeeded(mqueue(&args).run());
            assert_eq!(sorted(redis.entries("jobs")), sorted(entries), "{command}");
            redis.ask("DEL jobs");
        }
    }
}

#[test]
fn an_entry_that_nsqd_refuses_is_kept_and_named() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nsqd = Nsqd::embedded(&["--max-msg-size", "1000"]);
    nsqd.create("foo", "1");
    push(&redis, "LPUSH", &[b"one".to_vec(), vec![b'x'; 1001], Vec::new(), b"two".to_vec()]);
    let ended = succeeded(from_redis(&redis, &nsqd, "--timeout 1s").run());
    assert!(ended.stderr.contains("refuses an entry of 1001 bytes (xxx"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("2 entries published to foo, 2 kept in list {jobs}:mqueue:refused"),
        "{}",
        ended.stderr
    );
    assert_eq!(sorted(redis.entries("{jobs}:mqueue:refused")), [Vec::new(), vec![b'x'; 1001]]);
    assert_eq!(nsqd.published("foo"), 2);
}

/// The number of kills, and of entries for each.
fn kills() -> usize {
    std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(6)
}

fn report(direction: &str, seed: u64, seen: &HashMap<Vec<u8>, usize>, count: usize) {
    let twice: usize = seen.values().map(|times| times - 1).sum();
    eprintln!("SEED={seed}: {direction}: {} kills, {count} entries: {} arrived, {twice} twice", kills(), seen.len());
    assert_eq!(seen.len(), count, "SEED={seed}: lost");
}

#[test]
fn nothing_is_lost_from_redis_over_kills_and_restarts() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "1");
    let entries = numbered(kills() * 1000);
    for (kill, some) in entries.chunks(1000).enumerate() {
        push(&redis, "LPUSH", some);
        let bridge = from_redis(&redis, &nsqd, "--batch-size 50").start();
        let until = nsqd.published("foo") + random.u64(1..900);
        wait_until("some entries more, or all", || nsqd.published("foo") >= until || redis.length("jobs") == 0);
        match kill % 3 {
            1 => redis.restart(),
            2 => {
                nsqd.kill();
                nsqd.start_again();
            }
            _ => {}
        }
        bridge.signal(Signal::SIGKILL);
        assert_eq!(bridge.finish().code, None);
    }
    let bridge = from_redis(&redis, &nsqd, "").start();
    bridge.wait_to_say("bridging");
    let keys =
        |redis: &Redis| matches!(redis.ask("KEYS {jobs}:mqueue:batch*"), RedisValue::List(keys) if keys.is_empty());
    wait_until("the batches of dead bridges to be taken over", || redis.length("jobs") == 0 && keys(&redis));
    bridge.signal(Signal::SIGTERM);
    succeeded(bridge.finish());
    let seen = consumed(&nsqd, |seen| seen >= entries.len());
    report("from Redis", seed, &seen, entries.len());
    assert_eq!(redis.ask("KEYS {jobs}:mqueue:refused"), RedisValue::List(vec![]));
}

#[test]
fn nothing_is_lost_to_redis_over_kills_and_restarts() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "bridge");
    let entries = numbered(kills() * 1000);
    for (kill, some) in entries.chunks(1000).enumerate() {
        publish(&nsqd, some.to_vec());
        let bridge = to_redis(&redis, &nsqd, "--batch-size 50 --msg-timeout 1s").start();
        let until = redis.length("jobs") + random.i64(1..900);
        wait_until("some messages more, or all", || {
            let group = nsqd.channel("foo", "bridge");
            redis.length("jobs") >= until || group.depth + group.in_flight_count + group.deferred_count == 0
        });
        match kill % 3 {
            1 => redis.restart(),
            2 => {
                nsqd.kill();
                nsqd.start_again();
            }
            _ => {}
        }
        bridge.signal(Signal::SIGKILL);
        assert_eq!(bridge.finish().code, None);
    }
    let bridge = to_redis(&redis, &nsqd, "--msg-timeout 1s").start();
    bridge.wait_to_say("bridging");
    nsqd.wait_for_empty("foo", "bridge");
    bridge.signal(Signal::SIGTERM);
    succeeded(bridge.finish());
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    redis.entries("jobs").into_iter().for_each(|entry| *seen.entry(entry).or_default() += 1);
    report("to Redis", seed, &seen, entries.len());
}

#[test]
fn a_bridge_that_was_paused_and_replaced_loses_nothing() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "1");
    let first = from_redis(&redis, &nsqd, "--batch-size 10 --rate 500").start();
    let entries = numbered(1000);
    push(&redis, "LPUSH", &entries[..500]);
    wait_until("some entries", || nsqd.published("foo") > 50);
    first.signal(Signal::SIGSTOP);
    let second = from_redis(&redis, &nsqd, "").start();
    wait_until("the first bridge to count as dead", || {
        redis.length("jobs") == 0 && matches!(redis.ask("SCARD {jobs}:mqueue:batches"), RedisValue::Number(0))
    });
    first.signal(Signal::SIGCONT);
    push(&redis, "LPUSH", &entries[500..]);
    let seen = consumed(&nsqd, |seen| seen >= entries.len());
    assert_eq!(seen.len(), entries.len());
    for bridge in [first, second] {
        bridge.signal(Signal::SIGTERM);
        succeeded(bridge.finish());
    }
    assert_eq!(redis.ask("KEYS *"), RedisValue::List(vec![]));
}

#[test]
fn two_bridges_share_a_list() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "1");
    push(&redis, "LPUSH", &numbered(2000));
    let bridges = [(); 2].map(|()| from_redis(&redis, &nsqd, "--batch-size 20 --rate 1000 --timeout 2s").start());
    for bridge in bridges {
        let ended = succeeded(bridge.finish());
        let line = ended.stderr.lines().find(|line| line.contains("published to foo")).expect("the totals");
        assert!(!line.contains(" 0 entries") && !line.contains("2000 entries"), "{line}");
    }
    let seen = consumed(&nsqd, |seen| seen >= 2000);
    assert!(seen.len() == 2000 && seen.values().all(|times| *times == 1), "each once");
}

#[test]
fn settings_that_cannot_work_are_named_in_one_line() {
    let Some(redis) = Redis::start(&["--requirepass", "right"]) else { return };
    let Some(open) = Redis::start(&[]) else { return };
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "bridge");
    let master = open.port().to_string();
    let Some(replica) = Redis::start(&["--replicaof", "127.0.0.1", &master]) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let secret = |text: &str| {
        let path = folder.path().join(text.replace(' ', "-"));
        std::fs::write(&path, text).expect("written");
        format!("--redis-auth-file {}", path.display())
    };
    open.ask("SET jobs x");
    replica_is_ready(&replica);
    let gone = format!("bridge --from redis://127.0.0.1:1/jobs --to foo --nsqd-tcp-address {}", nsqd.tcp());
    let with_password = format!("bridge --from redis://:secret@127.0.0.1:{master}/jobs --to foo");
    for (bridge, code, words) in [
        (from_redis(&redis, &nsqd, ""), 1, "--redis-auth-file (NOAUTH"),
        (from_redis(&redis, &nsqd, &secret("wrong")), 1, "wrong user or password"),
        (from_redis(&open, &nsqd, ""), 1, "is no list: name another (WRONGTYPE"),
        (to_redis(&open, &nsqd, ""), 1, "is no list: name another (WRONGTYPE"),
        (mqueue(&gone), 69, "cannot connect to Redis at 127.0.0.1:1"),
        (mqueue(&with_password), 2, "--redis-auth-file"),
        (mqueue(&format!("bridge --from foo --to {}", open.list("jobs"))), 2, "--group"),
        (mqueue("bridge --from foo --group 1 --to bar"), 2, "--to-nsqd-tcp-address"),
        (from_redis(&open, &nsqd, "--group x"), 2, "for messages of a stream"),
    ] {
        let ended = bridge.run();
        let lines: Vec<&str> = ended.stderr.lines().filter(|line| line.contains(words)).collect();
        assert_eq!((ended.code, lines.len()), (Some(code), 1), "{words}: {}", ended.stderr);
        assert!(!ended.stderr.contains("secret@"), "{}", ended.stderr);
    }
    let tcp = nsqd.tcp();
    let of_replica = format!("bridge --from {} --to foo --nsqd-tcp-address {tcp}", replica.list("other"));
    let ended = mqueue(&of_replica).run();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("this is a replica: name the master"), "{}", ended.stderr);
    succeeded(from_redis(&redis, &nsqd, &format!("{} --timeout 100ms", secret("right"))).run());
    succeeded(from_redis(&redis, &nsqd, &format!("{} --timeout 100ms", secret("default right"))).run());
}

fn replica_is_ready(replica: &Redis) {
    wait_until("the replica", || matches!(replica.ask("GET jobs"), RedisValue::Text(text) if text == b"x"));
}

#[test]
fn a_full_redis_is_said_once_and_nothing_is_lost() {
    let Some(redis) = Redis::start(&["--maxmemory", "5mb", "--maxmemory-policy", "noeviction"]) else { return };
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "bridge");
    nsqd.create("foo", "1");
    let entries: Vec<Vec<u8>> = (0..8000).map(|n| format!("{n:01000}").into_bytes()).collect();
    publish(&nsqd, entries.clone());
    let bridge = to_redis(&redis, &nsqd, "--batch-size 100").start();
    bridge.wait_to_say("Redis is full (maxmemory)");
    redis.ask("CONFIG SET maxmemory 100mb");
    nsqd.wait_for_empty("foo", "bridge");
    bridge.signal(Signal::SIGTERM);
    let ended = succeeded(bridge.finish());
    assert_eq!(ended.stderr.matches("Redis is full").count(), 1, "{}", ended.stderr);
    assert_eq!(sorted(redis.entries("jobs")), sorted(entries.clone()));
    // the way out is open while Redis is full
    redis.ask("CONFIG SET maxmemory 5mb");
    assert!(matches!(redis.ask("SET x y"), RedisValue::Error(error) if error.starts_with("OOM")));
    succeeded(from_redis(&redis, &nsqd, "--count 8000").run());
    assert_eq!((redis.length("jobs"), nsqd.published("foo")), (0, 16_000));
}

#[test]
fn a_list_of_large_entries_behind_small_ones_crosses_both_ways() {
    let Some(redis) = Redis::start(&["--appendfsync", "no"]) else { return };
    let nsqd = Nsqd::embedded(&["--max-msg-size=20000000", "--max-body-size=80000000", "--memory"]);
    nsqd.create("foo", "bridge");
    let mut entries = numbered(100);
    entries.extend((0..12u8).map(|n| vec![n; 10_000_000]));
    push(&redis, "LPUSH", &entries[..100]);
    entries[100..].iter().for_each(|entry| push(&redis, "LPUSH", std::slice::from_ref(entry)));
    let ended = succeeded(from_redis(&redis, &nsqd, "--count 112").run());
    assert!(ended.stderr.contains("112 entries published to foo"), "{}", ended.stderr);
    assert_eq!(redis.ask("KEYS *"), RedisValue::List(vec![]), "nothing is left behind");
    succeeded(to_redis(&redis, &nsqd, "--count 112").run());
    assert_eq!(sorted(redis.entries("jobs")), sorted(entries));
}

#[test]
fn a_replica_is_said_once_and_messages_wait_until_it_is_the_master() {
    let Some(master) = Redis::start(&[]) else { return };
    master.ask("SET jobs x");
    let Some(replica) = Redis::start(&["--replicaof", "127.0.0.1", &master.port().to_string()]) else { return };
    replica_is_ready(&replica);
    master.ask("DEL jobs");
    wait_until("the deletion", || replica.ask("EXISTS jobs") == RedisValue::Number(0));
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "bridge");
    publish(&nsqd, numbered(100));
    let bridge = to_redis(&replica, &nsqd, "").start();
    bridge.wait_to_say("this is a replica: name the master");
    replica.ask("REPLICAOF NO ONE");
    nsqd.wait_for_empty("foo", "bridge");
    bridge.signal(Signal::SIGTERM);
    let ended = succeeded(bridge.finish());
    assert_eq!(ended.stderr.matches("this is a replica").count(), 1, "{}", ended.stderr);
    assert_eq!(sorted(replica.entries("jobs")), sorted(numbered(100)));
}

#[test]
fn a_list_whose_key_is_something_else_for_a_while_is_said_once_and_nothing_is_lost() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "1");
    let bridge = from_redis(&redis, &nsqd, "").start();
    push(&redis, "LPUSH", &numbered(10));
    wait_until("the first entries", || nsqd.published("foo") == 10);
    redis.ask("SET jobs x");
    bridge.wait_to_say("this key is no list: name another");
    redis.ask("DEL jobs");
    push(&redis, "LPUSH", &numbered(20)[10..]);
    let seen = consumed(&nsqd, |seen| seen >= 20);
    assert_eq!(seen.len(), 20);
    bridge.signal(Signal::SIGTERM);
    let ended = succeeded(bridge.finish());
    assert_eq!(ended.stderr.matches("this key is no list").count(), 1, "{}", ended.stderr);
    assert_eq!(redis.ask("KEYS *"), RedisValue::List(vec![]), "nothing is left behind");
}

#[test]
fn a_stream_crosses_to_another_cluster_with_selected_messages() {
    needs!("nsqd");
    let (mut here, there) = (Nsqd::real(&[]), Nsqd::real(&[]));
    here.create("foo", "bridge");
    there.create("foo", "1");
    publish(&here, numbered(500));
    let (from, to) = (here.tcp(), there.tcp());
    let args = format!("bridge --from foo --group bridge --nsqd-tcp-address {from} --to-nsqd-tcp-address {to}");
    let itself = mqueue(&format!("{args} --to foo --to-nsqd-tcp-address {from}")).run();
    assert_eq!(itself.code, Some(2));
    assert!(itself.stderr.contains("would feed itself"), "{}", itself.stderr);
    let bridge = mqueue(&format!("{args} --to foo --listen 127.0.0.1:0")).start();
    let seen = consumed(&there, |seen| seen >= 500);
    assert_eq!((seen.len(), seen.values().sum::<usize>()), (500, 500));
    let log = bridge.stderr();
    let address = log.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).expect("it listens");
    let metrics = get(address, "/metrics");
    assert!(metrics.contains(r#"mqueue_messages_handled_total{stream="foo",group="bridge"} 500"#), "{metrics}");
    here.stop();
    here.start_again();
    here.publish("foo", b"after the restart");
    assert_eq!(consumed(&there, |seen| seen >= 1).len(), 1);
    bridge.signal(Signal::SIGTERM);
    succeeded(bridge.finish());
    publish(&here, numbered(20));
    here.publish("foo", b"no JSON");
    let filter = "--require-json-field number --require-json-value 7 --whitelist-json-field number --count 21";
    let ended = succeeded(mqueue(&format!("{args} --to foo {filter}")).run());
    assert!(ended.stderr.contains("1 message passed on to foo, 20 not selected, 1 dead letters"), "{}", ended.stderr);
    assert_eq!(consumed(&there, |seen| seen >= 1).into_keys().collect::<Vec<_>>(), [br#"{"number":7}"#.to_vec()]);
}

/// A bridge once waited for its next heartbeat first, up to 2 s.
#[test]
fn a_bridge_ends_as_soon_as_its_entries_are_published() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nsqd = Nsqd::embedded(&[]);
    let run = |_| {
        push(&redis, "LPUSH", &numbered(10));
        let start = Instant::now();
        succeeded(from_redis(&redis, &nsqd, "--count 10").run());
        start.elapsed()
    };
    // the machine may be busy during some
    let quickest = (0..5).map(run).min().expect("some runs");
    assert!(quickest < Duration::from_millis(1500), "{quickest:?}");
}

#[test]
fn the_rate_is_kept_in_both_directions() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "bridge");
    push(&redis, "LPUSH", &numbered(300));
    let start = Instant::now();
    succeeded(from_redis(&redis, &nsqd, "--rate 200 --count 300").run());
    assert!(start.elapsed() >= Duration::from_millis(1300), "{:?}", start.elapsed());
    let start = Instant::now();
    succeeded(to_redis(&redis, &nsqd, "--rate 200 --count 300 --batch-size 10").run());
    assert!(start.elapsed() >= Duration::from_millis(1300), "{:?}", start.elapsed());
    assert_eq!(redis.length("jobs"), 300);
}

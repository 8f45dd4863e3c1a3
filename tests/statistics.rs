//! Statistics of the embedded broker beside nsqd's: statsd and end-to-end latencies.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Client, Nsqd, PATIENCE, get, mqueue, needs, wait_until};

/// The names and values that statsd has received: counters are summed, gauges are the last ones.
type Received = BTreeMap<String, (i64, &'static str)>;

/// The last name of each report that both brokers send.
const LAST: &str = "mem.heap_in_use_bytes";

/// A statsd daemon, and a broker that reports to it.
struct Scene {
    daemon: UdpSocket,
    broker: Nsqd,
}

impl Scene {
    fn new(start: fn(&[&str]) -> Nsqd, flags: &str) -> Self {
        let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
        daemon.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = format!("--statsd-address={}", daemon.local_addr().unwrap());
        let flags: Vec<&str> = flags.split(' ').chain([address.as_str()]).collect();
        Self { broker: start(&flags), daemon }
    }

    /// Receives reports until one has brought these values, of which latencies and memory are
    /// masked; returns the number of packets.
    #[track_caller]
    fn receive(&self, expected: &Received) -> usize {
        let prefix = format!("nsq.{}.", self.broker.http().replace(['.', ':'], "_"));
        let (mut received, begun) = (Received::new(), Instant::now());
        let mut buffer = [0; 2048];
        for packets in 1.. {
            let length = self.daemon.recv(&mut buffer).expect("a packet");
            let packet = String::from_utf8(buffer[..length].to_vec()).expect("UTF-8");
            assert!(length <= 508 && packet.ends_with('\n'), "{packet:?}");
            for line in packet.lines() {
                let (name, value) = line.strip_prefix(&prefix).and_then(|line| line.split_once(':')).expect(line);
                let (value, kind) = value.split_once('|').expect(line);
                let value: i64 = value.parse().expect(line);
                match kind {
                    "c" => received.entry(name.to_owned()).or_insert((0, "c")).0 += value,
                    "g" => drop(received.insert(name.to_owned(), (value, "g"))),
                    other => panic!("{other}: {line}"),
                }
                if name == LAST && masked(&received) == *expected {
                    return packets;
                }
            }
            let late = begun.elapsed() > Duration::from_secs(20);
            assert!(!late, "{:#?} instead of {expected:#?}", masked(&received));
        }
        unreachable!("there is an end")
    }
}

/// Replaces latencies by 1 if they are above 0; leaves out the memory, of which Go has more.
fn masked(received: &Received) -> Received {
    let some = received.iter().filter(|(name, _)| !name.starts_with("mem."));
    let masked = some.map(|(name, (value, kind))| match name.contains("e2e_processing_latency") {
        true => (name.clone(), (i64::from((1..20_000_000_000).contains(value)), *kind)),
        false => (name.clone(), (*value, *kind)),
    });
    masked.collect()
}

/// Publishes four messages, two of which are finished, one is deferred and one stays in flight; and
/// one message to a topic without a channel.
fn populate(broker: &Nsqd) -> Client {
    broker.create("alpha", "one");
    broker.create("gamma%23ephemeral", "one");
    broker.create("alpha", "two%23ephemeral");
    let mut consumer = Client::subscribed(broker, "alpha", "one", "{}");
    consumer.say("RDY 4\n");
    (0..4).for_each(|_| broker.publish("alpha", b"hello"));
    broker.publish("beta", b"hello");
    broker.publish("gamma%23ephemeral", b"hello");
    let messages = consumer.messages(4);
    consumer.say(&format!("FIN {}\nFIN {}\nREQ {} 100000\n", messages[0].id, messages[1].id, messages[2].id));
    consumer
}

/// The report of a broker with this load.
fn expected() -> Received {
    let counters = [
        ("alpha.message_count", 4),
        ("alpha.message_bytes", 20),
        ("alpha.channel.one.message_count", 4),
        ("alpha.channel.one.requeue_count", 1),
        ("alpha.channel.one.timeout_count", 0),
        ("beta.message_count", 1),
        ("beta.message_bytes", 5),
    ];
    let gauges = [
        ("alpha.depth", 0),
        ("alpha.backend_depth", 0),
        ("alpha.e2e_processing_latency_100", 1),
        ("alpha.e2e_processing_latency_95", 1),
        ("alpha.channel.one.depth", 0),
        ("alpha.channel.one.backend_depth", 0),
        ("alpha.channel.one.in_flight_count", 1),
        ("alpha.channel.one.deferred_count", 1),
        ("alpha.channel.one.clients", 1),
        ("alpha.channel.one.e2e_processing_latency_100", 1),
        ("alpha.channel.one.e2e_processing_latency_95", 1),
        ("beta.depth", 1),
        ("beta.backend_depth", 0),
    ];
    let named = |(name, value), kind| (format!("topic.{name}"), (value, kind));
    let counters = counters.into_iter().map(|counter| named(counter, "c"));
    counters.chain(gauges.into_iter().map(|gauge| named(gauge, "g"))).collect()
}

#[test]
fn statsd_gets_from_the_broker_what_it_gets_from_nsqd() {
    needs!("nsqd");
    let flags = "--e2e-processing-latency-percentile=0.95,1.0 --statsd-exclude-ephemeral=true --statsd-interval";
    // nsqd spreads a report over its interval less one second
    let nsqd = Scene::new(Nsqd::real, &format!("{flags}=1100ms"));
    let ours = Scene::new(Nsqd::embedded, &format!("{flags}=50ms"));
    for scene in [&nsqd, &ours] {
        let _consumer = populate(&scene.broker);
        assert!(scene.receive(&expected()) > 1, "a report is longer than a packet");
    }
}

/// The latencies of topics and channels in JSON and in text, with their values masked.
fn latencies(broker: &Nsqd) -> (Vec<String>, Vec<String>) {
    let json = get(&broker.http(), "/stats?format=json&include_clients=false");
    let stats: Value = serde_json::from_str(&json).expect("JSON");
    let topics = stats["topics"].as_array().expect("topics");
    let channels = topics.iter().flat_map(|topic| topic["channels"].as_array().expect("channels"));
    let json = topics.iter().chain(channels).map(|it| {
        let mut latency = it["e2e_processing_latency"].clone();
        for quantile in latency["percentiles"].as_array_mut().into_iter().flatten() {
            // whole numbers are written without a fraction
            let is_positive = quantile["value"].as_u64().expect("a whole number") > 0;
            quantile["value"] = if is_positive { "N".into() } else { 0.into() };
        }
        latency.to_string()
    });
    let text = get(&broker.http(), "/stats");
    let text = text.lines().filter_map(|line| line.split_once("e2e%: ")).map(|(_, quantiles)| {
        let masked = quantiles.split(", ").map(|quantile| {
            let unit = quantile.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            let number = quantile.strip_suffix(unit).and_then(|number| number.split_once('.'));
            match (number, unit) {
                (Some((_, decimals)), "ns" | "us" | "ms" | "s") if decimals.len() == 1 => "N",
                _ => quantile,
            }
        });
        masked.collect::<Vec<_>>().join(", ")
    });
    (json.collect(), text.collect())
}

#[test]
fn latencies_are_reported_like_nsqd() {
    needs!("nsqd");
    let flags = ["--e2e-processing-latency-percentile=0.5,1", "--e2e-processing-latency-percentile=0.99"];
    let [nsqd, ours] = [Nsqd::real(&flags), Nsqd::embedded(&flags)];
    let reported = [&nsqd, &ours].map(|broker| {
        broker.create("alpha", "idle");
        let _consumer = populate(broker);
        wait_until("two are finished", || broker.channel("alpha", "one").e2e_processing_latency.count == 2);
        for quantile in broker.channel("alpha", "one").e2e_processing_latency.percentiles {
            assert!((1.0..20e9).contains(&quantile.value), "{quantile:?}");
        }
        latencies(broker)
    });
    assert_eq!(reported[0], reported[1]);
    let all = r#"{"count":2,"percentiles":[{"quantile":1,"value":"N"},{"quantile":0.99,"value":"N"},{"quantile":0.5,"value":"N"}]}"#;
    assert!(reported[1].0.contains(&all.to_owned()), "{:?}", reported[1].0);
    assert!(reported[1].1.contains(&"N, N, N".to_owned()), "{:?}", reported[1].1);
    let metrics = get(&ours.http(), "/metrics");
    let name = r#"mqueue_broker_channel_e2e_latency_seconds{topic="alpha",channel="one",quantile="0.99"} "#;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("a quantile");
    assert!((1e-9..20.0).contains(&value.parse::<f64>().unwrap()), "{value}");
}

#[test]
fn a_missing_statsd_daemon_is_logged_once_and_does_no_harm() {
    // nothing listens on a port that was just closed
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let args = format!(
        "broker --data-path={} --tcp-address=127.0.0.1:0 --http-address=127.0.0.1:0 --statsd-address={address} \
         --statsd-interval=5ms --statsd-udp-packet-size=1",
        folder.path().display()
    );
    let broker = mqueue(&args).start();
    let http = broker.listens("HTTP");
    let publish = || assert_eq!(crate::support::request(&http, "POST", "/pub?topic=foo", b"x"), "OK");
    publish();
    broker.wait_to_say("statistics not sent");
    (0..50).for_each(|_| publish());
    assert_eq!(broker.times_said("statistics not sent"), 1, "{}", broker.stderr());
}

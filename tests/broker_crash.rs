//! The embedded broker is killed repeatedly: everything acknowledged is kept.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use mqueue::client::{Address, Consumer, ConsumerConfig, Publisher, PublisherConfig};
use tokio::time::timeout;

use crate::support::{Client, EventsOutcome, Nsqd, PATIENCE, mqueue, needs, wait_until};

const KILLS: usize = 50;
/// Messages of one run: enough for all kills.
const EVENTS: u64 = 60_000;

/// Publishes and consumes while the broker is killed and restarted at random moments; ends when the
/// broker is empty.
fn killed_again_and_again(broker: &mut Nsqd, random: &mut fastrand::Rng) -> EventsOutcome {
    broker.create("foo", "1");
    let args = "consumer --stream foo --group 1 --output body --msg-timeout 2s --max-in-flight 200";
    let consumer = mqueue(args).env("NSQD_TCP_ADDRESS", &broker.tcp()).start();
    let args = "producer --stream foo --interval 0 --tasks 20 --report json --publish-timeout 60 --count";
    let producer = mqueue(&format!("{args} {EVENTS}")).env("NSQD_TCP_ADDRESS", &broker.tcp()).start();
    for _ in 0..KILLS {
        let more = consumer.stdout().len() + random.usize(..60_000);
        wait_until("events more, or all", || consumer.stdout().len() > more || producer.stdout().len() > 2);
        broker.kill();
        broker.start_again();
    }
    EventsOutcome::of(producer, consumer, broker, EVENTS, "killed")
}

#[test]
fn nothing_acknowledged_is_lost_over_fifty_kills() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let of_broker = killed_again_and_again(&mut Nsqd::embedded(&[]), &mut random);
    eprintln!("SEED={seed}: {EVENTS} events acknowledged, {KILLS} kills");
    let show = |name: &str, EventsOutcome { handled, twice, resent }: &EventsOutcome| {
        eprintln!("  {name:<14} lost {:>5}, handled again {twice:>5}, sent again {resent:>5}", EVENTS - handled);
    };
    show("mqueue broker", &of_broker);
    assert_eq!(of_broker.handled, EVENTS, "every acknowledged event is handled");
    needs!("nsqd");
    show("nsqd", &killed_again_and_again(&mut Nsqd::real(&[]), &mut random));
}

#[tokio::test(flavor = "multi_thread")]
async fn requeued_messages_keep_their_time_and_attempts_and_finished_ones_are_gone_after_a_kill() {
    let mut broker = Nsqd::embedded(&[]);
    let address: Address = broker.tcp().parse().expect("an address");
    let publisher =
        Publisher::connect(std::slice::from_ref(&address), PublisherConfig::default()).await.expect("it runs");
    let mut config = ConsumerConfig::new("foo".parse().expect("a name"), "1".parse().expect("a name"));
    config.nsqd.push(address);
    let mut consumer = Consumer::connect(config.clone()).await.expect("it runs");
    let topic = "foo".parse().expect("a name");
    for body in ["finished", "requeued"] {
        publisher.publish(&topic, body).await.expect("it runs");
    }
    let later = Duration::from_millis(1500);
    publisher.publish_deferred(&topic, "deferred", later).await.expect("it runs");
    let asked = Instant::now();
    for _ in 0..2 {
        let delivery = timeout(PATIENCE, consumer.recv()).await.expect("in time").expect("a message");
        match &delivery.message().body[..] {
            b"finished" => delivery.finish(),
            _ => delivery.requeue(later),
        }
    }
    consumer.stop();
    assert!(timeout(PATIENCE, consumer.recv()).await.expect("in time").is_none(), "its replies are sent");
    // the log has this publish after the replies: once acknowledged, they are logged, too
    publisher.publish(&"other".parse().expect("a name"), "x").await.expect("it runs");
    tokio::task::block_in_place(|| {
        broker.kill();
        broker.start_again();
    });
    let mut consumer = Consumer::connect(config).await.expect("it runs");
    let mut got = Vec::new();
    for _ in 0..2 {
        let delivery = timeout(PATIENCE, consumer.recv()).await.expect("in time").expect("a message");
        let message = delivery.message();
        got.push((String::from_utf8_lossy(&message.body).into_owned(), message.attempts));
        delivery.finish();
    }
    got.sort();
    assert!(asked.elapsed() >= later, "{got:?} came after {:?}", asked.elapsed());
    assert_eq!(got, [("deferred".to_owned(), 1), ("requeued".to_owned(), 2)]);
}

/// A message whose FIN was known to be executed does not come back, however often the broker is
/// killed. A FIN sent during a kill may be lost: its message comes back at most once.
#[test]
fn finished_messages_do_not_come_back_after_kills() {
    const ROUNDS: usize = 30;
    const BATCH: usize = 40;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut broker = Nsqd::embedded(&[]);
    let (mut finished, mut doubtful) = (HashSet::new(), HashMap::<String, usize>::new());
    broker.create("foo", "1");
    for round in 0..ROUNDS {
        let lines: String = (0..BATCH).map(|n| format!("{round}.{n}\n")).collect();
        broker.publish_lines("foo", lines.as_bytes());
        let mut client = Client::subscribed(&broker, "foo", "1", "{}");
        client.say(&format!("RDY {BATCH}\n"));
        let messages = client.messages(random.usize(1..=BATCH));
        let (known, unknown) = messages.split_at(random.usize(..=messages.len()));
        for message in known {
            assert!(!finished.contains(&message.id), "{} was finished, and came again", message.body);
            client.say(&format!("FIN {}\n", message.id));
        }
        // commands are executed in order: a response means that the earlier commands were executed
        client.say("PUB other\n\0\0\0\u{1}x");
        while client.frame() != "0 OK" {}
        finished.extend(known.iter().map(|message| message.id.clone()));
        for message in unknown {
            *doubtful.entry(message.id.clone()).or_default() += 1;
            client.say(&format!("FIN {}\n", message.id));
        }
        broker.kill();
        broker.start_again();
    }
    let mut client = Client::subscribed(&broker, "foo", "1", "{}");
    client.say("RDY 2500\n");
    let left = usize::try_from(broker.channel("foo", "1").depth).expect("not negative");
    for message in client.messages(left) {
        assert!(!finished.contains(&message.id), "{} was finished, and came again", message.body);
    }
    let again = doubtful.values().filter(|times| **times > 1).count();
    eprintln!(
        "{ROUNDS} kills: {} finished for sure, none came again; {again} of {} others did",
        finished.len(),
        doubtful.len()
    );
    assert!(finished.len() > ROUNDS, "too few messages to compare");
}

#[test]
fn a_second_broker_on_the_same_data_path_is_refused_with_one_line() {
    let broker = Nsqd::embedded(&[]);
    let path = broker.data_path().display();
    let any = "127.0.0.1:0";
    let second = mqueue(&format!("broker --data-path {path} --tcp-address {any} --http-address {any}")).run();
    assert_eq!(second.code, Some(1));
    let said = second.stderr.trim_end();
    assert!(said.lines().count() == 1 && said.contains("another") && said.contains(&path.to_string()), "{said}");
}

#[test]
fn a_message_that_kills_its_consumers_is_buried_though_the_broker_is_stopped_after_each() {
    let mut broker = Nsqd::embedded(&[]);
    broker.create("foo", "1");
    broker.publish("foo", b"poison");
    let folder = tempfile::tempdir().expect("a folder");
    let tries = folder.path().join("tries");
    let handler = format!("exec:echo $MQUEUE_ATTEMPTS >>{}; kill -9 $PPID", tries.display());
    let args = "consumer --stream foo --group 1 --max-attempts 2 --count 1";
    let address = broker.tcp();
    let consumer = || mqueue(args).env("NSQD_TCP_ADDRESS", &address).arg("--handler").arg(&handler);
    for attempt in ["1\n", "1\n2\n"] {
        assert_eq!(consumer().run().code, None, "killed");
        assert_eq!(std::fs::read_to_string(&tries).expect("it was tried"), attempt);
        broker.stop();
        broker.start_again();
    }
    assert_eq!(consumer().run().code, Some(5));
    assert_eq!((std::fs::read_to_string(&tries).expect("there").as_str(), broker.published("foo.dead")), ("1\n2\n", 1));
}

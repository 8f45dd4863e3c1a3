//! Handlers that fail: attempts, pauses and dead letters; a message is finished only after its dead
//! letter is acknowledged.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqueue::proto::Command;
use mqueue::worker::DeadLetter;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::fake_nsqd::{FakeNsqd, Peer, error, message, message_id, ok};
use crate::support::{Mqueue, Nsqd, consumer, mqueue, needs, wait_until};

/// A body with invalid UTF-8 and several lines.
const BODY: &[u8] = b"line 1\nline 2\0\xff\xfe";

/// A command that counts its runs in a file.
struct Runs {
    _folder: TempDir,
    path: PathBuf,
}

impl Runs {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs");
        File::create(&path).unwrap();
        Self { _folder: folder, path }
    }

    fn count(&self) -> usize {
        fs::read_to_string(&self.path).unwrap().lines().count()
    }

    /// Makes a handler that counts its runs and ends with this script, where `$n` is the number of
    /// the run.
    fn handler(&self, script: &str) -> String {
        let path = self.path.display();
        format!("exec:echo run >>{path}; n=$(wc -l <{path}); {script}")
    }
}

fn with_handler(consumer: Mqueue, handler: &str) -> Mqueue {
    consumer.arg("--handler").arg(handler)
}

/// Takes the only message of `foo.dead`.
fn dead_letter(nsqd: &Nsqd) -> DeadLetter {
    assert_eq!(nsqd.published("foo.dead"), 1, "dead letters");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letter");
    let args = "consumer --stream foo.dead --group look --count 1 --output null --nsqd-tcp-address";
    let finished = mqueue(args).arg(&nsqd.tcp()).with_stdout(File::create(&path).unwrap()).run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let written = fs::read(&path).unwrap();
    let letter = written.strip_suffix(b"\0").expect("ends with NUL").to_vec();
    DeadLetter::decode(&Bytes::from(letter)).expect("a dead letter")
}

/// Runs a consumer whose handler fails twice and then succeeds; returns the time that it took.
fn fails_twice(args: &str) -> Duration {
    let (nsqd, runs) = (Nsqd::with_channel("foo", "1"), Runs::new());
    nsqd.publish("foo", b"a");
    let start = Instant::now();
    let finished = with_handler(consumer(&nsqd.tcp(), args), &runs.handler("[ $n -ge 3 ]")).arg("--count=1").run();
    let took = start.elapsed();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(runs.count(), 3);
    nsqd.wait_for_empty("foo", "1");
    assert_eq!((nsqd.channel("foo", "1").requeue_count, nsqd.published("foo.dead")), (2, 0));
    took
}

#[test]
fn a_failed_message_is_retried_until_its_handler_succeeds() {
    needs!("nsqd");
    let took = fails_twice("--retry-delay 0 --max-backoff 0");
    assert!(took < Duration::from_secs(2), "no delays, but it took {took:?}");
}

#[test]
fn the_retry_delay_grows_with_the_attempts() {
    needs!("nsqd");
    let took = fails_twice("--retry-delay 300ms --max-backoff 0");
    // 300 ms, then 600 ms; nsqd begins to look at a new channel's deferred messages up to 5 s late
    assert!((Duration::from_millis(900)..Duration::from_secs(15)).contains(&took), "{took:?}");
}

#[test]
fn failures_in_a_row_pause_the_consumer() {
    needs!("nsqd");
    let took = fails_twice("--retry-delay 0");
    // the first pause is half a second to a second
    assert!((Duration::from_millis(500)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

#[test]
fn a_message_that_always_fails_becomes_a_dead_letter_after_max_attempts() {
    needs!("nsqd");
    let (nsqd, runs) = (Nsqd::start(), Runs::new());
    nsqd.publish("foo", BODY);
    let args = "--max-attempts 3 --retry-delay 0 --max-backoff 0 --count 1";
    let finished = with_handler(consumer(&nsqd.tcp(), args), &runs.handler("exit 7")).run();
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    assert_eq!(runs.count(), 3);
    nsqd.wait_for_empty("foo", "1");
    let letter = dead_letter(&nsqd);
    assert_eq!((letter.stream.as_str(), letter.group.as_str()), ("foo", "1"));
    assert_eq!((letter.reason.as_str(), letter.attempts), ("exit status 7", 3));
    assert_eq!(&letter.body[..], BODY);
    assert!(letter.timestamp > 0 && letter.died > letter.timestamp, "{letter:?}");
}

/// Starts nsqd and `mqueue broker`, each with `foo` and its group from the start: nsqd checks
/// timeouts of a new channel late.
fn both_brokers() -> [Nsqd; 2] {
    [Nsqd::real(&[]), Nsqd::embedded(&[])].map(|mut nsqd| {
        nsqd.create("foo", "1");
        nsqd.stop();
        nsqd.start_again();
        nsqd
    })
}

#[test]
fn a_message_that_kills_its_consumer_becomes_a_dead_letter_after_max_attempts() {
    needs!("nsqd");
    for nsqd in both_brokers() {
        let runs = Runs::new();
        nsqd.publish("foo", BODY);
        let args = "--max-attempts 2 --msg-timeout 1s --count 1";
        let mut codes = Vec::new();
        while codes.len() < 5 && codes.last() != Some(&Some(5)) {
            codes.push(with_handler(consumer(&nsqd.tcp(), args), &runs.handler("kill -9 $PPID")).run().code);
        }
        assert_eq!((codes, runs.count()), (vec![None, None, Some(5)], 2));
        nsqd.wait_for_empty("foo", "1");
        let letter = dead_letter(&nsqd);
        assert!(letter.reason.contains("delivered 2 times and never answered"), "{letter:?}");
        assert_eq!((&letter.body[..], letter.attempts), (BODY, 3));
    }
}

#[test]
fn a_requeued_untried_message_uses_up_no_attempt() {
    let mut broker = Nsqd::embedded(&[]);
    broker.create("foo", "1");
    let lines: String = (0..20).map(|n| format!("{n}\n")).collect();
    broker.publish_lines("foo", lines.trim_end().as_bytes());
    for round in 1..=5 {
        let consumer = consumer(&broker.tcp(), "--concurrency 20 --max-attempts 3 --grace 0");
        let consumer = with_handler(consumer, "exec:sleep 1000").start();
        wait_until("all to be tried", || broker.channel("foo", "1").in_flight_count == 20);
        consumer.signal(Signal::SIGINT);
        assert_eq!(consumer.finish().code, Some(130));
        wait_until("all to be given back", || broker.channel("foo", "1").depth == 20);
        assert_eq!(broker.channel("foo", "1").requeue_count, 20 * round);
    }
    // the broker's log knows it, too
    broker.kill();
    broker.start_again();
    let runs = Runs::new();
    let args = "--concurrency 20 --max-attempts 3 --retry-delay 0 --max-backoff 0 --count 20";
    let failing = with_handler(consumer(&broker.tcp(), args), &runs.handler("exit 1")).run();
    assert_eq!(failing.code, Some(5), "{}", failing.stderr);
    assert_eq!((runs.count(), broker.published("foo.dead")), (60, 20));
}

#[test]
fn exit_code_65_makes_a_dead_letter_at_once() {
    needs!("nsqd");
    let (nsqd, runs) = (Nsqd::start(), Runs::new());
    nsqd.publish("foo", BODY);
    let finished = with_handler(consumer(&nsqd.tcp(), "--count 1"), &runs.handler("exit 65")).run();
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    let letter = dead_letter(&nsqd);
    assert_eq!((letter.reason.as_str(), letter.attempts, runs.count()), ("exit status 65", 1, 1));
    assert_eq!(&letter.body[..], BODY);
}

#[test]
fn a_handler_over_its_timeout_is_killed_and_counts_as_failed() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    nsqd.publish("foo", b"a");
    let args = "--handler-timeout 200ms --max-attempts 1 --count 1";
    let start = Instant::now();
    let finished = with_handler(consumer(&nsqd.tcp(), args), "exec:sleep 1000").run();
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(dead_letter(&nsqd).reason, "timed out after 200ms");
}

/// Lets the consumer fail on one message, up to the PUB of its dead letter; returns the consumer's
/// and the publisher's connection.
fn dying(fake: &FakeNsqd) -> (Mqueue, Peer, Peer) {
    let consumer = with_handler(consumer(&fake.tcp(), "--max-attempts 1"), "exec:exit 1").start();
    let mut subscriber = fake.subscribed();
    subscriber.until_ready();
    subscriber.send(&message(1, 1, BODY));
    let publisher = publishes_dead_letter(fake);
    (consumer, subscriber, publisher)
}

fn publishes_dead_letter(fake: &FakeNsqd) -> Peer {
    let mut publisher = fake.accept();
    publisher.identified();
    let Command::Pub { topic, body } = publisher.command() else { panic!("not a PUB") };
    assert_eq!(topic.as_str(), "foo.dead");
    assert_eq!(&DeadLetter::decode(&body).unwrap().body[..], BODY);
    publisher
}

fn answers(commands: &[Command]) -> Vec<&Command> {
    commands.iter().filter(|command| matches!(command, Command::Fin(_) | Command::Req { .. })).collect()
}

#[test]
fn a_message_is_finished_only_after_its_dead_letter_is_acknowledged() {
    let fake = FakeNsqd::start();
    let (_consumer, mut subscriber, mut publisher) = dying(&fake);
    assert_eq!(answers(&subscriber.said()), Vec::<&Command>::new());
    // refused once, and accepted when it is published again
    publisher.send(&error("E_PUB_FAILED PUB failed exiting"));
    drop(publisher);
    let mut publisher = publishes_dead_letter(&fake);
    assert_eq!(answers(&subscriber.said()), Vec::<&Command>::new());
    publisher.send(&ok());
    let said = subscriber.until(|command| matches!(command, Command::Fin(_)));
    assert_eq!(answers(&said), [&Command::Fin(message_id(1))]);
}

#[test]
fn a_message_without_an_acknowledged_dead_letter_is_requeued_at_the_end() {
    let fake = FakeNsqd::start();
    let (mut consumer, mut subscriber, _publisher) = dying(&fake);
    consumer.signal(Signal::SIGINT);
    let said = subscriber.until(|command| *command == Command::Cls);
    assert_eq!(answers(&said), Vec::<&Command>::new());
    assert!(!consumer.has_ended(), "a message is not yet answered");
    consumer.signal(Signal::SIGINT);
    assert_eq!(answers(&subscriber.rest()), [&Command::Req { id: message_id(1), delay: 0 }]);
    assert_eq!(consumer.finish().code, Some(130));
}

#[test]
fn a_message_of_the_largest_size_becomes_a_dead_letter_and_is_redriven_whole() {
    needs!("nsqd");
    for nsqd in [Nsqd::real(&["--max-msg-size=1000"]), Nsqd::embedded(&["--max-msg-size=1000"])] {
        let body: Vec<u8> = (0..1000).map(|n| b'a' + (n % 23) as u8).collect();
        nsqd.publish("foo", &body);
        let finished = consumer(&nsqd.tcp(), "--handler exec:false --max-attempts 1 --count 1").run();
        assert_eq!(finished.code, Some(5), "{}", finished.stderr);
        let errors = |args: &str| {
            let addresses = format!("--nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
            let done = mqueue(&format!("errors --stream foo {addresses} {args}")).run();
            assert_eq!(done.code, Some(0), "{}", done.stderr);
            done
        };
        let list = errors("--json");
        let letter: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
        assert_eq!((&letter["reason"], &letter["group"]), (&"exit status 1".into(), &"1".into()));
        assert_eq!(letter["body"].as_str().unwrap().as_bytes(), body);
        assert!(list.stderr.contains("1 of 1 letter"), "{}", list.stderr);
        let redriven = errors("--redrive --yes");
        assert!(redriven.stderr.contains("1 published again, 0 left"), "{}", redriven.stderr);
        let again = consumer(&nsqd.tcp(), "--output body --count 1").run();
        assert_eq!(again.stdout.trim_end().as_bytes(), body);
        nsqd.wait_for_empty("foo.dead", "errors");
    }
}

#[test]
fn dead_letters_of_a_batch_are_published_together() {
    let fake = FakeNsqd::start();
    // this handler cannot pass on a body of two lines
    let consumer = with_handler(consumer(&fake.tcp(), ""), "unix:/nonexistent").start();
    let mut subscriber = fake.subscribed();
    subscriber.until_ready();
    subscriber.send_all((1..=20).map(|number| message(number, 1, BODY)));
    let mut publisher = fake.accept();
    publisher.identified();
    let mut letters = 0;
    while letters < 20 {
        // none is acknowledged
        letters += match publisher.command() {
            Command::Pub { .. } => 1,
            Command::Mpub { bodies, .. } => bodies.count(),
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(answers(&subscriber.said()), Vec::<&Command>::new());
    drop(consumer);
}

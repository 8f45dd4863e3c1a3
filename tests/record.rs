//! `mqueue record` and `mqueue replay`: nothing finished is lost, and messages come back as they
//! were.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mqueue::client::{Consumer, ConsumerConfig, Publisher, PublisherConfig};
use mqueue::proto::Message;
use nix::sys::signal::Signal;

use crate::support::{Finished, Mqueue, Nsqd, PATIENCE, SmallDisk, mqueue, needs, wait_until};

/// A recording in a temporary folder.
struct Recording(tempfile::TempDir);

impl Recording {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("recording")
    }

    /// Prepares a recorder of stream `foo`.
    fn of(&self, nsqd: &Nsqd, args: &str) -> Mqueue {
        record(&self.path(), nsqd, args)
    }

    /// Prepares a replay.
    fn replay(&self, nsqd: &Nsqd, args: &str) -> Mqueue {
        mqueue(&format!("replay {} {args} --nsqd-tcp-address {}", self.path().display(), nsqd.tcp()))
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).expect("a folder").map(|entry| entry.expect("readable").path());
        let mut segments: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|it| it == "mqrec")).collect();
        segments.sort();
        segments
    }
}

fn record(folder: &Path, nsqd: &Nsqd, args: &str) -> Mqueue {
    let folder = folder.display();
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    mqueue(&format!("record foo --to {folder} --nsqd-tcp-address {tcp} --nsqd-http-address {http} {args}"))
}

#[track_caller]
fn succeeded(finished: Finished) -> Finished {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished
}

/// Publishes these bodies, and has them recorded.
fn recorded(nsqd: &Nsqd, recording: &Recording, bodies: Vec<Vec<u8>>, args: &str) {
    nsqd.create("foo", "record");
    publish(nsqd, bodies.clone());
    succeeded(recording.of(nsqd, &format!("--sync-interval 50ms --count {} {args}", bodies.len())).run());
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

/// Takes `count` messages of a stream, sorted by their publish times.
fn consumed(nsqd: &Nsqd, stream: &str, count: usize) -> Vec<Message> {
    let mut messages = runtime().block_on(async {
        let config = ConsumerConfig::new(stream.parse().expect("a name"), "1".parse().expect("a name"));
        let config = config.with_nsqd(nsqd.tcp().parse().expect("an address"));
        let mut consumer = Consumer::connect(config).await.expect("it runs");
        let mut messages = Vec::new();
        while messages.len() < count {
            let delivery = tokio::time::timeout(PATIENCE, consumer.recv()).await.expect("in time").expect("a message");
            messages.push(delivery.message().clone());
            delivery.finish();
        }
        consumer.stop();
        while consumer.recv().await.is_some() {}
        messages
    });
    messages.sort_by_key(|message| message.timestamp);
    messages
}

fn bodies(messages: &[Message]) -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = messages.iter().map(|message| message.body.to_vec()).collect();
    bodies.sort();
    bodies
}

fn on_both(test: impl Fn(Nsqd)) {
    test(Nsqd::embedded(&[]));
    needs!("nsqd");
    test(Nsqd::real(&[]));
}

#[test]
fn messages_are_recorded_and_replayed_byte_for_byte() {
    on_both(|nsqd| {
        let recording = Recording::new();
        let all_bytes: Vec<u8> = (0..=255).collect();
        let mut written = vec![b"one".to_vec(), b"\n\0".to_vec(), all_bytes, vec![b'x'; 900_000]];
        written.extend((0..500).map(|n| format!("message {n}").into_bytes()));
        recorded(&nsqd, &recording, written.clone(), "");
        nsqd.create("foo.replay", "1");
        let replayed = succeeded(recording.replay(&nsqd, "--speed max").run());
        assert!(replayed.stderr.contains("504 messages published to foo.replay"), "{}", replayed.stderr);
        written.sort();
        assert_eq!(bodies(&consumed(&nsqd, "foo.replay", written.len())), written);
        assert_eq!(nsqd.published("foo"), written.len() as u64, "nothing went to the stream that was recorded");
    });
}

#[test]
fn nothing_finished_is_lost_over_kills() {
    let kills: usize = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10);
    let events = kills as u64 * 2000;
    on_both(|nsqd| {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let recording = Recording::new();
        nsqd.create("foo", "record");
        let args = format!("producer --stream foo --interval 0 --tasks 50 --count {events} --report json");
        let producer = mqueue(&args).env("NSQD_TCP_ADDRESS", &nsqd.tcp()).start();
        let args = "--msg-timeout 1s --sync-interval 20ms --rotate-size 20000";
        for kill in 0..kills {
            let recorder = recording.of(&nsqd, args).start();
            let before = nsqd.channel("foo", "record");
            let done = |now: mqueue::proto::stats::ChannelStats| now.message_count - before.message_count;
            let more = random.u64(1..1500);
            wait_until("some messages more, or all", || {
                let now = nsqd.channel("foo", "record");
                let is_empty = now.depth + now.in_flight_count + now.deferred_count == 0;
                done(now) >= more || (is_empty && nsqd.published("foo") >= events)
            });
            recorder.signal(Signal::SIGKILL);
            assert_eq!(recorder.finish().code, None, "SEED={seed}: kill {kill}");
        }
        succeeded(producer.finish());
        let recorder = recording.of(&nsqd, args).start();
        nsqd.wait_for_empty("foo", "record");
        recorder.signal(Signal::SIGTERM);
        succeeded(recorder.finish());
        nsqd.create("foo.replay", "1");
        let replayed = succeeded(recording.replay(&nsqd, "--speed max").run());
        let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
        let published = nsqd.published("foo.replay") as usize;
        for message in consumed(&nsqd, "foo.replay", published) {
            *seen.entry(message.body.to_vec()).or_default() += 1;
        }
        eprintln!(
            "SEED={seed}: {kills} kills, {events} events: {}",
            replayed.stderr.lines().last().unwrap_or_default()
        );
        assert_eq!(seen.len() as u64, events, "SEED={seed}: lost");
        assert!(published as u64 == events, "SEED={seed}: {published} published: those recorded twice count once");
    });
}

#[test]
fn a_torn_end_is_removed_and_damage_is_named() {
    let nsqd = Nsqd::embedded(&[]);
    let recording = Recording::new();
    for n in 0..3 {
        recorded(&nsqd, &recording, vec![format!("message {n}").into_bytes()], "");
    }
    let segments = recording.segments();
    assert_eq!(segments.len(), 3);
    // as a killed recorder leaves it: without an index, and with a part of a block
    let last = OpenOptions::new().write(true).open(&segments[2]).expect("there");
    let length = last.metadata().expect("there").len();
    last.set_len(length - 40).expect("cut");
    drop(last);
    let replay = |args: &str| recording.replay(&nsqd, &format!("--dry-run {args}")).run();
    let torn = succeeded(replay(""));
    assert!(torn.stdout.contains("would publish 3 messages"), "{}{}", torn.stdout, torn.stderr);
    recorded(&nsqd, &recording, vec![b"message 3".to_vec()], "");
    assert!(succeeded(replay("")).stdout.contains("would publish 4 messages"));
    // a byte of the first block's contents
    let mut first = File::options().read(true).write(true).open(&segments[0]).expect("there");
    first.seek(SeekFrom::Start(2 * 84 + 40 + 5)).expect("there");
    first.write_all(b"\xa5").expect("written");
    let damaged = replay("");
    assert_eq!(damaged.code, Some(1));
    let name = segments[0].file_name().and_then(|name| name.to_str()).expect("UTF-8");
    assert!(damaged.stderr.contains(name) && damaged.stderr.contains("1 message lost"), "{}", damaged.stderr);
    assert!(damaged.stdout.contains("would publish 3 messages"), "{}", damaged.stdout);
    // and a header, of which there are two
    first.seek(SeekFrom::Start(3)).expect("there");
    first.write_all(b"\xa5").expect("written");
    assert!(replay("").stdout.contains("would publish 3 messages"));
}

#[test]
fn messages_are_selected_by_time_and_text_and_marked() {
    let nsqd = Nsqd::embedded(&[]);
    let recording = Recording::new();
    for n in 0..4 {
        recorded(&nsqd, &recording, vec![format!(r#"{{"n":{n}}}"#).into_bytes(), b"text".to_vec()], "");
    }
    nsqd.create("out", "1");
    let replay = |args: &str| recording.replay(&nsqd, &format!("--speed max --to out {args}")).run();
    succeeded(replay("--grep \"n\":[12] --mark field"));
    let of_grep = bodies(&consumed(&nsqd, "out", 2));
    for (n, body) in (1..).zip(&of_grep) {
        let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!((&body["n"], &body["replay"]["stream"]), (&n.into(), &"foo".into()), "{body}");
        assert!(body["replay"]["timestamp"].as_i64().is_some_and(|time| time > 1_700_000_000_000_000_000), "{body}");
    }
    let unmarked = replay("--mark field");
    assert_eq!(unmarked.code, Some(1));
    assert!(
        unmarked.stderr.contains("use --mark line") && unmarked.stderr.contains("4 not published"),
        "{}",
        unmarked.stderr
    );
    assert_eq!(consumed(&nsqd, "out", 4).len(), 4);
    let first = succeeded(replay("--count 1 --mark line"));
    assert!(first.stderr.contains("1 message published"), "{}", first.stderr);
    assert!(consumed(&nsqd, "out", 1)[0].body.starts_with(br#"{"replay":{"stream":"foo","id":""#));
    for (times, published) in [("--from 1h", 8), ("--until 1h", 0), ("--from 2026-01-01 --until 2099-01-01", 8)] {
        let said = succeeded(replay(&format!("{times} --dry-run"))).stdout;
        let expected = if published == 0 { "publish nothing".to_owned() } else { format!("{published} messages") };
        assert!(said.contains(&expected), "{times}: {said}");
    }
    assert_eq!(replay("--from 1h --until 2h").code, Some(2));
}

#[test]
fn replaying_into_the_recorded_stream_needs_a_yes() {
    let nsqd = Nsqd::embedded(&[]);
    let recording = Recording::new();
    recorded(&nsqd, &recording, vec![b"one".to_vec()], "");
    let refused = recording.replay(&nsqd, "--to foo").run();
    assert_eq!((refused.code, nsqd.published("foo")), (Some(2), 1));
    assert!(refused.stderr.contains("publish up to 1 message to foo again"), "{}", refused.stderr);
    succeeded(recording.replay(&nsqd, "--to foo --yes").run());
    assert_eq!(nsqd.published("foo"), 2);
}

#[test]
fn messages_are_replayed_at_their_times() {
    let nsqd = Nsqd::embedded(&[]);
    let recording = Recording::new();
    nsqd.create("foo", "record");
    let producer =
        mqueue("producer --stream foo --rate 200 --count 400 --generate").env("NSQD_TCP_ADDRESS", &nsqd.tcp());
    succeeded(producer.run());
    succeeded(recording.of(&nsqd, "--count 400").run());
    nsqd.create("foo.replay", "1");
    for (speed, times) in [("1x", 1.0), ("4x", 4.0)] {
        nsqd.delete_topic("foo.replay");
        nsqd.create("foo.replay", "1");
        succeeded(recording.replay(&nsqd, &format!("--speed {speed}")).run());
        let replayed = consumed(&nsqd, "foo.replay", 400);
        // the original's times are in its bodies
        let time = |message: &Message| {
            let body: serde_json::Value = serde_json::from_slice(&message.body).expect("JSON");
            body["seq"].as_u64().expect("a number") as f64 / 200.0 / times
        };
        let start = replayed[0].timestamp as f64 / 1e9 - time(&replayed[0]);
        let off = |message: &Message| ((message.timestamp as f64 / 1e9 - start) - time(message)).abs();
        let mut offs: Vec<f64> = replayed.iter().map(off).collect();
        offs.sort_by(f64::total_cmp);
        eprintln!("{speed}: p50 {:.2} ms, p99 {:.2} ms off", offs[200] * 1e3, offs[396] * 1e3);
        // the machine may be busy; a replay without a schedule would be off by a second
        assert!(offs[200] < 0.25, "{speed}: {:.3} s off", offs[200]);
    }
}

#[test]
fn old_segments_are_removed() {
    let nsqd = Nsqd::embedded(&[]);
    let recording = Recording::new();
    for n in 0..8 {
        let noise: Vec<u8> = (0..2000).map(|_| fastrand::u8(..)).collect();
        recorded(&nsqd, &recording, vec![noise], "--keep 7d,7KB --rotate-size 1");
        let bytes: u64 = recording.segments().iter().map(|path| path.metadata().expect("there").len()).sum();
        assert!(bytes <= 7000 && (n < 3 || bytes > 4000), "{n}: {bytes}");
    }
}

#[test]
fn a_folder_has_one_recorder_and_one_stream() {
    let nsqd = Nsqd::embedded(&[]);
    let recording = Recording::new();
    recorded(&nsqd, &recording, vec![b"one".to_vec()], "");
    let first = recording.of(&nsqd, "").start();
    first.wait_to_say("recording to");
    let second = recording.of(&nsqd, "").run();
    assert_eq!((second.code, second.stderr.lines().count()), (Some(1), 1));
    assert!(second.stderr.contains("another mqueue records to"), "{}", second.stderr);
    first.signal(Signal::SIGINT);
    succeeded(first.finish());
    // the other stream's recorder notices it if nothing else has begun a segment since
    let folder = recording.path().display().to_string();
    let other = mqueue(&format!("record bar --to {folder} --nsqd-tcp-address {}", nsqd.tcp())).run();
    assert_eq!(other.code, Some(1));
    assert!(other.stderr.contains("is a recording of stream foo, not of bar"), "{}", other.stderr);
    let empty = tempfile::tempdir().expect("a folder");
    let none = mqueue(&format!("replay {} --dry-run", empty.path().display())).run();
    assert_eq!((none.code, none.stderr.contains("has no segments")), (Some(1), true), "{}", none.stderr);
}

#[test]
fn a_full_disk_keeps_messages_in_their_group() {
    let Some(disk) = SmallDisk::mount() else { return };
    let nsqd = Nsqd::embedded(&[]);
    nsqd.create("foo", "record");
    let noise = |n: u8| -> Vec<u8> { std::iter::once(n).chain((0..200_000).map(|_| fastrand::u8(..))).collect() };
    let written: Vec<Vec<u8>> = (0..15).map(noise).collect();
    publish(&nsqd, written.clone());
    let filler = disk.path().join("filler");
    let folder = disk.path().join("recording");
    fs::write(&filler, vec![0; disk_room(disk.path()).saturating_sub(500_000)]).expect("it fits");
    let recorder = record(&folder, &nsqd, "--sync-interval 10ms --max-backoff 100ms").start();
    recorder.wait_to_say("cannot record messages");
    fs::remove_file(filler).expect("there");
    nsqd.wait_for_empty("foo", "record");
    recorder.signal(Signal::SIGTERM);
    let ended = succeeded(recorder.finish());
    assert_eq!(ended.stderr.matches("cannot record messages").count(), 1, "{}", ended.stderr);
    nsqd.create("foo.replay", "1");
    let replay = mqueue(&format!("replay {} --speed max --nsqd-tcp-address {}", folder.display(), nsqd.tcp()));
    succeeded(replay.run());
    let mut sorted = written;
    sorted.sort();
    assert_eq!(bodies(&consumed(&nsqd, "foo.replay", sorted.len())), sorted);
}

fn disk_room(path: &Path) -> usize {
    let stats = nix::sys::statvfs::statvfs(path).expect("mounted");
    usize::try_from(stats.blocks_available() * stats.fragment_size()).expect("a small disk")
}

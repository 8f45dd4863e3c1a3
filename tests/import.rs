//! `mqueue broker import`: nsqd's data folder becomes a log of the embedded broker.

use std::collections::BTreeMap;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Client, Finished, Mqueue, Nsqd, mqueue, needs, program, wait_until};

/// Prepares an import into a folder.
fn import(from: &Path, data: &Path) -> Mqueue {
    let program = mqueue("broker import --json --from").arg(&from.display().to_string());
    program.arg("--data-path").arg(&data.display().to_string())
}

/// Prepares a broker on a folder.
fn broker(data: &Path) -> Mqueue {
    let args = "broker --tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 --data-path";
    mqueue(args).arg(&data.display().to_string())
}

/// The JSON report of an import.
fn report(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// The numbers of messages of each queue: `topic` or `topic:channel`.
fn messages(report: &Value) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for topic in report["topics"].as_array().expect("topics") {
        let name = topic["topic"].as_str().expect("a name");
        all.insert(name.to_owned(), topic["messages"].as_u64().expect("a number"));
        for channel in topic["channels"].as_array().expect("channels") {
            let channel_name = channel["channel"].as_str().expect("a name");
            all.insert(format!("{name}:{channel_name}"), channel["messages"].as_u64().expect("a number"));
        }
    }
    all.retain(|_, messages| *messages > 0);
    all
}

/// The depths of each queue of a broker, in the same form.
fn depths(broker: &Nsqd) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for topic in broker.stats().topics {
        all.insert(topic.topic_name.clone(), u64::try_from(topic.depth).expect("not negative"));
        for channel in topic.channels {
            let name = format!("{}:{}", topic.topic_name, channel.channel_name);
            all.insert(name, u64::try_from(channel.depth).expect("not negative"));
        }
    }
    all.retain(|_, depth| *depth > 0);
    all
}

fn map(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
}

/// Receives the messages of a channel that are left, and finishes them; returns bodies with ids and
/// attempts, sorted.
fn drain(broker: &Nsqd, topic: &str, channel: &str, count: usize) -> Vec<(String, String, u16)> {
    let mut client = Client::subscribed(broker, topic, channel, "{}");
    client.say("RDY 2500\n");
    let messages = client.messages(count);
    messages.iter().for_each(|message| client.say(&format!("FIN {}\n", message.id)));
    broker.wait_for_empty(topic, channel);
    let mut all: Vec<_> = messages.into_iter().map(|it| (it.body, it.id, it.attempts)).collect();
    all.sort();
    all
}

#[test]
fn everything_that_an_nsqd_held_comes_out_of_the_broker() {
    needs!("nsqd");
    let mut nsqd = Nsqd::real(&["--mem-queue-size=3", "--max-bytes-per-file=5000"]);
    for n in 0..5 {
        nsqd.publish("alone", format!("alone {n}").as_bytes());
    }
    nsqd.create("held", "c");
    nsqd.post("/topic/pause?topic=held");
    nsqd.publish_lines("held", b"1\n2\n3\n");
    let binary: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    nsqd.create("big", "c");
    nsqd.publish("big", &binary);
    let (topic, one, two) = ("to.pic-1_a", "chan.nel-1", "other_2");
    nsqd.create(topic, one);
    nsqd.create(topic, two);
    nsqd.post(&format!("/channel/pause?topic={topic}&channel={two}"));
    let body = |n: usize| format!("{n:02}{}", "x".repeat(1_000));
    for n in 0..30 {
        nsqd.publish(topic, body(n).as_bytes());
    }
    // of the first channel's messages 10 are finished, 2 deferred, 4 in flight at the end
    let mut client = Client::subscribed(&nsqd, topic, one, "{}");
    client.say("RDY 10\n");
    let finished = client.messages(10);
    client.say("RDY 6\n");
    finished.iter().for_each(|message| client.say(&format!("FIN {}\n", message.id)));
    let delivered = client.messages(6);
    let (deferred, in_flight) = delivered.split_at(2);
    client.say("RDY 0\n");
    deferred.iter().for_each(|message| client.say(&format!("REQ {} 60000\n", message.id)));
    wait_until("what nsqd should have at its end", || {
        let channel = nsqd.channel(topic, one);
        (channel.depth, channel.deferred_count, channel.in_flight_count) == (14, 2, 4)
            && nsqd.channel(topic, two).depth == 30
            && nsqd.channel("big", "c").depth == 1
    });
    let files = |nsqd: &Nsqd| {
        let mut files: Vec<_> = std::fs::read_dir(nsqd.data_path()).expect("a folder").flatten().collect();
        files.sort_by_key(std::fs::DirEntry::path);
        files.iter().map(|file| (file.path(), std::fs::read(file.path()).expect("a file"))).collect::<Vec<_>>()
    };

    let data = tempfile::tempdir().expect("a folder");
    let refused = import(nsqd.data_path(), data.path()).run();
    let said = refused.stderr.trim_end();
    assert!(refused.code == Some(1) && said.contains("is in use: stop its nsqd first"), "{refused:?}");
    assert_eq!((said.lines().count(), std::fs::read_dir(data.path()).expect("a folder").count()), (1, 0), "{said}");
    nsqd.stop();
    let before = files(&nsqd);
    let expected = map(&[
        ("alone", 5),
        ("held", 3),
        ("big:c", 1),
        (&format!("{topic}:{one}"), 20),
        (&format!("{topic}:{two}"), 30),
    ]);
    let done = import(nsqd.data_path(), data.path()).run();
    assert_eq!((done.code, messages(&report(&done))), (Some(0), expected.clone()), "{done:?}");
    assert_eq!(report(&done)["messages"], 59);
    assert!(files(&nsqd) == before, "nsqd's folder is only read");
    let again = import(nsqd.data_path(), data.path()).run();
    assert!(again.code == Some(1) && again.stderr.contains(" has topics already: import into "), "{again:?}");
    let stored: u64 = std::fs::read_dir(data.path())
        .expect("a folder")
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().ends_with(".log"))
        .map(|file| file.metadata().expect("a file").len())
        .sum();
    assert!(stored < (1 << 20) + 30 * 1_200 + 8_000, "{stored} bytes: a message of two channels is stored once");

    let broker = Nsqd::embedded_in(data, &[]);
    assert_eq!(depths(&broker), expected);
    assert!(broker.channel(topic, two).paused && !broker.channel(topic, one).paused);
    let got = drain(&broker, topic, one, 20);
    let numbers: Vec<&str> = got.iter().map(|(body, ..)| &body[..2]).collect();
    let is_finished = |n: usize| finished.iter().any(|message| message.body == body(n));
    let left: Vec<String> = (0..30).filter(|n| !is_finished(*n)).map(|n| format!("{n:02}")).collect();
    assert_eq!(numbers, left);
    for (body, id, attempts) in &got {
        let before = delivered.iter().find(|message| message.body == *body);
        assert_eq!(*attempts, before.map_or(0, |message| message.attempts) + 1, "{}", &body[..2]);
        assert!(before.is_none_or(|message| message.id == *id), "ids are kept");
    }
    assert_eq!(in_flight.iter().filter(|message| message.attempts == 1).count(), 4);
    broker.post(&format!("/channel/unpause?topic={topic}&channel={two}"));
    let all = drain(&broker, topic, two, 30);
    assert_eq!(all.iter().map(|(body, ..)| body.clone()).collect::<Vec<_>>(), (0..30).map(body).collect::<Vec<_>>());
    assert!(finished.iter().all(|message| all.iter().any(|(_, id, _)| *id == message.id)), "ids are kept");
    broker.create("alone", "new");
    assert_eq!(drain(&broker, "alone", "new", 5).len(), 5);
    assert_eq!(broker.channel("held", "c").depth, 0, "the topic is still paused");
    broker.post("/topic/unpause?topic=held");
    let held: Vec<String> = drain(&broker, "held", "c", 3).into_iter().map(|(body, ..)| body).collect();
    assert_eq!(held, ["1", "2", "3"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let consumer = mqueue("consumer --stream big --group c --count 1 --output body --nsqd-tcp-address");
    let consumed = consumer.arg(&broker.tcp()).with_stdout(file.reopen().expect("a file")).run();
    assert_eq!(consumed.code, Some(0), "{consumed:?}");
    assert!(std::fs::read(file.path()).expect("a file").strip_suffix(b"\n") == Some(&binary[..]), "every byte");
    broker.publish("alone", b"later");
    broker.wait_for_empty("held", "c");
}

/// A data folder of nsqd, written by the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(metadata: &str) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.write("nsqd.dat", metadata.as_bytes());
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).expect("written");
    }

    /// Writes a queue of one file.
    fn queue(&self, name: &str, bytes: &[u8], positions: &str) {
        self.write(&format!("{name}.diskqueue.000000.dat"), bytes);
        self.write(&format!("{name}.diskqueue.meta.dat"), positions.as_bytes());
    }
}

/// A message as nsqd stores it; with a body of two bytes it has 32.
fn message(id: u64, body: &[u8]) -> Vec<u8> {
    let (length, id) = (26 + u32::try_from(body.len()).expect("short"), format!("{id:016x}"));
    [&length.to_be_bytes()[..], &1_700_000_000_i64.to_be_bytes(), &[0, 3], id.as_bytes(), body].concat()
}

const FIRST: u64 = 0x18aa_6f24_3fb6_9000;

/// Three messages of 32 bytes.
fn three() -> Vec<u8> {
    three_from(FIRST)
}

fn three_from(id: u64) -> Vec<u8> {
    [message(id, b"m1"), message(id + 1, b"m2"), message(id + 2, b"m3")].concat()
}

#[test]
fn readable_messages_of_damaged_queues_are_imported_and_the_rest_is_named() {
    let names =
        ["cut", "garbage", "huge", "zeros", "no-meta", "bad-meta", "gone", "beyond", "depth", "twice", "middle", "far"];
    let topics: Vec<_> =
        names.iter().map(|name| format!(r#"{{"name":"{name}","channels":[{{"name":"c"}}]}}"#)).collect();
    let folder = Folder::new(&format!(r#"{{"topics":[{},{{"name":"a b"}}],"version":"1.3.0"}}"#, topics.join(",")));
    let with_length = |length: u32| {
        let mut bytes = three();
        bytes[32..36].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    folder.queue("cut:c", &three()[..95], "3\n0,0\n0,96\n");
    folder.queue("garbage:c", &with_length(0), "3\n0,0\n0,96\n");
    folder.queue("huge:c", &with_length(0x7fff_ffff), "3\n0,0\n0,96\n");
    folder.queue("zeros:c", &[&three()[..], &[0; 5_000]].concat(), "3\n0,0\n0,96\n");
    folder.write("no-meta:c.diskqueue.000007.dat", &three());
    folder.queue("bad-meta:c", &three(), "3\n0,x\n");
    folder.queue("gone:c", &three(), "9\n0,0\n2,96\n");
    folder.write("gone:c.diskqueue.000002.dat", &three_from(FIRST + 3));
    folder.queue("beyond:c", &three(), "1\n0,200\n0,232\n");
    folder.queue("depth:c", &three(), "5\n0,0\n0,96\n");
    // a killed nsqd may leave a message twice
    folder.queue("twice:c", &[three(), message(FIRST, b"m1")].concat(), "4\n0,0\n0,128\n");
    folder.queue("middle:c", &three(), "2\n0,32\n0,96\n");
    let far = "18446744073709551615";
    folder.queue("far:c", &three(), &format!("1\n{far},{far}\n{far},{far}\n"));
    folder.queue("unlisted", &three(), "3\n0,0\n0,96\n");
    folder.queue("a b", &three(), "3\n0,0\n0,96\n");
    folder.write("depth.diskqueue.000003.dat.bad", &three());
    std::fs::create_dir(folder.0.path().join("middle.diskqueue.000000.dat")).expect("made");

    let data = tempfile::tempdir().expect("a folder");
    let (done, peak) = import(folder.0.path(), data.path()).run_watched();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(peak < 100 << 10, "{peak} KiB");
    let expected = map(&[
        ("cut:c", 2),
        ("garbage:c", 2),
        ("huge:c", 2),
        ("zeros:c", 3),
        ("no-meta:c", 3),
        ("bad-meta:c", 3),
        ("gone:c", 6),
        ("depth:c", 3),
        ("twice:c", 3),
        ("middle:c", 2),
        ("unlisted", 3),
    ]);
    assert_eq!(messages(&report(&done)), expected);
    let mut problems: Vec<String> = report(&done)["problems"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| it.as_str().expect("text").into())
        .collect();
    problems.sort();
    let whole = "is missing or damaged: all of the queue was imported, and messages that were handled may come again";
    let killed = "it is damaged, or nsqd was killed";
    let mut expected_problems = [
        "\"a b\" is no name of a topic or channel: not imported".to_owned(),
        "\"a b\" is no name of a topic or channel: not imported".to_owned(),
        format!("bad-meta:c.diskqueue.meta.dat {whole}"),
        "beyond:c.diskqueue.000000.dat ends at byte 96, before byte 200 up to which it was consumed: not imported"
            .to_owned(),
        format!("beyond:c should have 1 message and has 0 messages: {killed}"),
        "cut:c.diskqueue.000000.dat: 31 bytes from byte 64 on are no message: not imported".to_owned(),
        format!("cut:c should have 3 messages and has 2 messages: {killed}"),
        format!("depth:c should have 5 messages and has 3 messages: {killed}"),
        format!("far:c should have 1 message and has 0 messages: {killed}"),
        "garbage:c.diskqueue.000000.dat: 32 bytes from byte 32 on are no message: not imported".to_owned(),
        format!("garbage:c should have 3 messages and has 2 messages: {killed}"),
        "gone:c.diskqueue.000001.dat is missing".to_owned(),
        format!("gone:c should have 9 messages and has 6 messages: {killed}"),
        "huge:c.diskqueue.000000.dat: 32 bytes from byte 32 on are no message: not imported".to_owned(),
        format!("huge:c should have 3 messages and has 2 messages: {killed}"),
        "middle.diskqueue.000000.dat is not a file: not imported".to_owned(),
        format!("no-meta:c.diskqueue.meta.dat {whole}"),
        "unlisted is not in nsqd.dat; its messages were imported".to_owned(),
        "zeros:c.diskqueue.000000.dat: 5000 bytes from byte 96 on are no message: not imported".to_owned(),
    ];
    expected_problems.sort();
    assert_eq!(problems, expected_problems);
    for problem in &problems {
        assert!(done.stderr.lines().any(|line| line.contains("ERROR") && line.ends_with(problem)), "{}", done.stderr);
    }
    assert!(done.stderr.contains("WARN depth.diskqueue.000003.dat.bad was set aside by nsqd: not read"));
    let broker = Nsqd::embedded_in(data, &[]);
    assert_eq!(depths(&broker), expected, "topics with the same ids have their own messages");
    let attempts = drain(&broker, "middle", "c", 2);
    assert_eq!(attempts.iter().map(|(body, _, tries)| (&**body, *tries)).collect::<Vec<_>>(), [("m2", 4), ("m3", 4)]);
}

#[test]
fn topics_are_taken_from_file_names_if_nsqd_dat_is_missing_or_damaged() {
    for (metadata, why) in [(None, "nsqd.dat is missing: "), (Some("{\"topics\":[{"), "nsqd.dat cannot be read (")] {
        let folder = Folder::new(metadata.unwrap_or_default());
        if metadata.is_none() {
            std::fs::remove_file(folder.0.path().join("nsqd.dat")).expect("removed");
        }
        folder.queue("a.diskqueue.b", &three(), "3\n0,0\n0,96\n");
        folder.queue("a.diskqueue.b:c", &three(), "3\n0,0\n0,96\n");
        let data = tempfile::tempdir().expect("a folder");
        let done = import(folder.0.path(), data.path()).run();
        assert_eq!(done.code, Some(1), "{done:?}");
        let report = report(&done);
        assert_eq!(messages(&report), map(&[("a.diskqueue.b", 3), ("a.diskqueue.b:c", 3)]));
        let problems = report["problems"].as_array().expect("a list");
        assert!(problems.len() == 1 && problems[0].as_str().is_some_and(|it| it.starts_with(why)), "{problems:?}");
        // the topic's own messages go to its channel, too
        assert_eq!(depths(&Nsqd::embedded_in(data, &[])), map(&[("a.diskqueue.b:c", 6)]));
    }
}

#[test]
fn an_import_that_was_killed_is_not_taken_for_a_log_and_the_next_one_begins_anew() {
    const COUNT: u64 = 10_000;
    let folder = Folder::new(r#"{"topics":[{"name":"foo","channels":[{"name":"c"}]}]}"#);
    let bytes: Vec<u8> = (0..COUNT).flat_map(|n| message(FIRST + n, &[b'x'; 500])).collect();
    folder.queue("foo:c", &bytes, &format!("{COUNT}\n0,0\n0,{}\n", bytes.len()));
    let killed = || {
        let data = tempfile::tempdir().expect("a folder");
        let running = import(folder.0.path(), data.path()).start();
        let segment = data.path().join("0000000001.log");
        wait_until("some messages to be written", || segment.metadata().is_ok_and(|file| file.len() > 100_000));
        running.signal(Signal::SIGKILL);
        running.finish().code.is_none().then_some(data)
    };
    // on a busy machine the signal may come after the end
    let data = (0..20).find_map(|_| killed()).expect("it was killed before its end");
    let refused = broker(data.path()).run();
    let said = refused.stderr.trim_end();
    assert!(refused.code == Some(1) && said.contains(" holds an import that did not end: run "), "{refused:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let done = import(folder.0.path(), data.path()).run();
    assert_eq!((done.code, messages(&report(&done))), (Some(0), map(&[("foo:c", COUNT)])), "{done:?}");
    assert_eq!(depths(&Nsqd::embedded_in(data, &[])), map(&[("foo:c", COUNT)]));
}

#[test]
fn a_broker_on_nsqds_folder_prints_the_import_and_ignores_no_message_silently() {
    let folder = Folder::new(r#"{"topics":[{"name":"foo","channels":null}]}"#);
    folder.queue("foo", &three(), "3\n0,0\n0,96\n");
    let nsqds = folder.0.path().join("it's $(nsqd)");
    std::fs::create_dir(&nsqds).expect("made");
    for file in ["nsqd.dat", "foo.diskqueue.000000.dat", "foo.diskqueue.meta.dat"] {
        std::fs::rename(folder.0.path().join(file), nsqds.join(file)).expect("moved");
    }
    let refused = broker(&nsqds).run();
    let said = refused.stderr.trim_end();
    assert!(refused.code == Some(1) && said.lines().count() == 1, "{refused:?}");
    assert_eq!(std::fs::read_dir(&nsqds).expect("a folder").count(), 3, "nothing was written");
    let (_, command) = said.split_once("import them: ").expect("a command");
    let path = format!("{}:/usr/bin:/bin", program().parent().expect("a folder").display());
    let shell = std::process::Command::new("sh").args(["-c", command]).env("PATH", path).output().expect("a shell");
    let printed = String::from_utf8_lossy(&shell.stdout).into_owned();
    assert!(shell.status.success(), "{command}: {}", String::from_utf8_lossy(&shell.stderr));
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["topic", "channel", "messages", "bytes"]);
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["foo", "3", "6"]);
    assert!(lines.last().is_some_and(|line| line.starts_with("next: mqueue broker --data-path='")), "{printed}");
    let data = folder.0.path().join("it's $(nsqd)-mqueue");
    let inside = import(&nsqds, &nsqds.join("below")).run();
    assert!(inside.code == Some(1) && inside.stderr.contains(" is in nsqd's folder, which is only read"), "{inside:?}");
    // a log in the same folder is used, with a warning
    std::fs::rename(nsqds.join("nsqd.dat"), data.join("nsqd.dat")).expect("moved");
    let running = broker(&data).start();
    running.listens("HTTP");
    assert_eq!(running.times_said("has queues of nsqd besides the log; they are not read: mqueue broker import"), 1);
    assert_eq!(running.times_said("3 messages from 1 segment"), 1);
}

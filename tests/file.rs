//! The file handler: messages are whole and on the disk before they leave the queue, and files
//! rotate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::fake_nsqd::{FakeNsqd, message, message_id};
use crate::support::{Mqueue, Nsqd, consumer, needs, wait_until};

#[test]
fn a_message_is_finished_after_its_line_is_in_the_file() {
    use mqueue::proto::Command;
    let fake = FakeNsqd::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let handler = format!("--handler file:{}", path.display());
    let _consumer = consumer(&fake.tcp(), &handler).start();
    let mut peer = fake.subscribed();
    peer.until_ready();
    for (number, body) in [b"one".as_slice(), b"two", b"three"].into_iter().enumerate() {
        peer.send(&message(number as u64, 1, body));
        peer.until(|command| *command == Command::Fin(message_id(number as u64)));
        let lines = fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), number + 1, "{lines}");
        assert!(lines.ends_with(&format!("{}\n", String::from_utf8_lossy(body))), "{lines}");
    }
}

#[test]
fn a_file_that_logrotate_moved_away_is_followed_by_a_new_one() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let folder = tempfile::tempdir().unwrap();
    let (path, rotated) = (folder.path().join("log"), folder.path().join("log.1"));
    let consumer = consumer(&nsqd.tcp(), &format!("--handler file:{}", path.display())).start();
    nsqd.wait_for_clients("foo", "1", 1);
    let publish = |lines: &str| {
        nsqd.publish_lines("foo", lines.as_bytes());
        wait_until("handled", || nsqd.channel("foo", "1").message_count == nsqd.published("foo"));
        nsqd.wait_for_empty("foo", "1");
    };
    let sorted = |path| {
        let text = fs::read_to_string(path).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    publish("a\nb");
    fs::rename(&path, &rotated).unwrap();
    publish("c\nd");
    assert_eq!(
        (sorted(&rotated), sorted(&path)),
        (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned(), "d".to_owned()])
    );
    consumer.signal(Signal::SIGHUP);
    publish("e\nf");
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.finish().code, Some(0));
    assert_eq!(sorted(&path), ["c", "d", "e", "f"]);
}

#[test]
fn bodies_with_newlines_survive_json_and_null_output() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let folder = tempfile::tempdir().unwrap();
    let bodies = ["one\ntwo\n", "{\"a\":\n\"b\"}", "three", "\n"];
    for output in ["json", "null"] {
        nsqd.create("foo", "1");
        bodies.iter().for_each(|body| nsqd.publish("foo", body.as_bytes()));
        let path = folder.path().join(output);
        let ran =
            consumer(&nsqd.tcp(), &format!("--handler file:{} --output {output} --count 4", path.display())).run();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let text = fs::read_to_string(&path).unwrap();
        let back: BTreeSet<String> = match output {
            "null" => text.strip_suffix('\0').unwrap().split('\0').map(str::to_owned).collect(),
            _ => text.lines().map(body_of).collect(),
        };
        assert_eq!(back, bodies.iter().map(|body| (*body).to_owned()).collect(), "{text:?}");
    }
}

fn body_of(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    line["body"].as_str().expect("text").to_owned()
}

/// Unpacks a file with `zcat`; returns the content, and true if zcat found no error.
fn zcat(path: &Path) -> (String, bool) {
    let ran = Command::new("zcat").arg(path).output().expect("gzip is installed");
    (String::from_utf8(ran.stdout).expect("text"), ran.status.success())
}

/// Lists the files of a folder by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs consumers with these arguments and kills each with SIGKILL while it writes; a last one
/// takes the rest of `count` messages. Calls `look` after each kill with the number of messages
/// that had left the queue.
fn killed_again_and_again(nsqd: &Nsqd, args: &str, count: u64, mut look: impl FnMut(u64)) {
    nsqd.create("foo", "1");
    let gone = |nsqd: &Nsqd| {
        let channel = nsqd.channel("foo", "1");
        count - u64::try_from(channel.depth + channel.in_flight_count + channel.deferred_count).expect("a number")
    };
    let lines: Vec<String> = (0..count).map(|n| format!("{n:0100}")).collect();
    nsqd.publish_lines("foo", lines.join("\n").as_bytes());
    wait_until("all of them in the group", || nsqd.channel("foo", "1").depth == count as i64);
    for kill in 0..4 {
        let before = gone(nsqd);
        let consumer = consumer(&nsqd.tcp(), &format!("{args} --max-in-flight 50 --msg-timeout 1s")).start();
        wait_until(&format!("messages before kill {kill}"), || gone(nsqd) > before + 50);
        consumer.signal(Signal::SIGKILL);
        drop(consumer);
        nsqd.wait_for_clients("foo", "1", 0);
        look(gone(nsqd));
    }
    let last: Mqueue = consumer(&nsqd.tcp(), &format!("{args} --msg-timeout 1s")).start();
    nsqd.wait_for_empty("foo", "1");
    last.signal(Signal::SIGTERM);
    assert_eq!(last.finish().code, Some(0));
}

#[test]
fn a_compressed_file_has_every_finished_message_whenever_a_consumer_is_killed() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let folder = tempfile::tempdir().unwrap();
    let (path, count) = (folder.path().join("log.gz"), 5000);
    let numbers = |text: &str| -> BTreeSet<u64> { text.lines().map(|line| body_of(line).parse().unwrap()).collect() };
    let args = format!("--handler file:{} --gzip --output json", path.display());
    killed_again_and_again(&nsqd, &args, count, |gone| {
        let whole = zcat(&path).0;
        let end = whole.rfind('\n').map_or(0, |end| end + 1);
        let there = numbers(&whole[..end]).len() as u64;
        assert!(there >= gone, "{gone} left the queue, {there} are in the file");
    });
    let (text, is_sound) = zcat(&path);
    assert!(is_sound, "what was torn is cut off");
    assert_eq!(numbers(&text), (0..count).collect());
}

#[test]
fn files_rotate_by_size_and_lose_no_message_to_kills() {
    needs!("nsqd");
    for (gzip, size, most, least) in [("", 20_000, 20_100, 20), ("--gzip --gzip-level 1", 5000, 75_000, 3)] {
        let nsqd = Nsqd::start();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("files");
        let args = format!("--handler file:{} {gzip} --rotate-size {size} --datetime-format %Y", path.display());
        killed_again_and_again(&nsqd, &args, 5000, |_| {});
        let mut times: BTreeMap<u64, u64> = BTreeMap::new();
        let files = files(&path);
        assert!(files.len() >= least, "{files:?}");
        for (revision, file) in files.iter().enumerate() {
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with("foo.") && name.contains(&format!("-{revision:06}.")), "{name}");
            let text = if gzip.is_empty() { fs::read_to_string(file).unwrap() } else { zcat(file).0 };
            let length = fs::metadata(file).unwrap().len();
            // with compression, lines inside the compressor come on top
            assert!(length <= most, "{name}: {length}");
            // half a line of a killed consumer is ended by the next consumer
            let whole = text.lines().filter(|line| line.len() == 100).map(|line| line.parse::<u64>().unwrap());
            whole.for_each(|number| *times.entry(number).or_default() += 1);
        }
        assert_eq!(times.len(), 5000, "{files:?}");
    }
}

#[test]
fn files_rotate_by_interval() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let folder = tempfile::tempdir().unwrap();
    let args =
        format!("--handler file:{} --rotate-interval 1s --filename-format <TOPIC><REV>", folder.path().display());
    let consumer = consumer(&nsqd.tcp(), &args).start();
    nsqd.wait_for_clients("foo", "1", 1);
    let mut published = 0_u64;
    wait_until("three files", || {
        nsqd.publish("foo", published.to_string().as_bytes());
        published += 1;
        files(folder.path()).len() == 3
    });
    nsqd.wait_for_empty("foo", "1");
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.finish().code, Some(0));
    let names = ["foo-000000", "foo-000001", "foo-000002"].map(|name| folder.path().join(name));
    assert_eq!(files(folder.path()), names);
    let text: String = names.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let numbers: BTreeSet<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..published).collect());
}

#[test]
fn contradicting_file_flags_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "").unwrap();
    let file = format!("--handler file:{}", path.display());
    for (args, code, says) in [
        ("--gzip".to_owned(), 2, "--gzip is for --handler file:PATH"),
        ("--handler exec:true --rotate-size 5".to_owned(), 2, "are for --handler file:PATH"),
        (format!("{file} --gzip --gzip-level 0"), 2, "from 1 to 9"),
        (format!("{file} --rotate-size 0"), 2, "at least 1"),
        (format!("{file} --rotate-interval 0"), 2, "use 1s to"),
        (format!("{file} --rotate-size 5 --filename-format a"), 2, "has no <REV>"),
        (format!("{file} --filename-format <HOSTNAME>"), 2, "invalid --filename-format \"<HOSTNAME>\""),
        (format!("{file} --datetime-format %j"), 2, "invalid --datetime-format \"%j\""),
        (format!("{file} --rotate-size 5"), 2, "it is a file, and rotated files need a folder"),
    ] {
        let ran = consumer("127.0.0.1:1", &args).run();
        assert_eq!(ran.code, Some(code), "{args}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args}: {says:?} is missing in {}", ran.stderr);
    }
}

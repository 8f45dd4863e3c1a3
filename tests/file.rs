//! The file handler: lines are on the disk before their messages leave the queue, and logrotate gets on with it.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::fake_nsqd::{FakeNsqd, message, message_id};
use crate::support::{Nsqd, consumer, needs, wait_until};

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
fn after_sighup_lines_go_to_a_new_file() {
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
    assert_eq!(sorted(&rotated), ["a", "b", "c", "d"], "it is still the same file");
    consumer.signal(Signal::SIGHUP);
    publish("e\nf");
    // a message that came together with the signal may still be in the old file
    publish("g\nh");
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.finish().code, Some(0));
    let (old, new) = (sorted(&rotated), sorted(&path));
    assert!(new.ends_with(&["g".to_owned(), "h".to_owned()]), "{old:?} {new:?}");
    assert_eq!([old, new].concat(), ["a", "b", "c", "d", "e", "f", "g", "h"]);
}

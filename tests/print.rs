//! The print handler: its output, full pipes, and pipes whose reader is gone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mqueue::proto::Command;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use crate::support::fake_nsqd::{FakeNsqd, message, message_id};
use crate::support::{Finished, Mqueue, Nsqd, consumer, needs, wait_until};

const BODY: &[u8] = b"not text: \xff\n\0";

/// Returns this output format's text for one message.
fn printed(output: &str) -> Vec<u8> {
    let nsqd = Nsqd::start();
    nsqd.publish("foo", BODY);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let args = format!("--count 1 --output {output}");
    let finished = consumer(&nsqd.tcp(), &args).with_stdout(File::create(&path).unwrap()).run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    fs::read(&path).unwrap()
}

/// Publishes many large numbered messages, and starts a consumer that prints them to a pipe.
fn printing(nsqd: &Nsqd, count: usize) -> (Mqueue, PipeReader) {
    let bodies: Vec<String> = (0..count).map(|number| format!("{number} {}", "x".repeat(1000))).collect();
    nsqd.create("foo", "1");
    nsqd.publish_lines("foo", bodies.join("\n").as_bytes());
    let (reader, writer) = pipe().unwrap();
    (consumer(&nsqd.tcp(), "--output body").with_stdout(writer).start(), reader)
}

/// Counts each number at the beginning of a whole line.
fn counted(text: &str) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        *counts.entry(line.split(' ').next().unwrap().parse().unwrap()).or_default() += 1;
    }
    counts
}

#[test]
fn json_marks_a_body_that_is_not_utf8() {
    needs!("nsqd");
    let line = printed("json");
    assert!(line.ends_with(b"}\n"));
    let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&json["stream"], &json["group"], &json["attempts"]), (&"foo".into(), &"1".into(), &1.into()));
    assert_eq!(json["encoding"], "base64");
    assert_eq!(STANDARD.decode(json["body"].as_str().unwrap()).unwrap(), BODY);
}

#[test]
fn body_and_null_write_the_bytes_and_a_delimiter() {
    needs!("nsqd");
    assert_eq!(printed("body"), [BODY, b"\n"].concat());
    assert_eq!(printed("null"), [BODY, b"\0"].concat());
}

#[test]
fn unwritten_messages_are_requeued_when_the_reader_closes_the_pipe() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let (consumer, reader) = printing(&nsqd, 1000);
    let mut reader = BufReader::new(reader);
    let mut read = String::new();
    for _ in 0..5 {
        reader.read_line(&mut read).unwrap();
    }
    drop(reader);
    let Finished { code, stderr, .. } = consumer.finish();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("ERROR") && !stderr.contains("WARN"), "{stderr}");
    let left = nsqd.channel("foo", "1");
    assert_eq!((left.in_flight_count, left.deferred_count), (0, 0));
    // a pipe holds 64 KiB, and the reader had a buffer: no more can have left the queue
    assert!((800..=995).contains(&left.depth), "{left:?}");

    // no message is lost: each was written or is still in the queue
    let rest = self::consumer(&nsqd.tcp(), "--output body --timeout 1").run();
    let rest = counted(&rest.stdout);
    assert_eq!(rest.len() as i64, left.depth);
    let first = counted(&read);
    assert_eq!(first.len(), 5);
    assert!(first.keys().all(|number| !rest.contains_key(number)), "what was read does not come again");
}

#[test]
fn the_unwritten_rest_of_a_batch_is_requeued() {
    let (fake, (mut reader, writer)) = (FakeNsqd::start(), pipe().unwrap());
    assert_eq!(fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap(), 4096);
    let consumer = consumer(&fake.tcp(), "--output body").with_stdout(writer).start();
    let mut peer = fake.subscribed();
    peer.until_ready();
    let body = vec![b'x'; 999].leak();
    peer.send_all((0..50).map(|id| message(id, 1, body)));
    reader.read_exact(&mut [0; 5000]).unwrap();
    drop(reader);
    let said = peer.rest();
    let finished = said.iter().filter(|command| matches!(command, Command::Fin(_))).count();
    let requeued = said.iter().filter(|command| matches!(command, Command::Req { delay: 0, .. })).count();
    // five messages were read, and a pipe of one page holds four
    assert!((5..=9).contains(&finished) && finished + requeued == 50, "{finished} finished, {requeued} requeued");
    assert_eq!(consumer.finish().code, Some(0));
}

#[test]
fn heartbeats_are_answered_while_the_pipe_is_full() {
    let (fake, (mut reader, writer)) = (FakeNsqd::start(), pipe().unwrap());
    let _consumer = consumer(&fake.tcp(), "--output body").with_stdout(writer).start();
    let mut peer = fake.subscribed();
    peer.until_ready();
    // more than a pipe holds
    let body = vec![b'x'; 100_000].leak();
    peer.send(&message(1, 1, body));
    let finished = |commands: &[Command]| commands.contains(&Command::Fin(message_id(1)));
    for heartbeat in 1..=3 {
        assert!(!finished(&peer.said()), "heartbeat {heartbeat}");
    }
    reader.read_exact(&mut vec![0; body.len() + 1]).unwrap();
    peer.until(|command| finished(std::slice::from_ref(command)));
}

#[test]
fn a_second_signal_ends_a_consumer_whose_pipe_is_full() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let (mut consumer, mut reader) = printing(&nsqd, 500);
    wait_until("the pipe is full", || nsqd.channel("foo", "1").in_flight_count > 100);
    consumer.signal(Signal::SIGTERM);
    wait_until("CLS", || nsqd.channel("foo", "1").clients.iter().all(|client| client.state == 4));
    assert!(!consumer.has_ended(), "it waits for the reader");
    let start = Instant::now();
    consumer.signal(Signal::SIGTERM);
    let finished = consumer.finish();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(finished.code, Some(130), "{}", finished.stderr);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let written = counted(&text).len() as i64;
    wait_until("everything that was not written is in the queue", || {
        let left = nsqd.channel("foo", "1");
        left.in_flight_count == 0 && left.depth + written >= 500
    });
}

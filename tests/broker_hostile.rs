//! Malicious clients, and unusual numbers of everything: the broker stays small, and others are
//! served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{Client, Nsqd, SmallDisk, get, request, wait_until};

const MEGABYTE: usize = 1 << 20;

fn greeted(broker: &Nsqd) -> TcpStream {
    let mut stream = TcpStream::connect(broker.tcp()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a valid timeout");
    stream.write_all(b"  V2").expect("it reads");
    stream
}

/// Subscribes with the maximum RDY count.
fn consumer(broker: &Nsqd, topic: &str, channel: &str) -> TcpStream {
    let mut stream = greeted(broker);
    stream.write_all(format!("SUB {topic} {channel}\nRDY 2500\n").as_bytes()).expect("it reads");
    let mut ok = [0; 10];
    stream.read_exact(&mut ok).expect("an answer");
    assert_eq!(&ok[8..], b"OK");
    stream
}

fn publish_large(broker: &Nsqd, topic: &str, count: usize) {
    let mut stream = greeted(broker);
    let mut command = format!("PUB {topic}\n").into_bytes();
    command.extend_from_slice(&(MEGABYTE as u32).to_be_bytes());
    command.resize(command.len() + MEGABYTE, b'x');
    for _ in 0..count {
        stream.write_all(&command).expect("it reads");
        let mut ok = [0; 10];
        stream.read_exact(&mut ok).expect("an answer");
    }
}

/// Resident memory in megabytes.
fn memory(broker: &Nsqd) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

fn assert_serves(broker: &Nsqd) {
    broker.publish("others", b"x");
    assert_eq!(get(&broker.http(), "/ping"), "OK");
}

#[test]
fn a_consumer_that_never_reads_costs_little_memory_and_does_not_block_others() {
    let broker = Nsqd::embedded(&["--max-memory=33554432"]);
    let _deaf = consumer(&broker, "large", "deaf");
    let mut good = consumer(&broker, "large", "good");
    let reading = std::thread::spawn(move || {
        let (mut bytes, mut buffer) = (0, vec![0; MEGABYTE]);
        while bytes < 200 * MEGABYTE {
            bytes += good.read(&mut buffer).expect("messages");
        }
    });
    publish_large(&broker, "large", 200);
    reading.join().expect("200 messages of 1 MB");
    let megabytes = memory(&broker);
    eprintln!("200 MB published, 32 MB may be in memory, one consumer reads nothing: {megabytes} MB");
    assert!(megabytes < 120, "{megabytes} MB");
    assert_serves(&broker);
}

#[test]
fn a_producer_that_reads_no_responses_is_throttled() {
    let broker = Nsqd::embedded(&["--memory"]);
    let mut rude = greeted(&broker);
    let commands = b"PUB rude#ephemeral\n\0\0\0\x01x".repeat(10_000);
    // until its responses block it, unless everything fits into the kernel's buffers
    let sent = (0..200).take_while(|_| rude.write_all(&commands).is_ok()).count();
    let megabytes = memory(&broker);
    eprintln!("{sent} x 10,000 commands without reading: {megabytes} MB");
    assert!(sent < 200, "it was never slowed");
    assert!(megabytes < 60, "{megabytes} MB");
    assert_serves(&broker);
}

#[test]
fn a_thousand_consumers_and_ten_thousand_topics_are_served() {
    let broker = Nsqd::embedded(&[]);
    let (start, before) = (Instant::now(), memory(&broker));
    let mut stream = TcpStream::connect(broker.http()).expect("it listens");
    for n in 0..10_000 {
        let request = format!("POST /topic/create?topic=t{n} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = [0; 512];
        let length = stream.read(&mut answer).expect("an answer");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
    }
    let (topics, created) = (memory(&broker), start.elapsed());
    let consumers: Vec<_> = (0..1000).map(|n| consumer(&broker, &format!("t{n}"), "c")).collect();
    let all = memory(&broker);
    eprintln!("10,000 topics in {created:?}: {before} to {topics} MB; 1,000 consumers: {all} MB");
    assert!(all < 100, "{all} MB");
    assert_eq!(broker.stats().topics.len(), 10_000);
    for (n, mut consumer) in consumers.into_iter().enumerate().step_by(100) {
        broker.publish(&format!("t{n}"), b"hello");
        let mut frame = [0; 8 + 26 + 5];
        consumer.read_exact(&mut frame).expect("a message");
        assert!(frame.ends_with(b"hello"));
    }
}

#[test]
fn ten_megabyte_messages_are_delivered() {
    let broker = Nsqd::embedded(&["--max-msg-size=16777216", "--max-body-size=67108864"]);
    let mut consumer = consumer(&broker, "large", "c");
    let body = vec![b'y'; 10 * MEGABYTE];
    for _ in 0..3 {
        broker.publish("large", &body);
        let mut frame = vec![0; 8 + 26 + body.len()];
        consumer.read_exact(&mut frame).expect("a message");
        assert!(frame.ends_with(&body));
    }
}

#[test]
fn incomplete_commands_and_requests_do_not_block_others() {
    let broker = Nsqd::embedded(&["--memory"]);
    let mut halves = Vec::new();
    for _ in 0..50 {
        let mut tcp = greeted(&broker);
        // a body that is announced and never comes takes no memory
        tcp.write_all(b"MPUB foo\n\0\x40\0\0\0\0\0\x01\0\x0f\xff\xff").expect("it reads");
        let mut http = TcpStream::connect(broker.http()).expect("it listens");
        http.write_all(b"POST /pub?topic=foo HTTP/1.1\r\nContent-Length: 1000000\r\nX-").expect("it reads");
        halves.push((tcp, http));
    }
    assert_serves(&broker);
    let megabytes = memory(&broker);
    assert!(megabytes < 60, "{megabytes} MB");
}

#[test]
fn random_bytes_do_not_stop_the_broker() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let broker = Nsqd::embedded(&["--memory"]);
    let sound = [
        &b"  V2IDENTIFY\n\0\0\0\x02{}SUB foo c\nRDY 5\nNOP\n"[..],
        b"PUB foo\n\0\0\0\x04bodyMPUB foo\n\0\0\0\x0e\0\0\0\x02\0\0\0\x01a\0\0\0\x01b",
        b"DPUB foo 100\n\0\0\0\x01xFIN 0123456789abcdef\nREQ 0123456789abcdef 0\nTOUCH 0123456789abcdef\nCLS\n",
    ]
    .concat();
    for _ in 0..500 {
        let mut bytes = sound.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            match random.u32(..3) {
                0 => bytes[at] = random.u8(..),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.u8(..)),
            }
        }
        let mut stream = TcpStream::connect(broker.tcp()).expect("it lives");
        let _ = stream.write_all(&bytes);
    }
    assert_serves(&broker);
    let megabytes = memory(&broker);
    assert!(megabytes < 60, "{megabytes} MB");
}

#[test]
fn a_full_disk_refuses_publishing_with_a_reason_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount() else { return };
    let broker = Nsqd::embedded_in(disk.folder(), &[]);
    broker.create("foo", "c");
    broker.publish("foo", b"before");
    let filler = disk.path().join("filler");
    // until the disk is full
    let _ = std::fs::write(&filler, vec![0; 8 * MEGABYTE]);
    let mut stream = greeted(&broker);
    let refused = loop {
        stream.write_all(&[&b"PUB foo\n\0\0\x10\0"[..], &[b'x'; 4096]].concat()).expect("it reads");
        let mut header = [0; 8];
        stream.read_exact(&mut header).expect("an answer");
        let mut text = vec![0; u32::from_be_bytes(header[..4].try_into().expect("4 bytes")) as usize - 4];
        stream.read_exact(&mut text).expect("a whole frame");
        if header[7] == 1 {
            break String::from_utf8(text).expect("UTF-8");
        }
    };
    assert!(refused.starts_with("E_PUB_FAILED PUB failed cannot write to the log"), "{refused}");
    assert!(get(&broker.http(), "/ping").starts_with("NOK - "));
    let mut consumer = consumer(&broker, "foo", "c");
    let mut frame = [0; 8 + 26 + 6];
    consumer.read_exact(&mut frame).expect("stored messages are delivered");
    assert!(frame.ends_with(b"before"));
    std::fs::remove_file(&filler).expect("it was written");
    wait_until("publishing to work again", || request(&broker.http(), "POST", "/pub?topic=foo", b"after") == "OK");
    assert_eq!(get(&broker.http(), "/ping"), "OK");
}

/// Publishes until the disk is full; returns how many messages it took.
fn fill(broker: &Nsqd) -> usize {
    let body = vec![b'x'; 4000];
    let answers = std::iter::repeat_with(|| request(&broker.http(), "POST", "/pub?topic=foo", &body));
    let taken = answers.take_while(|answer| answer == "OK").count();
    assert!(taken > 200, "{taken} messages of 4000 bytes are taken");
    taken
}

/// Finishes all messages except those with these numbers.
fn drain(broker: &Nsqd, count: usize, but: &[usize]) {
    let mut client = Client::subscribed(broker, "foo", "c", "{}");
    client.say("RDY 2500\n");
    for (number, message) in client.messages(count).into_iter().enumerate() {
        if !but.contains(&number) {
            client.say(&format!("FIN {}\n", message.id));
        }
    }
    // commands are executed in order
    client.say("NOP\n");
    let left = i64::try_from(but.len()).expect("a few");
    wait_until("the messages to be finished", || broker.channel("foo", "c").in_flight_count == left);
}

#[test]
fn a_disk_filled_by_the_log_is_drained_and_finished_messages_stay_finished() {
    let Some(disk) = SmallDisk::mount() else { return };
    // no message kept, one at the beginning, one in the middle of the log
    for but in [&[][..], &[0], &[100]] {
        let mut broker = Nsqd::embedded_in(disk.folder(), &[]);
        broker.create("foo", "c");
        let count = fill(&broker);
        drain(&broker, count, but);
        wait_until("publishing to work again", || request(&broker.http(), "POST", "/pub?topic=foo", b"after") == "OK");
        broker.kill();
        broker.start_again();
        let left = i64::try_from(but.len() + 1).expect("a few");
        assert_eq!(broker.channel("foo", "c").depth, left, "finished messages do not come back");
        let more = fill(&broker);
        assert!(more > count / 2, "{more} messages are taken, and {count} before");
        // full again: what an administrator does is written, or refused
        let created = broker.post("/channel/create?topic=foo&channel=d");
        broker.kill();
        broker.start_again();
        assert_eq!(broker.channels("foo").contains(&"d".to_owned()), created.is_empty(), "{created}");
    }
}

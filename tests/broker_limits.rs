//! Limits of the broker: connections, their files, and the time that slow clients take.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Nsqd, PATIENCE, get, mqueue, request, wait_until};

const MEGABYTE: usize = 1 << 20;

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a valid timeout");
    stream
}

/// Publishes; returns the broker's response.
fn publish(stream: &mut TcpStream, topic: &str, body: &[u8]) -> String {
    let size = u32::try_from(body.len()).expect("short").to_be_bytes();
    stream.write_all(&[format!("PUB {topic}\n").as_bytes(), &size, body].concat()).expect("it reads");
    frame(stream)
}

fn frame(stream: &mut TcpStream) -> String {
    let mut header = [0; 8];
    stream.read_exact(&mut header).expect("an answer");
    let mut data = vec![0; u32::from_be_bytes(header[..4].try_into().expect("4 bytes")) as usize - 4];
    stream.read_exact(&mut data).expect("a whole frame");
    String::from_utf8(data).expect("text")
}

/// CPU time of a process.
fn cost(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|n| fields[*n].parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// Bytes in the kernel's receive buffer at the other end of a connection.
fn unread(stream: &TcpStream) -> usize {
    let ends = [stream.peer_addr(), stream.local_addr()].map(|end| format!(":{:04X}", end.expect("connected").port()));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells it");
    let line = table.lines().find(|line| {
        let mut words = line.split_whitespace().skip(1);
        ends.iter().all(|end| words.next().is_some_and(|address| address.ends_with(end.as_str())))
    });
    let queues = line.and_then(|line| line.split_whitespace().nth(4)).expect("it is connected");
    usize::from_str_radix(queues.split(':').nth(1).expect("two queues"), 16).expect("a number")
}

#[test]
fn an_incomplete_mpub_is_scanned_once() {
    const MESSAGES: u32 = 700_000;
    let broker = Nsqd::embedded(&["--memory"]);
    let mut slow = connect(&broker.tcp());
    slow.set_nodelay(true).expect("a socket");
    // without heartbeats, which a slow machine would have to answer
    let settings = br#"{"heartbeat_interval":-1}"#;
    slow.write_all(&[&b"  V2IDENTIFY\n\0\0\0"[..], &[settings.len() as u8], settings].concat()).expect("it reads");
    assert_eq!(frame(&mut slow), "OK");
    let mut command = b"MPUB many#ephemeral\n".to_vec();
    command.extend_from_slice(&(5 * MEGABYTE as u32).to_be_bytes());
    command.extend_from_slice(&(MESSAGES + 20).to_be_bytes());
    command.extend(b"\0\0\0\x01x".repeat(MESSAGES as usize));
    slow.write_all(&command).expect("it reads");
    wait_until("the beginning is read", || unread(&slow) == 0);
    let (before, start) = (cost(broker.pid()), Instant::now());
    for byte in b"\0\0\0\x01x".repeat(20) {
        slow.write_all(&[byte]).expect("it reads");
        wait_until("the byte is read", || unread(&slow) == 0);
    }
    assert_eq!(frame(&mut slow), "OK");
    let cost = cost(broker.pid()) - before;
    eprintln!("100 bytes, one by one, at the end of {MESSAGES} messages: {cost:?} of {:?}", start.elapsed());
    // mostly for accepting 700,000 messages; scanning from the start each time would take 20 s
    assert!(cost < Duration::from_secs(6), "{cost:?}");
}

#[test]
fn ping_answers_while_clients_that_never_read_use_all_connections() {
    // about 20 concurrent requests, and a few more connections
    let broker = Nsqd::embedded_with_files((200, 200), &["--memory"]);
    for n in 0..60 {
        broker.create(&format!("a-topic-with-a-long-name-so-that-the-statistics-are-large-{n}"), "c");
    }
    let asks = "GET /stats?format=json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let deaf: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut stream = connect(&broker.http());
            let _ = stream.write_all(asks.as_bytes());
            stream
        })
        .collect();
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(get(&broker.http(), "/ping"), "OK");
    }
    eprintln!("5 x /ping beside {} deaf clients: {:?}", deaf.len(), start.elapsed());
    // they are not waited for endlessly
    wait_until("other requests to be answered", || request(&broker.http(), "POST", "/pub?topic=x", b"x") == "OK");
    drop(deaf);
}

#[test]
fn incomplete_requests_are_evicted_for_complete_ones() {
    let broker = Nsqd::embedded_with_files((256, 256), &["--memory"]);
    let silent: Vec<TcpStream> = (0..400)
        .map(|n| {
            let mut stream = connect(&broker.http());
            let _ = stream.write_all([&b""[..], b"GET / HT", b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"][n % 3]);
            stream
        })
        .collect();
    let start = Instant::now();
    assert_eq!(request(&broker.http(), "POST", "/pub?topic=x", b"x"), "OK");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    drop(silent);
}

#[test]
fn idle_connections_never_stop_publishing() {
    // segments are created and removed all the time
    let broker = Nsqd::embedded_with_files((200, 200), &[]);
    let mut producer = connect(&broker.tcp());
    producer.write_all(b"  V2").expect("it reads");
    assert_eq!(publish(&mut producer, "foo", b"first"), "OK");
    let idle: Vec<TcpStream> = (0..300)
        .flat_map(|n| {
            let mut tcp = connect(&broker.tcp());
            let _ = tcp.write_all(if n % 2 == 0 { b"  V2" } else { b"" });
            [tcp, connect(&broker.http())]
        })
        .collect();
    let body = vec![b'x'; MEGABYTE];
    for _ in 0..100 {
        assert_eq!(publish(&mut producer, "foo", &body), "OK");
    }
    assert_eq!(request(&broker.http(), "POST", "/pub?topic=foo", b"x"), "OK");
    assert_eq!(get(&broker.http(), "/ping"), "OK");
    drop(idle);
    wait_until("a place", || {
        let mut other = connect(&broker.tcp());
        other.write_all(b"  V2").expect("it reads");
        publish(&mut other, "foo", b"x") == "OK"
    });
}

#[test]
fn bursts_of_connections_leave_the_files_that_are_reserved_for_the_log() {
    const FILES: u32 = 256;
    const RESERVED: usize = 96;
    /// Files of the log and connections being refused, which use some of the reserved ones.
    const USED: usize = 24;
    let broker = Nsqd::embedded_with_files((FILES, FILES), &[]);
    let mut producer = connect(&broker.tcp());
    producer.write_all(b"  V2").expect("it reads");
    assert_eq!(publish(&mut producer, "foo", b"first"), "OK");
    let done = Arc::new(AtomicBool::new(false));
    let (folder, ends) = (format!("/proc/{}/fd", broker.pid()), done.clone());
    let watching = std::thread::spawn(move || {
        let mut most = 0;
        while !ends.load(Ordering::Relaxed) {
            most = most.max(std::fs::read_dir(&folder).expect("it runs").count());
        }
        most
    });
    let mut clients = VecDeque::new();
    let body = vec![b'x'; MEGABYTE];
    for round in 0..20 {
        for _ in 0..250 {
            // the first kind stays; the other ones make way
            let mut tcp = connect(&broker.tcp());
            let _ = tcp.write_all(if round == 0 { b"  V2" } else { b"" });
            clients.push_back(tcp);
            clients.push_back(connect(&broker.http()));
        }
        assert_eq!(publish(&mut producer, "foo", &body), "OK");
        if clients.len() > 800 {
            clients.drain(500..);
        }
        // idle ones make way after 50 ms
        assert_eq!(get(&broker.http(), "/ping"), "OK");
    }
    done.store(true, Ordering::Relaxed);
    let most = watching.join().expect("it ends");
    eprintln!("{most} of {FILES} files");
    assert!(most <= FILES as usize - RESERVED + USED, "{most} of {FILES} files");
}

#[test]
fn a_connection_beyond_the_limit_is_refused_with_an_error() {
    let broker = Nsqd::embedded_with_files((200, 200), &["--memory"]);
    let mut all = Vec::new();
    let refused = loop {
        let mut stream = connect(&broker.tcp());
        stream.write_all(b"  V2").expect("it reads");
        let answered = match stream.write_all(b"PUB foo\n\0\0\0\x01x") {
            Ok(()) => {
                let mut text = [0; 200];
                match stream.read(&mut text) {
                    Ok(length) => String::from_utf8_lossy(&text[..length]).into_owned(),
                    Err(e) if e.kind() == ErrorKind::ConnectionReset => "reset".to_owned(),
                    Err(e) => panic!("{e}"),
                }
            }
            Err(_) => "reset".to_owned(),
        };
        if !answered.ends_with("OK") {
            break answered;
        }
        all.push(stream);
        assert!(all.len() < 200, "there is a limit");
    };
    assert!(refused.contains("E_INVALID too many connections") || refused == "reset", "{refused}");
    eprintln!("{} connections, then: {refused:?}", all.len());
    // a client that sends nothing gets the reason
    let mut silent = connect(&broker.tcp());
    assert!(frame(&mut silent).starts_with("E_INVALID too many connections: the maximum is "));
    all[0].shutdown(Shutdown::Both).expect("it is connected");
    wait_until("a place", || {
        let mut stream = connect(&broker.tcp());
        let _ = stream.write_all(b"  V2");
        let _ = stream.write_all(b"PUB foo\n\0\0\0\x01x");
        let mut ok = [0; 10];
        stream.read_exact(&mut ok).is_ok() && ok.ends_with(b"OK")
    });
}

#[test]
fn the_limit_of_open_files_is_raised() {
    let broker = Nsqd::embedded_with_files((128, 512), &["--memory"]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", broker.pid())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("Linux tells it");
    assert_eq!(line.split_whitespace().nth(3), Some("512"), "{line}");
}

#[test]
fn the_http_api_can_be_disabled() {
    let broker = mqueue("broker --memory --tcp-address 127.0.0.1:0 --http-address=").start();
    broker.wait_to_say("TCP: listening on");
    let said = broker.stderr();
    let port = said.lines().find(|line| line.contains("TCP: listening")).and_then(|line| line.rsplit(':').next());
    let mut stream = connect(&format!("127.0.0.1:{}", port.expect("a port").trim()));
    stream.write_all(b"  V2").expect("it reads");
    assert_eq!(publish(&mut stream, "foo", b"x"), "OK");
    assert!(!broker.stderr().contains("HTTP"), "{}", broker.stderr());
}

#[test]
fn durations_without_a_unit_are_refused() {
    for flag in ["msg-timeout", "max-msg-timeout", "max-req-timeout", "max-heartbeat-interval"] {
        let ended = mqueue(&format!("broker --memory --{flag}=60000")).run();
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("60000ms"), "it says what to do: {}", ended.stderr);
    }
}

/// Messages in the log and not in memory: those beyond the memory limit, and those found at a
/// restart.
#[test]
fn backend_depth_counts_messages_only_on_disk() {
    let mut broker = Nsqd::embedded(&["--max-memory=100000"]);
    broker.create("foo", "c");
    let body = vec![b'x'; 1000];
    for _ in 0..300 {
        broker.publish("foo", &body);
    }
    let channel = broker.channel("foo", "c");
    assert_eq!((channel.depth, (190..=205).contains(&channel.backend_depth)), (300, true), "{channel:?}");
    broker.stop();
    broker.start_again();
    let channel = broker.channel("foo", "c");
    assert_eq!((channel.depth, channel.backend_depth), (300, 300));
}

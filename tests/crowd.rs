//! A thousand clients of an HTTP port that never read or never send a request: health checks are
//! answered, and the program's own work goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{Doors, Gateway, Mqueue, Nsqd, PATIENCE, Told, needs, request, wait_until};

const CLIENTS: usize = 1024;
/// Time limit for a health check on a machine that serves a thousand other clients.
const SOON: Duration = Duration::from_secs(5);

/// Connects clients, each of which sends `says` and reads nothing.
fn crowd(address: &str, says: &[u8]) -> Vec<TcpStream> {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
    let connect = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
        // a part of it is enough
        let _ = stream.write_all(says);
        stream
    };
    (0..CLIENTS).map(connect).collect()
}

/// Sends a request and waits for the response's first line; returns the time taken.
#[track_caller]
fn asks(address: &str, path: &str) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200", "{path}");
    start.elapsed()
}

/// Asserts that health checks are answered beside each kind of clients.
#[track_caller]
fn is_well(what: &str, address: &str, health: &str, large: &str) {
    let large = format!("GET {large} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(500);
    for (kind, says) in [("reads nothing", large.as_bytes()), ("asks nothing", b""), ("asks half", b"GET /pi")] {
        let clients = crowd(address, says);
        let took: Vec<Duration> = (0..3).map(|_| asks(address, health)).collect();
        eprintln!("{what}: {health} beside {} clients each of which {kind}: {took:?}", clients.len());
        assert!(took.iter().all(|took| *took < SOON), "{what}, {kind}: {took:?}");
    }
}

#[test]
fn the_broker_answers_http_with_a_thousand_idle_clients() {
    let broker = Nsqd::embedded(&["--memory"]);
    for n in 0..300 {
        broker.create(&format!("a-topic-with-a-long-name-so-that-the-statistics-are-large-{n}"), "c");
    }
    is_well("broker", &broker.http(), "/ping", "/stats?format=json");
    assert_eq!(request(&broker.http(), "POST", "/pub?topic=x", b"x"), "OK");
}

#[test]
fn the_broker_answers_http_with_a_thousand_idle_clients_and_few_files() {
    let broker = Nsqd::embedded_with_files((256, 256), &["--memory"]);
    for n in 0..300 {
        broker.create(&format!("a-topic-with-a-long-name-so-that-the-statistics-are-large-{n}"), "c");
    }
    is_well("broker of 256 files", &broker.http(), "/ping", "/stats?format=json");
    wait_until("publishing", || request(&broker.http(), "POST", "/pub?topic=x", b"x") == "OK");
}

#[test]
fn a_gateway_serves_jobs_with_a_thousand_idle_clients() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    for flags in ["", "--max-connections 20"] {
        let gateway = Gateway::start(&nsqd, flags);
        is_well(&format!("gateway {flags}"), &gateway.address, "/healthz", "/openapi.json");
    }
}

#[test]
fn wakeup_wakes_with_a_thousand_clients_that_request_its_state() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&["good.sock"]));
    nsqd.create("foo", "good");
    let wakeup = doors.wakeup(&nsqd, "--listen 127.0.0.1:0 --poll-interval 100ms").start();
    let told = Told::by(&wakeup);
    is_well("wakeup", told.address(), "/healthz", "/metrics");
    nsqd.publish("foo", b"x");
    doors.wait_for_poke("good.sock");
}

#[test]
fn a_gateway_limits_connections_by_open_files_and_logs_it() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let args = format!("gateway --listen 127.0.0.1:0 --nsqd-tcp-address {}", nsqd.tcp());
    let gateway = Gateway::of(Mqueue::shell(&format!("ulimit -n 128 && exec \"$0\" {args}")).start());
    gateway.program.wait_to_say("--max-connections");
    assert_eq!(gateway.program.times_said("the limit of open files is 128"), 1, "{}", gateway.program.stderr());
    is_well("gateway of 128 files", &gateway.address, "/healthz", "/openapi.json");
    // with all connections in use, there are still files for nsqd: groups are opened, and messages
    // published
    let crowd = crowd(&gateway.address, b"GET /heal");
    for group in ["a", "b", "c"] {
        assert_eq!(gateway.post("/streams/s", b"x").status, 200);
        let jobs = gateway.get(&format!("/streams/s/groups/{group}/jobs?create=true&wait=1ms"));
        assert!(jobs.status < 300, "{jobs:?}");
    }
    assert!(!gateway.program.stderr().contains("Too many open files"), "{}", gateway.program.stderr());
    drop(crowd);
    let roomy = Gateway::start(&nsqd, "--max-connections 20");
    assert!(!roomy.program.stderr().contains("--max-connections"), "{}", roomy.program.stderr());
}

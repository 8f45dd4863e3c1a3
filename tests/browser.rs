//! Requests of web pages to every program that serves HTTP: foreign hosts and origins are refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Doors, Gateway, Nsqd, Told, mqueue, needs};

/// Sends a request with these header lines; returns the status, and the whole response.
fn ask(address: &str, request: &str, headers: &[&str]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    write!(stream, "{request} HTTP/1.1\r\n{headers}Content-Length: 1\r\nConnection: close\r\n\r\nx").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer)
}

const REFUSED: [(&[&str], &str); 6] = [
    (&["Host: evil.example"], "--allow-host"),
    (&["Host: localhost.evil.example:80"], "--allow-host"),
    (&["Host: localhost", "Origin: http://evil.example"], "--allow-origin"),
    (&["Host: localhost", "Origin: null"], "--allow-origin"),
    (&["Host: localhost", "Sec-Fetch-Site: cross-site"], "--allow-origin"),
    (&["Host: localhost", "Sec-Fetch-Site: same-site"], "--allow-origin"),
];

/// Checks the requests that every program refuses, and those that it accepts. `body` is how the
/// body of a refusal begins.
fn check(address: &str, request: &str, body: &str, accepted: &[&[&str]]) {
    for (headers, flag) in REFUSED {
        let (status, answer) = ask(address, request, headers);
        let (_, refusal) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(status, 403, "{request} {headers:?}: {answer}");
        assert!(refusal.starts_with(body) && refusal.contains(flag), "{request} {headers:?}: {refusal}");
        assert_eq!(refusal.trim_end().lines().count(), 1, "{refusal}");
    }
    let port = address.rsplit(':').next().unwrap();
    let own = format!("Host: localhost:{port}");
    let page = format!("Origin: http://localhost:{port}");
    let always: [&[&str]; 4] =
        [&["Host: 10.0.0.1"], &[&own], &[&own, &page, "Sec-Fetch-Site: same-origin"], &["Host: x.localhost"]];
    for headers in always.iter().chain(accepted) {
        let (status, answer) = ask(address, request, headers);
        assert_eq!(status, 200, "{request} {headers:?}: {answer}");
    }
}

#[test]
fn the_broker_refuses_foreign_hosts_and_pages() {
    let broker = Nsqd::embedded(&[
        "--broadcast-address=nsqd-1.example",
        "--allow-host=queue.example,other.example",
        "--allow-origin=http://pages.example",
    ]);
    let host_name = format!("Host: {}:4151", nix::unistd::gethostname().unwrap().to_string_lossy());
    let accepted: [&[&str]; 5] = [
        &[&host_name],
        &["Host: NSQD-1.example:4151"],
        &["Host: queue.example"],
        &["Host: other.example"],
        &["Host: localhost", "Origin: http://pages.example", "Sec-Fetch-Site: cross-site"],
    ];
    check(&broker.http(), "POST /pub?topic=foo", r#"{"message":""#, &accepted);
    assert_eq!(broker.published("foo"), 4 + 5, "what was refused was not published");
    let (_, readable) = ask(&broker.http(), "GET /stats", &["Host: localhost", "Origin: http://pages.example"]);
    assert!(readable.contains("Access-Control-Allow-Origin: http://pages.example\r\n"), "{readable}");
    assert!(readable.contains("Vary: Origin\r\n"), "{readable}");
}

#[test]
fn the_gateway_refuses_foreign_hosts_and_pages() {
    needs!("nsqd");
    let nsqd = Nsqd::start();
    let gateway = Gateway::start(&nsqd, "--allow-host queue.example --allow-origin https://pages.example");
    let accepted: [&[&str]; 2] =
        [&["Host: queue.example"], &["Host: localhost", "Origin: https://pages.example", "Sec-Fetch-Site: cross-site"]];
    check(&gateway.address, "POST /streams/s", r#"{"error":""#, &accepted);
    assert_eq!(nsqd.published("s"), 4 + 2);
    assert_eq!(gateway.metric("refused_total"), REFUSED.len() as u64);
    assert_eq!(gateway.program.times_said("HTTP request refused"), 1, "the log names the first");
    let asks = ["Host: localhost", "Origin: https://pages.example", "Access-Control-Request-Method: POST"];
    assert_eq!(ask(&gateway.address, "OPTIONS /streams/s", &asks).0, 204);
}

#[test]
fn wakeup_and_node_refuse_foreign_hosts_and_pages() {
    needs!("nsqd");
    let (nsqd, doors) = (Nsqd::start(), Doors::new(&[]));
    let wakeup = doors.wakeup(&nsqd, "--listen 127.0.0.1:0 --allow-host wakeup.example").start();
    let told = Told::by(&wakeup);
    check(told.address(), "GET /metrics", "", &[&["Host: wakeup.example"]]);
    let args = format!("node --mport 0 --nsqd-tcp-address {} --nsqd-http-address {}", nsqd.tcp(), nsqd.http());
    let node = mqueue(&format!("{args} --allow-host node.example")).start();
    let told = Told::by(&node);
    check(told.address(), "GET /debug/vars", "", &[&["Host: node.example"]]);
}

#[test]
fn the_metrics_of_every_command_are_for_own_hosts_only() {
    needs!("nsqd");
    let (nsqd, folder) = (Nsqd::start(), tempfile::tempdir().unwrap());
    let gateway = Gateway::start(&nsqd, "");
    let socket = folder.path().join("in.sock");
    let [broker, listen] =
        [format!("--nsqd-tcp-address {}", nsqd.tcp()), "--listen 127.0.0.1:0 --allow-host metrics.example".to_owned()];
    for command in [
        format!("producer --stream a {broker} {listen}"),
        format!("consumer --stream a --group g {broker} {listen}"),
        format!("stage --from a --group h --to b {broker} {listen}"),
        format!("node --mport 0 {broker} --nsqd-http-address {} {listen}", nsqd.http()),
        format!("worker --queue http://{} {listen}", gateway.address),
        format!(
            "ingest --listen unix:{} --to a {broker} --metrics-{}",
            socket.display(),
            listen.trim_start_matches("--")
        ),
    ] {
        let program = mqueue(&command).start();
        let told = Told::metrics_of(&program);
        check(told.address(), "GET /metrics", "", &[&["Host: metrics.example"]]);
    }
}

#[test]
fn a_unix_socket_has_no_foreign_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http");
    let flags = format!("broker --memory --tcp-address 127.0.0.1:0 --http-address unix:{}", path.display());
    let broker = mqueue(&flags).start();
    broker.wait_to_say("HTTP: listening on");
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /ping HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn invalid_hosts_and_origins_are_refused_with_the_allowed_forms() {
    for (flag, words) in [
        ("--allow-host=queue.example:80", "without a port"),
        ("--allow-host=http://queue.example", "without a port"),
        ("--allow-origin=*", "https://HOST[:PORT]"),
        ("--allow-origin=pages.example", "https://HOST[:PORT]"),
    ] {
        for command in ["broker", "gateway", "wakeup", "node"] {
            let refused = mqueue(command).arg(flag).run();
            assert!(refused.code == Some(2) && refused.stderr.contains(words), "{command} {flag}: {}", refused.stderr);
        }
    }
}

//! The HTTP API: status, content type and body of each response.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::compare;
use crate::support::{CONFIG_OPTIONS, Client, Nsqd, needs, wait_until};

type Request = (&'static str, &'static str, &'static str);

/// Sends a request, head and body, and records status, the headers that clients heed, and the body.
fn play(broker: &Nsqd, (method, path, body): &Request) -> String {
    let head = format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = connect(broker);
    // a request refused for its size may not be read to its end
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    assert!(end.is_ok() || !answer.is_empty(), "{method} {path}: it answers: {end:?}");
    told(&String::from_utf8_lossy(&answer))
}

fn connect(broker: &Nsqd) -> TcpStream {
    let stream = TcpStream::connect(broker.http()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a valid timeout");
    stream
}

fn told(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    let mut headers: Vec<&str> = head.lines().skip(1).collect();
    headers
        .retain(|header| ["Content-Type", "X-Nsq-Content-Type", "Allow"].iter().any(|name| header.starts_with(name)));
    headers.sort_unstable();
    format!("{status} {headers:?} {}", masked(body))
}

/// Masks what differs between processes: build, start time, host, memory and peers' ports.
fn masked(body: &str) -> String {
    const OWN: [&str; 6] = ["start_time", "connect_ts", "remote_address", "http_port", "tcp_port", "broadcast_address"];
    let mut body = body.to_owned();
    for name in OWN.iter().map(|name| format!("\"{name}\":")) {
        let parts: Vec<&str> = body.split(&name).collect();
        let rest = parts[1..].iter().map(|part| &part[part.find([',', '}']).expect("JSON goes on")..]);
        body = std::iter::once(parts[0]).chain(rest).collect::<Vec<_>>().join(&name);
    }
    if let Some((head, memory)) = body.split_once(r#""memory":{"#) {
        let (memory, rest) = memory.split_once('}').expect("an object");
        let names = memory.replace(|c: char| c.is_ascii_digit(), "");
        body = format!("{head}memory of {names}{rest}");
    }
    // nsqd does not report its files
    if let Some((head, log)) = body.split_once(r#","log":{"#) {
        let (_, rest) = log.split_once('}').expect("an object");
        body = format!("{head}{rest}");
    }
    // nor the memory of messages besides their bodies
    for name in [r#","index_bytes":"#, r#","max_index_bytes":"#] {
        if let Some((head, index)) = body.split_once(name) {
            body = format!("{head}{}", index.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
    }
    // nor the age of the oldest message
    while let Some((head, age)) = body.split_once(r#","oldest_ms":"#) {
        body = format!("{head}{}", age.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    let lines = body.split_inclusive('\n').map(|line| match line.split_once(' ') {
        Some(("nsqd", _)) => "nsqd\n".to_owned(),
        Some((name @ ("start_time" | "uptime"), _)) => format!("{name}\n"),
        _ if line.contains('\t') => line.split_once('\t').expect("a tab").0.to_owned() + "\n",
        _ if line.contains("[V2 ") => masked_client(line),
        _ => line.to_owned(),
    });
    lines.collect()
}

/// Masks the port and the connection time of a client in the text of `/stats`.
fn masked_client(line: &str) -> String {
    let (before, after) = line.split_once(':').expect("a port");
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    let (after, _) = after.split_once("connected: ").expect("since when");
    format!("{before}:{after}\n")
}

#[test]
fn http_requests_are_answered_like_nsqd() {
    needs!("nsqd");
    let mut requests: Vec<Request> = vec![
        ("GET", "/ping", ""),
        ("POST", "/ping", ""),
        ("HEAD", "/ping", ""),
        ("GET", "/", ""),
        ("GET", "/nothing", ""),
        ("POST", "/pub", "x"),
        ("POST", "/pub?topic=", "x"),
        ("POST", "/pub?topic=a$", "x"),
        ("POST", "/pub?topic=a", ""),
        ("POST", "/pub?topic=a", "x"),
        ("GET", "/pub?topic=a", ""),
        ("POST", "/pub?topic=a&defer=x", "x"),
        ("POST", "/pub?topic=a&defer=-1", "x"),
        ("POST", "/pub?topic=a&defer=3600001", "x"),
        ("POST", "/mpub?topic=a", "x\n\ny\n"),
        ("POST", "/mpub?topic=a", ""),
        ("POST", "/mpub?topic=a&binary=true", "x"),
        ("POST", "/mpub?topic=a&binary=no", "x"),
        ("GET", "/stats?format=json&topic=none", ""),
        ("POST", "/stats", ""),
        ("POST", "/topic/create?topic=b%23ephemeral", ""),
        ("POST", "/topic/delete?topic=b%23ephemeral", ""),
        ("GET", "/config/nothing", ""),
        ("POST", "/info", ""),
        ("PUT", "/pub?topic=a", "x"),
        ("OPTIONS", "/pub", ""),
        ("OPTIONS", "/stats", ""),
        ("OPTIONS", "/config/log_level", ""),
        ("OPTIONS", "/nothing", ""),
        ("DELETE", "/ping", ""),
        ("PATCH", "/config/log_level", "x"),
        ("HEAD", "/stats", ""),
        ("GET", "/info", ""),
        ("GET", "/stats?format=xml", ""),
        ("GET", "/stats?include_clients=x&format=json", ""),
        ("GET", "/stats?include_mem=x&format=json", ""),
        ("PUT", "/config/log_level", "debug"),
        ("GET", "/config/log_level", ""),
        ("PUT", "/config/log_level", "INFO"),
        ("PUT", "/config/log_level", "loud"),
        ("PUT", "/config/log_level", ""),
        ("PUT", "/config/mem_queue_size", "5"),
        ("PUT", "/config/nothing", "5"),
        ("PUT", "/config/nsqlookupd_tcp_addresses", "x"),
        ("PUT", "/config/nsqlookupd_tcp_addresses", "[]"),
        ("GET", "/config/nsqlookupd_tcp_addresses", ""),
    ];
    for option in CONFIG_OPTIONS {
        requests.push(("GET", Box::leak(format!("/config/{option}").into_boxed_str()), ""));
    }
    // sizes at the limit, and one above: 1 MiB for a message, 5 MiB for a body
    for (path, size) in [("/pub?topic=a", 1 << 20), ("/mpub?topic=a", 1 << 20), ("/mpub?topic=a", 5 << 20)] {
        for size in [size, size + 1] {
            let text: &'static str = Box::leak("x".repeat(size).into_boxed_str());
            let lines = format!("{}\n", "x".repeat(62)).repeat(size.div_ceil(63));
            let lines: &'static str = Box::leak(lines[..size].to_owned().into_boxed_str());
            requests.extend([("POST", path, text), ("POST", path, lines)]);
        }
    }
    for path in ["create", "pause", "unpause", "empty", "delete"] {
        for (kind, query) in [
            ("topic", ""),
            ("topic", "?topic=a$"),
            ("topic", "?topic=missing"),
            ("topic", "?topic=a"),
            ("channel", ""),
            ("channel", "?topic=a"),
            ("channel", "?topic=a&channel=c$"),
            ("channel", "?topic=c&channel=c"),
        ] {
            let target: &'static str = Box::leak(format!("/{kind}/{path}{query}").into_boxed_str());
            requests.extend([("POST", target, ""), ("GET", target, "")]);
        }
    }
    compare(&requests, |request| format!("{:.200}", format!("{request:?}")), play);
}

/// Transfer of bodies, and reuse of connections.
#[test]
fn http_protocol_details_equal_nsqd() {
    needs!("nsqd");
    let chunked = "POST /pub?topic=chunked HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n";
    let scripts = [
        "GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\nGET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /ping HTTP/1.0\r\n\r\n".to_owned(),
        format!("{chunked}Connection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        format!("{chunked}\r\n2\r\nhi\r\n0\r\n\r\nGET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        format!("{chunked}Connection: close\r\n\r\nzz\r\nhi\r\n0\r\n\r\n"),
        "POST /pub?topic=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\nhi".to_owned(),
        "POST /pub?topic=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\nhi".to_owned(),
        "POST /pub?topic=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        "GET /ping HTTP/1.1\r\n\r\n".to_owned(),
        "GET /nothing HTTP/1.1\r\n\r\n".to_owned(),
        "GET http://localhost/ping HTTP/1.1\r\n\r\n".to_owned(),
        "GET /ping HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /ping HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        "GET /ping HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(),
        "GET /ping HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
        "GET /ping HTTP/1.0\r\nHost: a/b\r\n\r\n".to_owned(),
        "GET # HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "OPTIONS *# HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET http://localhost/ping#y HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        "POST /pub?topic=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\nConnection: close\r\n\r\n".to_owned(),
        "POST /mpub?topic=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5242881\r\nConnection: close\r\n\r\n".to_owned(),
        // a line of 1 MiB and a byte
        format!(
            "POST /mpub?topic=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\nConnection: close\r\n\r\n{}",
            "x".repeat(1_048_577)
        ),
        // what is in a body is no first line
        "POST /pub?topic=x#ephemeral HTTP/1.1\nHost: localhost\nContent-Length: 11\n\nG #\r\n\r\nG #\n\
         GET /ping#1 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /ping?#2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            .to_owned(),
        format!(
            "{chunked}\r\n2;#=#\r\n##\r\n4\r\n\r\n\r\n\r\n0\r\nX: #\r\n\r\n\
             GET /ping#1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ),
    ];
    compare(
        &scripts,
        |script| format!("{:.300}", script.escape_debug().to_string()),
        |broker, script| {
            let mut stream = connect(broker);
            stream.write_all(script.as_bytes()).expect("it reads");
            let mut answers = String::new();
            stream.read_to_string(&mut answers).expect("it answers");
            let statuses = answers.lines().filter_map(|line| line.strip_prefix("HTTP/1.")?.get(2..));
            statuses.collect::<Vec<_>>().join(", ")
        },
    );
}

/// Node's and Python's HTTP clients send a `#` unescaped: it is part of the name, not the end of
/// the request's target.
#[test]
fn an_unescaped_hash_is_part_of_the_request_target() {
    needs!("nsqd");
    let durable = [("POST", "/topic/create?topic=foo", ""), ("POST", "/channel/create?topic=foo&channel=c", "")];
    let mut requests: Vec<Request> = vec![
        ("GET", "/ping#", ""),
        ("GET", "/ping#x?y", ""),
        ("GET", "/ping?#x", ""),
        ("GET", "/#", ""),
        ("GET", "/config/log_level#x", ""),
        ("PUT", "/config/log_level#x", "debug"),
        ("POST", "/pub?topic=foo#bar", "x"),
        ("POST", "/pub?topic=foo#ephemeral", "x"),
        ("POST", "/mpub?topic=foo#ephemeral", "x\ny"),
        ("POST", "/mpub?topic=foo#ephemeral&binary=true", "\0\0\0\u{1}\0\0\0\u{1}x"),
        ("POST", "/topic/create?topic=foo#%zz", ""),
    ];
    for verb in ["create", "pause", "unpause", "empty", "delete"] {
        for query in [
            "topic?topic=foo#ephemeral",
            "topic?topic=foo#other",
            "channel?topic=foo#ephemeral&channel=c#ephemeral",
            "channel?topic=foo#ephemeral&channel=c",
            "channel?topic=foo&channel=c#ephemeral",
            "channel?topic=foo&channel=c#other",
        ] {
            let (kind, query) = query.split_once('?').expect("a query");
            let target: &'static str = Box::leak(format!("/{kind}/{verb}?{query}").into_boxed_str());
            requests.push(("POST", target, ""));
            requests.push(("GET", "/stats?format=json&include_mem=false&topic=foo", ""));
        }
    }
    for filter in
        ["topic=foo#ephemeral", "topic=foo&channel=c#ephemeral", "channel=c#other", "topic=foo#other&channel=c"]
    {
        let target: &'static str = Box::leak(format!("/stats?format=json&include_mem=false&{filter}").into_boxed_str());
        requests.push(("GET", target, ""));
    }
    let all: Vec<Request> = durable.into_iter().chain(requests).collect();
    compare(&all, |request| format!("{request:?}"), play);
}

/// `/stats` of a populated broker, with all filters, as JSON and as text.
#[test]
fn statistics_equal_nsqd() {
    needs!("nsqd");
    let queries = [
        "",
        "?topic=alpha",
        "?topic=alpha&channel=one",
        "?topic=none",
        "?channel=one",
        "?channel=none",
        "?include_clients=false",
        "?include_mem=false",
    ];
    let scenes = ["text", "json"].map(|format| (format, queries));
    compare(
        &scenes,
        |(format, _)| (*format).to_owned(),
        |broker, (format, queries)| {
            let clients = populate(broker);
            let mut all = String::new();
            for query in queries {
                let separator = if query.is_empty() { '?' } else { '&' };
                let target = Box::leak(format!("/stats{query}{separator}format={format}").into_boxed_str());
                all += &format!("{query}: {}\n", play(broker, &("GET", target, "")));
            }
            drop(clients);
            broker.delete_topic("alpha");
            broker.delete_topic("beta");
            all
        },
    );
}

/// Two topics: one with a paused channel and one with a consumer that has a message, one without a
/// channel; and a producer.
fn populate(broker: &Nsqd) -> [Client; 2] {
    broker.create("alpha", "one");
    broker.post("/channel/pause?topic=alpha&channel=one");
    let wishes = r#"{"client_id":"id","hostname":"host","user_agent":"agent","sample_rate":0}"#;
    let mut consumer = Client::subscribed(broker, "alpha", "two%23ephemeral".replace("%23", "#").as_str(), wishes);
    consumer.say("RDY 1\n");
    let (mut producer, _) = Client::identified(broker, wishes);
    // to one topic only: of several, nsqd reports a random one
    for _ in 0..3 {
        producer.say("PUB alpha\n\0\0\0\u{5}hello");
        assert_eq!(producer.frame(), "0 OK");
    }
    broker.publish("beta", b"hello");
    broker.publish_later("alpha", b"later", 100_000);
    assert_eq!(consumer.messages(1).len(), 1);
    // nsqd's goroutines take a moment
    wait_until("all is where it stays", || {
        let stats = broker.channel("alpha", "one");
        (stats.depth, stats.deferred_count) == (3, 1) && broker.channel("alpha", "two#ephemeral").deferred_count == 1
    });
    [consumer, producer]
}

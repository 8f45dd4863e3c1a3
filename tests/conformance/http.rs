//! The HTTP API: status, type and body of each answer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::compare;
use crate::support::Nsqd;
use crate::support::needs;

type Request = (&'static str, &'static str, &'static str);

/// Status, the headers that clients heed, and the body.
fn play(broker: &Nsqd, (method, path, body): &Request) -> String {
    let mut stream = TcpStream::connect(broker.http()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
    write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    let mut headers: Vec<String> = head.lines().skip(1).map(str::to_ascii_lowercase).collect();
    headers.retain(|header| header.starts_with("content-type") || header.starts_with("x-nsq-content-type"));
    headers.sort();
    format!("{status} {headers:?} {}", masked(body))
}

/// Without what is each process's own: its start, and its memory.
fn masked(body: &str) -> String {
    let Some((head, rest)) = body.split_once(r#""start_time":"#) else { return body.to_owned() };
    let topics = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let (topics, memory) = topics.split_once(r#""memory":{"#).expect("memory is in the statistics");
    let (_, rest) = memory.split_once('}').expect("an object");
    format!("{head}{topics}{rest}")
}

#[test]
fn requests_are_answered_as_nsqd_answers_them() {
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
    ];
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
    compare(&requests, |request| format!("{request:?}"), play);
}

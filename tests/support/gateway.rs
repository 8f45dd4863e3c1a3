//! `mqueue gateway`, and clients of it on bare sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Mqueue, Nsqd, PATIENCE, mqueue, wait_until};

/// A gateway on a port of the system's choice.
pub struct Gateway {
    pub program: Mqueue,
    scheme: String,
    pub address: String,
}

/// An answer of the gateway.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Gateway {
    /// Starts a gateway on this nsqd, with further flags.
    pub fn start(nsqd: &Nsqd, flags: &str) -> Self {
        Self::start_on(nsqd, "127.0.0.1:0", flags)
    }

    /// Starts a gateway on this address.
    pub fn start_on(nsqd: &Nsqd, listen: &str, flags: &str) -> Self {
        Self::with(&format!("--listen {listen} --nsqd-tcp-address {} {flags}", nsqd.tcp()))
    }

    /// Starts a gateway with these flags alone.
    pub fn with(flags: &str) -> Self {
        Self::of(mqueue(&format!("gateway {flags}")).start())
    }

    /// Waits until this gateway listens.
    pub fn of(program: Mqueue) -> Self {
        program.wait_to_say("listening on http");
        let stderr = program.stderr();
        let url = stderr.split("listening on ").nth(1).and_then(|rest| rest.lines().next()).expect("it says where");
        let (scheme, address) = url.split_once("://").expect("a URL");
        Self { scheme: scheme.to_owned(), address: address.to_owned(), program }
    }

    /// Returns the gateway's URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"")
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.ask("POST", path, "", body)
    }

    /// Publishes lines.
    pub fn publish_lines(&self, stream: &str, lines: &[u8]) -> Answer {
        self.ask("POST", &format!("/streams/{stream}"), "Content-Type: application/x-ndjson\r\n", lines)
    }

    /// Sends one request on a connection of its own, with further header lines.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let mut stream =
            self.connect(&format!("{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n{headers}\r\n"));
        // the gateway may have refused already
        let _ = stream.write_all(body);
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {read:?} {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
        Answer { status, head: head.to_ascii_lowercase(), body }
    }

    /// Connects a worker on a bare socket; creates its group.
    pub fn worker(&self, stream: &str, group: &str, params: &str) -> Worker {
        self.worker_with(stream, group, params, "")
    }

    /// Connects a worker on a bare socket, with further header lines.
    pub fn worker_with(&self, stream: &str, group: &str, params: &str, headers: &str) -> Worker {
        let path = format!("/streams/{stream}/groups/{group}/jobs?create=true&{params}");
        let mut lines = BufReader::new(self.connect(&format!("GET {path} HTTP/1.0\r\n{headers}\r\n")));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).expect("it answers") > 0, "{head}");
        }
        assert!(head.contains(" 200 "), "{path}: {head}");
        Worker { lines }
    }

    /// Answers a job.
    pub fn answer(&self, job: &Value, verb: &str) -> Answer {
        self.post(&format!("/jobs/{}/{verb}", job["token"].as_str().expect("a job has a token")), b"")
    }

    /// Reads a metric.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").body;
        let text = text.as_str().expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("mqueue_gateway_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }

    /// Waits until a metric has this value.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, value: u64) {
        wait_until(&format!("{name} to be {value}"), || self.metric(name) == value);
    }

    fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a valid timeout");
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    }
}

/// A stream of jobs.
pub struct Worker {
    lines: BufReader<TcpStream>,
}

impl Worker {
    /// Reads the next job, past heartbeats; `None` at the end.
    pub fn job(&mut self) -> Option<Value> {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for a job");
            let line = self.line()?;
            if !line.trim().is_empty() {
                return Some(serde_json::from_str(&line).expect("a job is JSON"));
            }
        }
    }

    /// Reads the next line, heartbeats too; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        matches!(read, Ok(1..)).then_some(line)
    }

    /// Returns true if no unread data has arrived.
    pub fn has_nothing(&mut self) -> bool {
        let stream = self.lines.get_ref();
        stream.set_nonblocking(true).expect("it is a socket");
        let nothing = self.lines.buffer().is_empty() && self.lines.get_ref().peek(&mut [0]).is_err();
        self.lines.get_ref().set_nonblocking(false).expect("it is a socket");
        nothing
    }
}

impl Gateway {
    /// Sends a request on a connection, and reads nothing.
    pub fn worker_that_waits(&self, path: &str) -> TcpStream {
        self.connect(&format!("GET {path} HTTP/1.0\r\n\r\n"))
    }
}

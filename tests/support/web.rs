//! `mqueue web`, and viewers of its events on bare sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Mqueue, Nsqd, PATIENCE, mqueue};

/// A page on a port of the system's choice.
pub struct Web {
    pub program: Mqueue,
    pub address: String,
}

/// An answer of the page's server.
#[derive(Debug)]
pub struct WebAnswer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

/// A viewer's stream of events.
pub struct WebEvents(BufReader<TcpStream>);

impl Web {
    /// Starts a page of this nsqd, with further flags.
    pub fn start(nsqd: &Nsqd, flags: &str) -> Self {
        Self::with(&format!("--nsqd-http-address {} {flags}", nsqd.http()))
    }

    /// Starts a page with these flags.
    pub fn with(flags: &str) -> Self {
        Self::of(mqueue(&format!("web --listen 127.0.0.1:0 {flags}")).start())
    }

    /// Waits until this program serves a page.
    pub fn of(program: Mqueue) -> Self {
        program.wait_to_say("listening on http://");
        let said = program.stderr();
        let address = said.split("listening on http://").last().and_then(|rest| rest.split('/').next());
        Self { address: address.expect("a URL").to_owned(), program }
    }

    /// Returns the page's URL.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn get(&self, path: &str) -> WebAnswer {
        self.ask("GET", path, "", b"")
    }

    /// Posts JSON, with this token unless it is empty.
    pub fn post(&self, path: &str, token: &str, body: &Value) -> WebAnswer {
        let token = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        self.ask("POST", path, &format!("Content-Type: application/json\r\n{token}"), body.to_string().as_bytes())
    }

    /// Sends one request on a connection of its own, with further header lines.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> WebAnswer {
        let mut stream = self.connect();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n{headers}\r\n").expect("it reads");
        // the server may have refused already
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {read:?} {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        WebAnswer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// Connects a viewer.
    pub fn events(&self) -> WebEvents {
        let mut stream = self.connect();
        write!(stream, "GET /api/events HTTP/1.0\r\n\r\n").expect("it reads");
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).expect("it answers") > 0, "{head}");
        }
        assert!(head.contains(" 200 ") && head.contains("text/event-stream"), "{head}");
        WebEvents(lines)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a valid timeout");
        stream
    }
}

impl WebAnswer {
    /// Returns the body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }
}

impl WebEvents {
    /// Reads the next event: its name and its data; `None` at the end.
    pub fn next_event(&mut self) -> Option<(String, Value)> {
        let mut text = String::new();
        while !text.ends_with("\n\n") {
            if self.0.read_line(&mut text).expect("it is sent in time") == 0 {
                return None;
            }
        }
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let data = serde_json::from_str(field("data: ")).unwrap_or_else(|_| panic!("{text:?}"));
        Some((field("event: ").to_owned(), data))
    }

    /// Reads events until one has a stream that fulfils the condition; returns that stream.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            let (_, data) = self.next_event().expect("the stream goes on");
            let streams = data["streams"].as_array().cloned().unwrap_or_default();
            if let Some(found) = streams.into_iter().find(|stream| condition(stream)) {
                return found;
            }
        }
    }
}

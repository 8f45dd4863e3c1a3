//! An AUTH server as nsqd asks it: one secret, and what it grants.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Answers `GET /auth?…` until the test ends.
pub struct AuthServer {
    address: String,
    state: Arc<Mutex<State>>,
}

struct State {
    /// The JSON for the right secret.
    answer: String,
    /// The queries so far.
    asked: Vec<String>,
}

impl AuthServer {
    /// Grants everything for `secret`, and nothing for another one.
    pub fn start(secret: &str) -> Self {
        let everything = r#"{"ttl":3600,"identity":"me","identity_url":"","authorizations":[{"topic":".*","channels":[".*"],"permissions":["subscribe","publish"]}]}"#;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let state = Arc::new(Mutex::new(State { answer: everything.to_owned(), asked: Vec::new() }));
        let (secret, shared) = (format!("secret={secret}"), state.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
                let _ = reader.read_line(&mut line);
                let mut header = String::new();
                while reader.read_line(&mut header).is_ok_and(|count| count > 2) {
                    header.clear();
                }
                let mut state = shared.lock().expect("no panic");
                let query = line.split(['?', ' ']).nth(2).unwrap_or_default().to_owned();
                let is_right = query.split('&').any(|part| part == secret);
                state.asked.push(query);
                let body = if is_right { state.answer.clone() } else { r#"{"ttl":60,"authorizations":[]}"#.to_owned() };
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { address, state }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Changes what the right secret is granted.
    pub fn grant(&self, json: &str) {
        self.state.lock().expect("no panic").answer = json.to_owned();
    }

    /// The queries so far.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().expect("no panic").asked.clone()
    }
}

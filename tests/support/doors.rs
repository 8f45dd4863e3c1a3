//! Activation sockets of sleeping consumers, and `mqueue wakeup`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Mqueue, Nsqd, mqueue, wait_until};

/// A folder with listening sockets, in place of systemd's: connections are counted, and no unit is
/// started.
pub struct Doors {
    folder: tempfile::TempDir,
    open: RefCell<BTreeMap<String, (UnixListener, usize)>>,
}

impl Doors {
    /// Listens on these sockets.
    pub fn new(names: &[&str]) -> Self {
        let doors =
            Self { folder: tempfile::tempdir().expect("a temporary folder"), open: RefCell::new(BTreeMap::new()) };
        names.iter().for_each(|name| doors.open(name));
        doors
    }

    /// Listens on one more socket.
    pub fn open(&self, name: &str) {
        let listener = UnixListener::bind(self.at(name)).expect("a free name");
        listener.set_nonblocking(true).expect("a socket");
        self.open.borrow_mut().insert(name.to_owned(), (listener, 0));
    }

    /// Stops listening on a socket. Its file stays, as that of a failed unit does.
    pub fn close(&self, name: &str) {
        self.open.borrow_mut().remove(name);
    }

    /// Returns the path of a file in the folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the number of pokes of a socket so far.
    pub fn pokes(&self, name: &str) -> usize {
        let mut open = self.open.borrow_mut();
        let (listener, count) = open.get_mut(name).expect("it was opened");
        while listener.accept().is_ok() {
            *count += 1;
        }
        *count
    }

    /// Returns the number of pokes of each socket so far.
    pub fn all_pokes(&self) -> Vec<usize> {
        let names: Vec<String> = self.open.borrow().keys().cloned().collect();
        names.iter().map(|name| self.pokes(name)).collect()
    }

    /// Waits for one more poke of a socket.
    #[track_caller]
    pub fn wait_for_poke(&self, name: &str) {
        let before = self.open.borrow()[name].1;
        wait_until(&format!("a poke of {name}"), || self.pokes(name) > before);
    }

    /// Prepares `mqueue wakeup` for these sockets and this nsqd, with further arguments.
    pub fn wakeup(&self, nsqd: &Nsqd, args: &str) -> Mqueue {
        self.wakeup_by(&format!("--nsqd-http-address {} {args}", nsqd.http()))
    }

    /// Prepares `mqueue wakeup` for these sockets with these arguments.
    pub fn wakeup_by(&self, args: &str) -> Mqueue {
        mqueue(&format!("wakeup --socket-dir {} {args}", self.path().display()))
    }
}

/// The HTTP API of `mqueue wakeup --listen`, or of another command that serves metrics.
pub struct Told(String);

impl Told {
    /// Waits until wakeup listens.
    #[track_caller]
    pub fn by(wakeup: &Mqueue) -> Self {
        let mut address = None;
        wait_until("the address that it listens on", || {
            let stderr = wakeup.stderr();
            let rest = stderr.split_once("listening on http://").map(|(_, rest)| rest);
            address = rest.and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
            address.is_some()
        });
        Self(address.expect("waited for"))
    }

    /// Waits until a command serves its metrics.
    #[track_caller]
    pub fn metrics_of(program: &Mqueue) -> Self {
        let mut address = None;
        wait_until("the address of its metrics", || {
            let stderr = program.stderr();
            let line = stderr.lines().find(|line| line.contains("(/healthz, /metrics)"));
            let rest = line.and_then(|line| line.split_once("listening on http://"));
            address = rest.and_then(|(_, rest)| rest.split(' ').next()).map(str::to_owned);
            address.is_some()
        });
        Self(address.expect("waited for"))
    }

    /// The HTTP API at this address.
    pub fn at(address: &str) -> Self {
        Self(address.to_owned())
    }

    /// Returns the address.
    pub fn address(&self) -> &str {
        &self.0
    }

    /// Sends `GET path`; returns the status and the body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.0).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// Returns a group from `/state`.
    pub fn group(&self, stream: &str, group: &str) -> serde_json::Value {
        let (_, body) = self.get("/state");
        let state: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let groups = state["groups"].as_array().cloned().unwrap_or_default();
        groups.into_iter().find(|g| g["stream"] == stream && g["group"] == group).unwrap_or_default()
    }

    /// Reads a number from `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, body) = self.get("/metrics");
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in:\n{body}"))
    }

    /// Waits until a metric has this value.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, value: f64) {
        wait_until(&format!("{name} to be {value}"), || self.metric(name) == value);
    }

    /// Waits for `count` more polls.
    #[track_caller]
    pub fn wait_for_polls(&self, more: u32) {
        let polls = || self.metric("mqueue_wakeup_polls_total");
        let wanted = polls() + f64::from(more);
        wait_until(&format!("{more} polls"), || polls() >= wanted);
    }
}

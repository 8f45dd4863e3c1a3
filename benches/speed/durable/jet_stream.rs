//! nats-server with JetStream: its own `nats bench`, and a bare client for latencies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Entry;
use super::under_load::Load;
use crate::support::{peer, wait_until};

/// The stream and the durable consumer of the bare client.
const STREAM: &str = r#"{"name":"load","subjects":["load"],"retention":"workqueue","storage":"file"}"#;
const CONSUMER: &str =
    r#"{"stream_name":"load","config":{"durable_name":"g","ack_policy":"explicit","max_ack_pending":100000}}"#;
/// Messages asked for at a time.
const PULL: u32 = 1000;
/// Messages without an acknowledgement, where no rate is given.
const WINDOW: u64 = 2000;

/// A server with a folder of its own.
pub struct JetStream {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl JetStream {
    /// Returns an entry; `None` if nats-server or nats is missing.
    pub fn entry(name: &'static str, sync: &'static str, measure: fn(&Self) -> f64) -> Option<Entry> {
        Self::is_here().then(|| -> Entry { (name, Box::new(move || measure(&Self::start(sync)))) })
    }

    pub fn is_here() -> bool {
        let is_here = peer("nats-server").is_some() && peer("nats").is_some();
        if !is_here {
            println!("left out: nats-server and nats are missing: scripts/peers --nats");
        }
        is_here
    }

    pub fn start(sync: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = folder.path().join("nats.conf");
        let data = folder.path().join("data");
        let settings =
            format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {data:?}, sync_interval: {sync:?} }}\n");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(peer("nats-server").expect("it was found"));
        let child = command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("nats-server", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port, _folder: folder }
    }

    /// The rate that `nats bench js` says.
    fn bench(&self, args: &str) -> f64 {
        let mut command = Command::new(peer("nats").expect("it was found"));
        command.args(["--server", &format!("127.0.0.1:{}", self.port), "bench", "js"]).args(args.split(' '));
        let output = command.args(["--size=200", "--no-progress"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let rate = said.split(" msgs/sec").next().and_then(|text| text.rsplit(' ').next());
        let rate = rate.map(|digits| digits.replace(',', "")).and_then(|digits| digits.parse().ok());
        rate.unwrap_or_else(|| panic!("nats said: {said}{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// The rate of publishing: one at a time (sync), by pipelines (async), or by fast batches
    /// (fast).
    pub fn publish(&self, how: &str, batch: u32, clients: u32, count: u32) -> f64 {
        let batch = if how == "sync" { String::new() } else { format!(" --batch={batch}") };
        self.bench(&format!("pub {how} load --create --maxbytes=4GB --clients={clients} --msgs={count}{batch}"))
    }

    /// The rate of consuming what was published.
    pub fn consume(&self, batch: u32, clients: u32, count: u32) -> f64 {
        self.bench(&format!("consume --acks=explicit --batch={batch} --clients={clients} --msgs={count}"))
    }

    /// Publishes and consumes at once.
    pub fn load(&self, load: &Load) -> Vec<Duration> {
        let mut setup = Connection::open(self.port);
        setup.api("STREAM.CREATE.load", STREAM);
        setup.api("CONSUMER.DURABLE.CREATE.load.g", CONSUMER);
        let begun = Instant::now();
        let (published, is_done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let consumer = {
            let (port, published, is_done) = (self.port, published.clone(), is_done.clone());
            std::thread::spawn(move || consume(Connection::open(port), begun, &published, &is_done))
        };
        publish(Connection::open(self.port), begun, load, &published);
        is_done.store(true, Ordering::SeqCst);
        consumer.join().unwrap()
    }
}

impl Drop for JetStream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Publishes batches: each at its time, or the next one when few enough are unacknowledged. Each
/// body begins with the time at which it was due, in nanoseconds.
fn publish(mut connection: Connection, begun: Instant, load: &Load, published: &AtomicU64) {
    let mut acknowledgements = connection.reader();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let counter = acknowledged.clone();
    let reader = std::thread::spawn(move || {
        while let Some((_, _, body)) = acknowledgements.message() {
            assert!(!String::from_utf8_lossy(&body).contains("error"), "{}", String::from_utf8_lossy(&body));
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut sent = 0;
    while begun.elapsed() < load.duration {
        let due = match load.rate {
            Some(rate) => {
                let due = Duration::from_secs_f64(sent as f64 / rate);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
                due
            }
            None => {
                while sent - acknowledged.load(Ordering::SeqCst) > WINDOW - load.batch {
                    std::thread::yield_now();
                }
                begun.elapsed()
            }
        };
        let mut body = [b'x'; 200];
        body[..8].copy_from_slice(&u64::try_from(due.as_nanos()).unwrap().to_be_bytes());
        let mut out = Vec::new();
        for _ in 0..load.batch {
            connection.request(&mut out, "load", &body);
        }
        connection.stream.write_all(&out).unwrap();
        sent += load.batch;
        published.store(sent, Ordering::SeqCst);
    }
    wait_until("all acknowledgements", || acknowledged.load(Ordering::SeqCst) == sent);
    connection.stream.shutdown(std::net::Shutdown::Both).unwrap();
    reader.join().unwrap();
}

/// Consumes until all that was published has come; returns the times from due to handled.
fn consume(mut connection: Connection, begun: Instant, published: &AtomicU64, is_done: &AtomicBool) -> Vec<Duration> {
    let mut reader = connection.reader();
    let (mut times, mut wanted, mut out) = (Vec::new(), 0, Vec::new());
    loop {
        if wanted < PULL / 2 {
            let pull = format!("{{\"batch\":{PULL},\"expires\":1000000000}}");
            connection.request(&mut out, "$JS.API.CONSUMER.MSG.NEXT.load.g", pull.as_bytes());
            wanted += PULL;
        }
        // acknowledgements go out with what is read next
        if !out.is_empty() && reader.incoming.buffer().is_empty() {
            connection.stream.write_all(&out).unwrap();
            out.clear();
        }
        let (reply_to, has_status, body) = reader.message().expect("the connection stays");
        if reply_to.starts_with("$JS.ACK") {
            wanted -= 1;
            let due = u64::from_be_bytes(body[..8].try_into().unwrap());
            times.push(begun.elapsed().saturating_sub(Duration::from_nanos(due)));
            write!(out, "PUB {reply_to} 4\r\n+ACK\r\n").unwrap();
        } else if has_status {
            // a request to pull has ended, maybe with less
            wanted = 0;
        }
        if is_done.load(Ordering::SeqCst) && times.len() as u64 == published.load(Ordering::SeqCst) {
            connection.stream.write_all(&out).unwrap();
            return times;
        }
    }
}

/// A connection, with an inbox for all answers.
struct Connection {
    stream: TcpStream,
    inbox: String,
}

/// The reading half of a connection.
struct Incoming {
    incoming: BufReader<TcpStream>,
    outgoing: TcpStream,
}

impl Connection {
    fn open(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let inbox = format!("_INBOX.{}", stream.local_addr().unwrap().port());
        let hello = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}";
        stream.write_all(format!("{hello}\r\nSUB {inbox} 1\r\n").as_bytes()).unwrap();
        Self { stream, inbox }
    }

    fn reader(&self) -> Incoming {
        let clone = || self.stream.try_clone().unwrap();
        Incoming { incoming: BufReader::with_capacity(1 << 18, clone()), outgoing: clone() }
    }

    /// Appends a request whose answer comes to the inbox.
    fn request(&self, out: &mut Vec<u8>, subject: &str, body: &[u8]) {
        write!(out, "PUB {subject} {} {}\r\n", self.inbox, body.len()).unwrap();
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }

    /// Asks JetStream's API.
    fn api(&mut self, subject: &str, body: &str) {
        let mut out = Vec::new();
        self.request(&mut out, &format!("$JS.API.{subject}"), body.as_bytes());
        self.stream.write_all(&out).unwrap();
        let (_, has_status, body) = self.reader().message().expect("an answer");
        let text = String::from_utf8_lossy(&body);
        assert!(!has_status && !text.contains("\"error\""), "{subject}: {text}");
    }
}

impl Incoming {
    /// Reads the next message: the subject for an answer, whether it has a status in place of a
    /// body, and the body. `None` at the end.
    fn message(&mut self) -> Option<(String, bool, Vec<u8>)> {
        loop {
            let mut line = String::new();
            if self.incoming.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                // MSG subject sid [reply] size; HMSG subject sid [reply] header-size size
                kind @ ("MSG" | "HMSG") => {
                    let sizes = 1 + usize::from(kind == "HMSG");
                    let total: usize = words[words.len() - 1].parse().unwrap();
                    let reply_to = if words.len() == 4 + sizes { words[3].to_owned() } else { String::new() };
                    let mut body = vec![0; total + 2];
                    self.incoming.read_exact(&mut body).ok()?;
                    body.truncate(total);
                    return Some((reply_to, kind == "HMSG", body));
                }
                "PING" => self.outgoing.write_all(b"PONG\r\n").unwrap(),
                "-ERR" => panic!("nats-server said {line}"),
                _ => {}
            }
        }
    }
}

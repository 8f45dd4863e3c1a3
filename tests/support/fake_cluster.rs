//! Many fake nsqds in this process: real HTTP servers with the statistics of many streams, groups
//! and clients, for tests of what looks at a whole cluster.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The nsqds. They end with the tests' process.
pub struct FakeCluster {
    addresses: Vec<String>,
    shape: Arc<ClusterShape>,
}

/// The numbers of things, the same on every nsqd.
struct ClusterShape {
    streams: usize,
    groups: usize,
    clients: usize,
    started: Instant,
    /// Answered `/stats` and `/info`.
    stats: AtomicU64,
    infos: AtomicU64,
    connections: AtomicU64,
}

/// A request's path with its query.
struct FakeRequest {
    path: String,
    /// True if the client wants no further answer.
    is_last: bool,
}

impl FakeCluster {
    /// Starts nsqds that each have these streams, with these groups, with these clients.
    pub fn start(nsqds: usize, streams: usize, groups: usize, clients: usize) -> Self {
        let started = Instant::now();
        let (stats, infos, connections) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let shape = Arc::new(ClusterShape { streams, groups, clients, started, stats, infos, connections });
        let start = |number: usize| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("it listens").to_string();
            let shape = Arc::clone(&shape);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shape = Arc::clone(&shape);
                    shape.connections.fetch_add(1, Ordering::Relaxed);
                    std::thread::spawn(move || shape.serve(number, stream));
                }
            });
            address
        };
        let addresses = (0..nsqds).map(start).collect();
        Self { addresses, shape }
    }

    /// Returns all addresses, separated by commas.
    pub fn http(&self) -> String {
        self.addresses.join(",")
    }

    /// Returns the number of connections, and of answered requests for `/info` and `/stats`.
    pub fn served(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.shape.connections), of(&self.shape.infos), of(&self.shape.stats))
    }
}

impl ClusterShape {
    /// Answers requests until the client closes the connection.
    fn serve(&self, number: usize, stream: TcpStream) {
        let mut writer = stream.try_clone().expect("a socket");
        let _ = stream.set_nodelay(true);
        let mut reader = BufReader::new(stream);
        while let Some(request) = FakeRequest::read(&mut reader) {
            let body = self.answer(number, &request);
            let close = if request.is_last { "Connection: close\r\n" } else { "" };
            let head = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: {}\r\n\r\n", body.len());
            let sent = writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body.as_bytes()));
            if sent.is_err() || request.is_last {
                return;
            }
        }
    }

    fn answer(&self, number: usize, request: &FakeRequest) -> String {
        if request.path.starts_with("/info") {
            self.infos.fetch_add(1, Ordering::Relaxed);
            return format!(
                r#"{{"version":"1.3.0","broadcast_address":"nsqd{number}","hostname":"nsqd{number}","http_port":4151,"tcp_port":4150,"start_time":1795213597}}"#
            );
        }
        if request.path.starts_with("/stats") {
            self.stats.fetch_add(1, Ordering::Relaxed);
            return self.stats(number, request);
        }
        "OK".to_owned()
    }

    fn stats(&self, number: usize, request: &FakeRequest) -> String {
        let mut text = r#"{"version":"1.3.0","health":"OK","start_time":1795213597,"topics":["#.to_owned();
        let wanted = request.value("topic");
        let with_clients = request.value("include_clients") != Some("false");
        // 10 messages a second in each stream
        let published = self.started.elapsed().as_millis() as u64 / 100 + 1000;
        let mut comma = "";
        for stream in 0..self.streams {
            let name = format!("stream-of-orders-{stream:04}");
            if wanted.is_some_and(|wanted| wanted != name) {
                continue;
            }
            let _ = write!(text, r#"{comma}{{"topic_name":"{name}","channels":["#);
            comma = ",";
            for group in 0..self.groups {
                let before = if group == 0 { "" } else { "," };
                let depth = (stream + number + group) % 50;
                let _ = write!(
                    text,
                    r#"{before}{{"channel_name":"group-{group}","depth":{depth},"backend_depth":0,"in_flight_count":3,"deferred_count":2,"message_count":{published},"requeue_count":7,"timeout_count":1,"client_count":{},"clients":"#,
                    self.clients
                );
                if with_clients {
                    self.clients(&mut text)
                } else {
                    text.push_str("null")
                }
                text.push_str(r#","paused":false,"e2e_processing_latency":{"count":0,"percentiles":null}}"#);
            }
            let _ = write!(
                text,
                r#"],"depth":0,"backend_depth":0,"message_count":{published},"message_bytes":{},"paused":false,"e2e_processing_latency":{{"count":0,"percentiles":null}}}}"#,
                published * 100
            );
        }
        text + r#"],"producers":[]}"#
    }

    fn clients(&self, text: &mut String) {
        text.push('[');
        for client in 0..self.clients {
            let before = if client == 0 { "" } else { "," };
            let _ = write!(
                text,
                r#"{before}{{"client_id":"worker-{client}","hostname":"worker-{client}.example.org","version":"V2","remote_address":"10.0.0.1:{}","state":3,"ready_count":1,"in_flight_count":{},"message_count":50,"finish_count":49,"requeue_count":0,"connect_ts":1795213598,"sample_rate":0,"deflate":false,"snappy":false,"user_agent":"mqueue/0.1.0","tls":false,"tls_cipher_suite":"","tls_version":"","tls_negotiated_protocol":"","tls_negotiated_protocol_is_mutual":false}}"#,
                10_000 + client,
                client % 2
            );
        }
        text.push(']');
    }
}

impl FakeRequest {
    /// Reads a request; `None` at the end of the connection.
    fn read(reader: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut first = String::new();
        reader.read_line(&mut first).ok().filter(|count| *count > 0)?;
        let path = first.split(' ').nth(1)?.to_owned();
        let (mut length, mut is_last) = (0, false);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            is_last |= line == "connection: close";
            length = line.strip_prefix("content-length:").map_or(length, |count| count.trim().parse().unwrap_or(0));
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        Some(Self { path, is_last })
    }

    /// Returns a value of the query.
    fn value(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

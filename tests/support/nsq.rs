//! Real nsqd and nsqlookupd, and the embedded broker in nsqd's place.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mqueue::proto::stats::{ChannelStats, Stats};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_until;

/// Finds an NSQ program: in target/peers, or on PATH.
pub fn peer(program: &str) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers").join(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::iter::once(built).chain(std::env::split_paths(&path).map(|folder| folder.join(program)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

/// Finds a server's program; mqueue is the program under test.
fn program(name: &str) -> PathBuf {
    if name == "mqueue" { super::program() } else { peer(name).expect("needs! checked it") }
}

/// A program that listens on a TCP and an HTTP port, and logs both to stderr.
struct Server {
    program: &'static str,
    args: Vec<String>,
    /// Limits on open files, soft and hard, unless they are those of the tests.
    files: Option<(u32, u32)>,
    child: Option<Child>,
    tcp: u16,
    http: u16,
    /// 0 without TLS.
    https: u16,
}

impl Server {
    fn start(program: &'static str, args: Vec<String>) -> Self {
        Self::start_with_files(program, args, None)
    }

    fn start_with_files(program: &'static str, args: Vec<String>, files: Option<(u32, u32)>) -> Self {
        let mut server = Self { program, args, files, child: None, tcp: 0, http: 0, https: 0 };
        server.run();
        server
    }

    /// Prepares the program with its limits.
    fn command(&self) -> Command {
        let program = program(self.program);
        let Some((soft, hard)) = self.files else { return Command::new(program) };
        let mut shell = Command::new("sh");
        let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(program);
        shell
    }

    /// Starts the program, on the ports of its last run if there was one. A connection of another
    /// test may have one of these for a moment.
    fn run(&mut self) {
        let has_run = self.tcp != 0;
        wait_until("its ports to be free again", || {
            let log = self.try_run().err();
            if let Some(log) = &log {
                let is_in_use = has_run && log.contains("address already in use");
                assert!(is_in_use, "{} did not start:\n{log}", self.program);
            }
            log.is_none()
        });
    }

    /// Fails with its log if it ends.
    fn try_run(&mut self) -> Result<(), String> {
        let mut child = self
            .command()
            .args(&self.args)
            .arg(format!("--tcp-address=127.0.0.1:{}", self.tcp))
            .arg(format!("--http-address=127.0.0.1:{}", self.http))
            .stderr(Stdio::piped())
            .spawn()
            .expect("it is a program");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut log = String::new();
        let has_tls = self.args.iter().any(|arg| arg.starts_with("--tls-cert"));
        while self.tcp == 0
            || self.http == 0
            || (has_tls && self.https == 0)
            || !(log.contains("TCP: listening") && log.contains("HTTP: listening"))
        {
            let Some(Ok(line)) = lines.next() else {
                let _ = child.wait();
                return Err(log);
            };
            let port =
                || line.rsplit(':').next().and_then(|port| port.parse().ok()).expect("the line ends with a port");
            if line.contains("TCP: listening on") {
                self.tcp = port();
            } else if line.contains("HTTP: listening on") {
                self.http = port();
            } else if line.contains("HTTPS: listening on") {
                self.https = port();
            }
            log += &line;
            log.push('\n');
        }
        // keeps reading, so that the program never blocks
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("it was started");
        }
    }

    fn http(&self, method: &str, path: &str, body: &[u8]) -> String {
        request(&format!("127.0.0.1:{}", self.http), method, path, body)
    }
}

/// Sends GET or POST; returns the body of the answer.
pub fn request(address: &str, method: &str, path: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
    write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len()).expect("it reads");
    stream.write_all(body).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Sends GET; returns the body of the answer.
pub fn get(address: &str, path: &str) -> String {
    request(address, "GET", path, b"")
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Settings in `/config` that nsqd and the embedded broker answer alike.
pub const CONFIG_OPTIONS: [&str; 28] = [
    "mem_queue_size",
    "msg_timeout",
    "max_msg_timeout",
    "max_msg_size",
    "max_body_size",
    "max_req_timeout",
    "max_heartbeat_interval",
    "max_rdy_count",
    "max_output_buffer_size",
    "max_output_buffer_timeout",
    "min_output_buffer_timeout",
    "max_channel_consumers",
    "deflate",
    "snappy",
    "max_deflate_level",
    "tls_required",
    "tls_cert",
    "tls_key",
    "tls_client_auth_policy",
    "tls_root_ca_file",
    "statsd_address",
    "statsd_interval",
    "statsd_mem_stats",
    "statsd_udp_packet_size",
    "statsd_exclude_ephemeral",
    "e2e_processing_latency_window_time",
    "e2e_processing_latency_percentiles",
    "auth_http_addresses",
];

/// An nsqd with a data folder of its own.
pub struct Nsqd {
    server: Server,
    data: tempfile::TempDir,
}

impl Nsqd {
    /// Starts nsqd with its defaults.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts nsqd with further flags; with MQUEUE_TEST_BROKER=mqueue, `mqueue broker`.
    pub fn with(flags: &[&str]) -> Self {
        match std::env::var("MQUEUE_TEST_BROKER").as_deref() {
            Ok("mqueue") => Self::embedded(flags),
            Ok("nsqd") | Err(_) => Self::real(flags),
            Ok(other) => panic!("invalid MQUEUE_TEST_BROKER {other:?}: use nsqd or mqueue"),
        }
    }

    /// Starts the real nsqd, whatever MQUEUE_TEST_BROKER is.
    pub fn real(flags: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut args =
            vec![format!("--data-path={}", data.path().display()), "--broadcast-address=127.0.0.1".to_owned()];
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Self { server: Server::start("nsqd", args), data }
    }

    /// Starts `mqueue broker`, with its log in the data folder.
    pub fn embedded(flags: &[&str]) -> Self {
        Self::embedded_in(tempfile::tempdir().expect("a temporary folder"), flags)
    }

    /// Starts `mqueue broker` with its log in this folder.
    pub fn embedded_in(data: tempfile::TempDir, flags: &[&str]) -> Self {
        let path = format!("--data-path={}", data.path().display());
        let mut args = vec!["broker".to_owned(), path, "--broadcast-address=127.0.0.1".to_owned()];
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Self { server: Server::start("mqueue", args), data }
    }

    /// Starts `mqueue broker` with these limits on open files, soft and hard.
    pub fn embedded_with_files(files: (u32, u32), flags: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut args = vec!["broker".to_owned(), format!("--data-path={}", data.path().display())];
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Self { server: Server::start_with_files("mqueue", args, Some(files)), data }
    }

    /// Starts nsqd with a channel that exists from the start: nsqd checks timeouts and delays of a
    /// new channel only after up to 5 s (`QueueScanRefreshInterval`).
    pub fn with_channel(topic: &str, channel: &str) -> Self {
        let mut nsqd = Self::start();
        nsqd.create(topic, channel);
        nsqd.stop();
        nsqd.start_again();
        nsqd
    }

    /// Returns the data folder.
    pub fn data_path(&self) -> &Path {
        self.data.path()
    }

    /// `host:port` for the TCP protocol.
    pub fn tcp(&self) -> String {
        format!("127.0.0.1:{}", self.server.tcp)
    }

    /// Returns `host:port` of HTTP.
    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.server.http)
    }

    /// `https://host:port` for HTTP over TLS.
    pub fn https(&self) -> String {
        format!("https://127.0.0.1:{}", self.server.https)
    }

    /// Stops the server with SIGTERM; it keeps its messages.
    pub fn stop(&mut self) {
        self.server.end(Signal::SIGTERM);
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        self.server.end(Signal::SIGKILL);
    }

    /// Starts the server again, on the same ports and data.
    pub fn start_again(&mut self) {
        self.server.run();
    }

    /// Sends a signal (SIGSTOP, SIGCONT).
    pub fn signal(&self, signal: Signal) {
        self.server.signal(signal);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.child.as_ref().expect("it runs").id()
    }

    /// Publishes over HTTP.
    pub fn publish(&self, topic: &str, body: &[u8]) {
        assert_eq!(self.server.http("POST", &format!("/pub?topic={topic}"), body), "OK");
    }

    /// Publishes over HTTP, deferred by this many milliseconds.
    pub fn publish_later(&self, topic: &str, body: &[u8], millis: u32) {
        assert_eq!(self.server.http("POST", &format!("/pub?topic={topic}&defer={millis}"), body), "OK");
    }

    /// Posts to a path of the HTTP API that has no method here.
    pub fn post(&self, path: &str) -> String {
        self.server.http("POST", path, b"")
    }

    /// Lists the channels of a topic; none if there is no such topic.
    pub fn channels(&self, topic: &str) -> Vec<String> {
        let topics = self.stats().topics.into_iter().filter(|t| t.topic_name == topic);
        topics.flat_map(|t| t.channels).map(|c| c.channel_name).collect()
    }

    /// Returns true while wakeup listens to a topic.
    pub fn is_heard(&self, topic: &str) -> bool {
        self.channels(topic).iter().any(|channel| channel.starts_with("wakeup-"))
    }

    /// Publishes each line over HTTP.
    pub fn publish_lines(&self, topic: &str, lines: &[u8]) {
        assert_eq!(self.server.http("POST", &format!("/mpub?topic={topic}"), lines), "OK");
    }

    /// Creates a topic with a channel.
    pub fn create(&self, topic: &str, channel: &str) {
        self.server.http("POST", &format!("/topic/create?topic={topic}"), b"");
        self.server.http("POST", &format!("/channel/create?topic={topic}&channel={channel}"), b"");
    }

    /// Deletes a topic with all its channels and messages, if it exists.
    pub fn delete_topic(&self, topic: &str) {
        self.server.http("POST", &format!("/topic/delete?topic={topic}"), b"");
    }

    /// Returns the statistics, with clients.
    pub fn stats(&self) -> Stats {
        serde_json::from_str(&self.server.http("GET", "/stats?format=json", b"")).expect("nsqd sends JSON")
    }

    /// Reads a figure of the embedded broker's `/metrics`, rounded up; the name has no prefix.
    pub fn metric(&self, name: &str) -> u64 {
        let metrics = get(&self.http(), "/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("mqueue_broker_{name} ")));
        line.and_then(|value| value.parse::<f64>().ok()).expect("a number").ceil() as u64
    }

    /// Returns a channel's statistics; zeroes if there is no such channel.
    pub fn channel(&self, topic: &str, channel: &str) -> ChannelStats {
        let topics = self.stats().topics.into_iter().filter(|t| t.topic_name == topic);
        topics.flat_map(|t| t.channels).find(|c| c.channel_name == channel).unwrap_or_default()
    }

    /// Returns the number of messages published to a topic since nsqd started.
    pub fn published(&self, topic: &str) -> u64 {
        self.stats().topics.iter().filter(|t| t.topic_name == topic).map(|t| t.message_count).sum()
    }

    /// Waits until a channel has `count` consumers.
    #[track_caller]
    pub fn wait_for_clients(&self, topic: &str, channel: &str, count: i64) {
        wait_until(&format!("{count} consumers of {topic}/{channel}"), || {
            self.channel(topic, channel).client_count == count
        });
    }

    /// Waits until a channel has no message, neither waiting nor in flight nor deferred, and its
    /// topic has none that is still to come.
    ///
    /// A channel is empty also in the moment after it is made, before nsqd moves the topic's
    /// messages to it; so two readings in a row have to agree.
    #[track_caller]
    pub fn wait_for_empty(&self, topic: &str, channel: &str) {
        let mut before = None;
        wait_until(&format!("nothing left in {topic}/{channel}"), || {
            let now = self.counters_if_empty(topic, channel);
            now.is_some() && now == std::mem::replace(&mut before, now)
        });
    }

    /// Returns how many messages an empty topic and its empty channel have had.
    fn counters_if_empty(&self, topic: &str, channel: &str) -> Option<(u64, u64)> {
        let topic = self.stats().topics.into_iter().find(|it| it.topic_name == topic && it.depth == 0)?;
        let group = topic.channels.iter().find(|it| it.channel_name == channel)?;
        let left = group.depth + group.in_flight_count + group.deferred_count;
        (left == 0).then_some((topic.message_count, group.message_count))
    }
}

/// An nsqlookupd.
pub struct Lookupd(Server);

impl Lookupd {
    /// Starts nsqlookupd with its defaults.
    pub fn start() -> Self {
        Self(Server::start("nsqlookupd", Vec::new()))
    }

    /// Returns `host:port` for nsqds.
    pub fn tcp(&self) -> String {
        format!("127.0.0.1:{}", self.0.tcp)
    }

    /// Returns `host:port` of HTTP.
    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.0.http)
    }

    /// Stops the server.
    pub fn stop(&mut self) {
        self.0.end(Signal::SIGTERM);
    }

    /// Starts the server again, on the same ports.
    pub fn start_again(&mut self) {
        self.0.run();
    }
}

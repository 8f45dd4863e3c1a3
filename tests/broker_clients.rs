//! Other NSQ clients with the embedded broker: publish, defer, consume, touch, requeue, finish, with
//! and without TLS, compression and AUTH. All do the same work (tests/peers/client.*,
//! tests/peers/gonsq); an eavesdropper proves that none of them falls back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{AuthServer, Certificates, Eavesdropper, Nsqd, PATIENCE, peer, skip, wait_within};

const SECRET: &str = "open-sesame";
/// The beginning of each body.
const MARK: &str = "to be read";
/// The rest of each body, again and again.
const REPEATED: &str = " again";
/// Bodies on the line: four are published, and one of them is delivered twice.
const BODIES: usize = 9;

/// A broker for one kind of connection.
struct Server {
    name: String,
    broker: Nsqd,
    /// Asked for permissions, if the broker uses AUTH.
    auth: Option<AuthServer>,
    /// The client's files, and its secret, as fields of a mode.
    security: serde_json::Map<String, serde_json::Value>,
}

impl Server {
    fn start(certificates: &Certificates, tls: &str, auth: bool) -> Self {
        let auth = auth.then(|| AuthServer::start(SECRET));
        let mut flags = if tls == "plain" { Vec::new() } else { certificates.flags("server") };
        if tls != "plain" {
            flags.push("--tls-required=tcp-https".to_owned());
        }
        if tls == "mutual" {
            flags.push("--tls-client-auth-policy=require-verify".to_owned());
        }
        flags.extend(auth.as_ref().map(|server| format!("--auth-http-address={}", server.address())));
        let file = |name: &str| json!(certificates.file(name));
        let fields = [
            ("ca", (tls != "plain").then(|| file("ca.pem"))),
            ("cert", (tls == "mutual").then(|| file("client.pem"))),
            ("key", (tls == "mutual").then(|| file("client.key"))),
            ("secret", auth.is_some().then(|| json!(SECRET))),
        ];
        let security = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let name = format!("{tls}-{}", if auth.is_some() { "auth" } else { "open" });
        let broker = Nsqd::embedded(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        Self { name, broker, auth, security }
    }
}

/// A mode of a client: its topic, and the line it uses.
struct Mode {
    topic: String,
    line: Eavesdropper,
    is_tls: bool,
    is_compressed: bool,
    has_secret: bool,
}

/// Runs a client in all its modes at once. It must handle its four messages in each of them.
fn runs(name: &str, command: &mut Command, compressions: &[Option<&str>]) {
    let certificates = Certificates::new();
    let kinds = ["plain", "tls", "mutual"].into_iter().flat_map(|tls| [false, true].map(|auth| (tls, auth)));
    let servers: Vec<Server> = kinds.map(|(tls, auth)| Server::start(&certificates, tls, auth)).collect();
    let body = format!("{MARK}{}", REPEATED.repeat(1000));
    let mut modes = Vec::new();
    for (server, compression) in servers.iter().flat_map(|server| compressions.iter().map(move |c| (server, c))) {
        let line = Eavesdropper::start(server.broker.tcp());
        let topic = format!("{}-{}", server.name, compression.unwrap_or("whole"));
        let mut mode = server.security.clone();
        mode.extend(
            [("address", line.address()), ("topic", &topic), ("body", &body)].map(|(k, v)| (k.to_owned(), json!(v))),
        );
        mode.extend(compression.map(|compression| ("compression".to_owned(), json!(compression))));
        command.arg(serde_json::to_string(&mode).expect("it is JSON"));
        let (is_tls, has_secret) = (mode.contains_key("ca"), mode.contains_key("secret"));
        modes.push(Mode { topic, line, is_tls, is_compressed: compression.is_some(), has_secret });
    }
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it is here");
    wait_within(PATIENCE, "the client's end", || child.try_wait().expect("it was started").is_some());
    let said = std::io::read_to_string(child.stdout.take().expect("piped")).expect("UTF-8");
    for Mode { topic, line, is_tls, is_compressed, has_secret } in modes {
        let mut lines: Vec<_> = said.lines().filter_map(|line| line.strip_prefix(&format!("{topic} "))).collect();
        lines.sort_unstable();
        let expected = ["deferred 1 in time", "one 1 in time", "requeued 2 in time", "two 1 in time"];
        assert_eq!(lines, expected, "{name}, {topic}");
        // every upgrade is seen on the wire
        let marks = line.times_seen(MARK.as_bytes());
        let repeated = line.times_seen(REPEATED.repeat(10).as_bytes());
        match (is_tls, is_compressed) {
            (false, false) => assert_eq!((marks, repeated), (BODIES, BODIES * 991), "{name}, {topic}"),
            (false, true) => assert_eq!(repeated, 0, "{name}, {topic}"),
            (true, _) => assert_eq!((marks, line.times_seen(topic.as_bytes())), (0, 0), "{name}, {topic}"),
        }
        if is_tls && has_secret {
            assert_eq!(line.times_seen(SECRET.as_bytes()), 0, "{name}, {topic}");
        }
        // under TLS, only the length tells compression
        let bytes = line.total();
        assert_eq!(is_compressed, bytes < BODIES * body.len() / 2, "{name}, {topic}: {bytes} bytes");
    }
    for Server { name: server, broker, auth, .. } in servers {
        let stats = broker.stats();
        let left = stats.topics.iter().flat_map(|topic| &topic.channels);
        let left: i64 = left.map(|channel| channel.depth + channel.in_flight_count + channel.deferred_count).sum();
        assert_eq!((stats.topics.len(), left), (compressions.len(), 0), "{name}, {server}");
        let asked = auth.map(|auth| auth.asked()).unwrap_or_default();
        let named = asked.iter().filter(|query| query.contains("common_name=client")).count();
        assert_eq!(named, if server == "mutual-auth" { asked.len() } else { 0 }, "{name}, {server}");
    }
}

/// All compressions, or those without snappy if it could not be installed: then says so.
fn compressions(client: &str, has_snappy: bool) -> Vec<Option<&'static str>> {
    if !has_snappy {
        skip(&format!("{client} has no snappy (delete target/peers/{client}; scripts/clients fetches it)"));
    }
    let all = [None, Some("deflate"), Some("snappy")];
    all.into_iter().filter(|compression| has_snappy || *compression != Some("snappy")).collect()
}

fn missing(name: &str) {
    skip(&format!("{name} is missing (scripts/clients fetches it)"));
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}

#[test]
fn go_nsq_works_with_the_broker_in_every_mode() {
    let Some(program) = peer("gonsq") else { return missing("gonsq") };
    runs("gonsq", &mut Command::new(program), &compressions("gonsq", true));
}

#[test]
fn pynsq_works_with_the_broker_in_every_mode() {
    let python = peers().join("pynsq/bin/python");
    if !python.exists() {
        return missing("pynsq");
    }
    let has_snappy = Command::new(&python).args(["-c", "import snappy"]).output().is_ok_and(|ran| ran.status.success());
    runs("pynsq", Command::new(&python).arg(script("client.py")), &compressions("pynsq", has_snappy));
}

#[test]
fn nsqjs_works_with_the_broker_in_every_mode() {
    let modules = peers().join("nsqjs/node_modules");
    if !modules.exists() {
        return missing("nsqjs");
    }
    let has_snappy = modules.join("snappystream").exists();
    let mut node = Command::new("node");
    runs("nsqjs", node.arg(script("client.js")).env("NODE_PATH", &modules), &compressions("nsqjs", has_snappy));
}

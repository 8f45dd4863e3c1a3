//! Other NSQ clients with the embedded broker: publish, defer, consume, touch, requeue, finish,
//! with and without TLS, compression and AUTH. All do the same work (tests/peers/client.*,
//! tests/peers/gonsq); an eavesdropper proves that none of them falls back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mqueue::net::transport::Compression;

use crate::support::{Certificates, Eavesdropper, Mode, Nsqd, PATIENCE, SECRET, Tls, peer, skip, wait_within};

/// The beginning of each body.
const MARK: &str = "to be read";
/// The rest of each body, again and again.
const REPEATED: &str = " again";
/// Bodies on the line: four are published, and one of them is delivered twice.
const BODIES: usize = 9;

/// A client's connection in one mode.
struct Line {
    topic: String,
    mode: Mode,
    line: Eavesdropper,
}

/// Runs a client in all its modes at once. It must handle its four messages in each of them.
fn runs(name: &str, command: &mut Command, compressions: &[Option<Compression>]) {
    let certificates = Certificates::new();
    let body = format!("{MARK}{}", REPEATED.repeat(1000));
    let modes: Vec<_> = Mode::all().into_iter().filter(|mode| compressions.contains(&mode.compression)).collect();
    let (mut servers, mut lines) = (Vec::new(), Vec::new());
    for modes in modes.chunk_by(|a, b| (a.tls, a.auth) == (b.tls, b.auth)) {
        let server = modes[0].serve(&certificates, Nsqd::embedded);
        for mode in modes {
            let line = Eavesdropper::start(server.nsqd.tcp());
            let topic = format!("topic{}", lines.len());
            command.arg(mode.fields(&certificates, line.address(), &topic, &body));
            lines.push(Line { topic, mode: *mode, line });
        }
        servers.push((modes[0], server));
    }
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it is here");
    wait_within(PATIENCE, "the client's end", || child.try_wait().expect("it was started").is_some());
    let said = std::io::read_to_string(child.stdout.take().expect("piped")).expect("UTF-8");
    for Line { topic, mode, line } in lines {
        let mut lines: Vec<_> = said.lines().filter_map(|line| line.strip_prefix(&format!("{topic} "))).collect();
        lines.sort_unstable();
        let expected = ["deferred 1 in time", "one 1 in time", "requeued 2 in time", "two 1 in time"];
        assert_eq!(lines, expected, "{name}, {mode:?}");
        // every upgrade is seen on the wire
        let marks = line.times_seen(MARK.as_bytes());
        let repeated = line.times_seen(REPEATED.repeat(10).as_bytes());
        match (mode.tls, mode.compression) {
            (Tls::Off, None) => assert_eq!((marks, repeated), (BODIES, BODIES * 991), "{name}, {mode:?}"),
            (Tls::Off, Some(_)) => assert_eq!(repeated, 0, "{name}, {mode:?}"),
            _ => {
                let seen = [MARK, &topic, SECRET].map(|text| line.times_seen(text.as_bytes()));
                assert_eq!(seen, [0; 3], "{name}, {mode:?}");
            }
        }
        // under TLS, only the length tells compression
        let (bytes, is_compressed) = (line.total(), mode.compression.is_some());
        assert_eq!(is_compressed, bytes < BODIES * body.len() / 2, "{name}, {mode:?}: {bytes} bytes");
    }
    for (mode, server) in servers {
        let stats = server.nsqd.stats();
        let left = stats.topics.iter().flat_map(|topic| &topic.channels);
        let left: i64 = left.map(|channel| channel.depth + channel.in_flight_count + channel.deferred_count).sum();
        assert_eq!((stats.topics.len(), left), (compressions.len(), 0), "{name}, {mode:?}");
        let asked = server.asked();
        let named = asked.iter().filter(|query| query.contains("common_name=client")).count();
        assert_eq!(named, if mode.tls == Tls::Mutual { asked.len() } else { 0 }, "{name}, {mode:?}");
        assert_eq!(asked.is_empty(), !mode.auth, "{name}, {mode:?}");
    }
}

/// All compressions, or those without snappy if it could not be installed: then says so.
fn compressions(client: &str, has_snappy: bool) -> Vec<Option<Compression>> {
    if !has_snappy {
        skip(&format!("{client} has no snappy (delete target/peers/{client}; scripts/clients fetches it)"));
    }
    let all = [None, Some(Compression::Deflate(6)), Some(Compression::Snappy)];
    all.into_iter().filter(|compression| has_snappy || *compression != Some(Compression::Snappy)).collect()
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

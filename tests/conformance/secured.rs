//! The TCP protocol over TLS and compression, after AUTH, and where a server demands what the
//! client does not do.

use mqueue::net::transport::Compression;

use super::tcp;
use crate::support::secured::{block_on, connect, connect_plain, play, sized};
use crate::support::{Certificates, Mode, Nsqd, Tls, needs};

/// Only each so many-th script is played in a mode, another share in each run, unless
/// MQUEUE_TEST_MODES is set.
const SHARE: usize = 5;

/// Compares the transcripts of nsqd and the broker, which serve `mode`; the client uses it, or
/// plain connections.
fn compare(mode: Mode, is_used: bool) {
    needs!("nsqd");
    let certificates = Certificates::new();
    let [nsqd, broker] = [Nsqd::real, Nsqd::embedded].map(|start| mode.serve(&certificates, start));
    let magic = b"  V2";
    let mut scripts = tcp::commands();
    scripts.extend(tcp::identifies());
    scripts.extend(["IDENTIFY", "AUTH"].map(|line| [&magic[..], line.as_bytes(), b"\n\0\0\0\x02{}"].concat()));
    // after the upgrade, nsqd answers this one in the clear: it builds the buffer on the bare
    // socket
    scripts.retain(|script| !script.windows(23).any(|part| part == br#""output_buffer_size":-1"#));
    let share = if std::env::var_os("MQUEUE_TEST_MODES").is_some() { 1 } else { SHARE };
    let first = fastrand::usize(..share);
    let mut differences = String::new();
    for script in scripts.iter().skip(first).step_by(share) {
        let transcripts = [&nsqd, &broker].map(|server| {
            block_on(async {
                match (is_used, script.strip_prefix(magic)) {
                    (true, Some(script)) => {
                        play(&mut connect(&server.nsqd.tcp(), mode, &certificates).await, script).await
                    }
                    _ => play(&mut connect_plain(&server.nsqd.tcp()).await, script).await,
                }
            })
        });
        if transcripts[0] != transcripts[1] {
            let [expected, got] = transcripts;
            differences += &format!("{}\n  nsqd:   {expected}\n  mqueue: {got}\n", script.escape_ascii());
        }
    }
    assert!(differences.is_empty(), "{mode:?}, {first}:\n{differences}");
}

#[test]
fn commands_over_tls_are_answered_like_nsqd() {
    compare(Mode { tls: Tls::On, ..Mode::PLAIN }, true);
    compare(Mode { tls: Tls::Mutual, ..Mode::PLAIN }, true);
}

#[test]
fn commands_over_compression_are_answered_like_nsqd() {
    for compression in [Compression::Deflate(6), Compression::Snappy] {
        compare(Mode { compression: Some(compression), ..Mode::PLAIN }, true);
        compare(Mode { tls: Tls::On, compression: Some(compression), auth: true }, true);
    }
}

#[test]
fn commands_after_auth_are_answered_like_nsqd() {
    compare(Mode { auth: true, ..Mode::PLAIN }, true);
}

#[test]
fn commands_without_the_tls_or_auth_that_is_demanded_are_answered_like_nsqd() {
    compare(Mode { tls: Tls::On, ..Mode::PLAIN }, false);
    compare(Mode { auth: true, ..Mode::PLAIN }, false);
    compare(Mode { tls: Tls::Mutual, auth: true, ..Mode::PLAIN }, false);
}

#[test]
fn commands_beyond_the_grants_are_answered_like_nsqd() {
    needs!("nsqd");
    let certificates = Certificates::new();
    let mode = Mode { auth: true, ..Mode::PLAIN };
    let grants = r#"{"ttl":60,"authorizations":[
        {"topic":"^a$","channels":[".*"],"permissions":["publish"]},
        {"topic":"^b$","channels":["^c$"],"permissions":["subscribe"]}]}"#;
    let publish = |topic: &str| sized(&format!("PUB {topic}"), b"x");
    let several = sized("MPUB b", b"\0\0\0\x01\0\0\0\x01x");
    let scripts = [
        // what comes before a refused command is done, and answered
        [publish("a"), publish("b")].concat(),
        [publish("a"), publish("a"), b"SUB a c\n".to_vec()].concat(),
        [publish("a"), b"SUB b c\nSUB b c\n".to_vec()].concat(),
        [publish("a"), several].concat(),
        // refused before the body is there
        b"MPUB b\n".to_vec(),
        b"MPUB a\n".to_vec(),
        b"PUB b\n".to_vec(),
        sized("DPUB b 1", b"x"),
        b"SUB b other\n".to_vec(),
    ];
    let transcripts = [Nsqd::real, Nsqd::embedded].map(|start| {
        let server = mode.serve(&certificates, start);
        server.auth.as_ref().expect("the mode has one").grant(grants);
        let play = |script: &Vec<u8>| {
            block_on(async { play(&mut connect(&server.nsqd.tcp(), mode, &certificates).await, script).await })
        };
        let played: Vec<_> = scripts.iter().map(play).collect();
        (played, server.nsqd.published("a"))
    });
    assert_eq!(transcripts[0], transcripts[1]);
    assert_eq!(transcripts[0].1, 5);
}

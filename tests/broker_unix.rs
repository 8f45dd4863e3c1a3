//! The embedded broker on Unix sockets.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{Mqueue, mqueue};

/// A broker with Unix sockets for both protocols in this folder.
fn broker(folder: &Path) -> Mqueue {
    let folder = folder.display();
    mqueue(&format!("broker --memory --tcp-address unix:{folder}/tcp --http-address unix:{folder}/http"))
}

fn started(folder: &Path) -> Mqueue {
    let broker = broker(folder).start();
    broker.wait_to_say("HTTP: listening on");
    broker
}

/// Sends a request; returns the first `length` bytes of the response.
fn ask(path: &Path, request: &[u8], length: usize) -> String {
    let mut stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a valid timeout");
    stream.write_all(request).expect("it reads");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn both_protocols_work_on_unix_sockets_which_are_removed_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = started(folder.path());
    assert!(ask(&folder.path().join("tcp"), b"  V2PUB foo\n\0\0\0\x01x", 10).ends_with("OK"));
    let stats = ask(&folder.path().join("http"), b"GET /ping HTTP/1.0\r\n\r\n", 15);
    assert_eq!(stats, "HTTP/1.0 200 OK");
    broker.signal(Signal::SIGTERM);
    assert_eq!(broker.finish().code, Some(0));
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "its sockets are gone");
}

#[test]
fn stale_sockets_are_replaced_and_sockets_in_use_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = started(folder.path());
    let second = broker(folder.path()).run();
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("cannot listen on unix:") && second.stderr.lines().count() == 1, "{second:?}");
    first.signal(Signal::SIGKILL);
    first.finish();
    let third = started(folder.path());
    assert!(ask(&folder.path().join("tcp"), b"  V2PUB foo\n\0\0\0\x01x", 10).ends_with("OK"));
    drop(third);
}

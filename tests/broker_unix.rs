//! The embedded broker on Unix sockets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;

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

/// A broker in this folder with two sockets that systemd passes, one of them on TCP.
fn with_passed_sockets(folder: &Path, unix: &UnixListener, tcp: &TcpListener, names: &str, flags: &str) -> Mqueue {
    let script = format!(
        r#"exec 3<&0 4<&1 </dev/null >&2; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={names} exec "$0" broker --data-path {} {flags}"#,
        folder.join("data").display()
    );
    let (unix, tcp) = (unix.try_clone().expect("a descriptor"), tcp.try_clone().expect("a descriptor"));
    Mqueue::shell(&script).with_stdin_from(OwnedFd::from(unix).into()).with_stdout(Stdio::from(OwnedFd::from(tcp)))
}

#[test]
fn sockets_that_systemd_passes_are_used_by_name_or_address_and_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nsq.sock");
    let (unix, tcp) = (UnixListener::bind(&path).expect("a name"), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let http = tcp.local_addr().expect("bound");
    let by_address = format!("--tcp-address unix:{} --http-address {http}", path.display());
    for (names, flags) in [("tcp:http", "--http-address="), ("a.socket:a.socket", by_address.as_str())] {
        // the client is there before the broker
        let mut early = UnixStream::connect(&path).expect("it listens");
        early.write_all(b"  V2PUB foo\n\0\0\0\x01x").expect("a queue");
        let broker = with_passed_sockets(folder.path(), &unix, &tcp, names, flags).start();
        broker.wait_to_say(&format!("HTTP: listening on {http}"));
        let mut answer = [0; 10];
        early.read_exact(&mut answer).expect("an answer");
        assert!(answer.ends_with(b"OK"), "{answer:?}");
        broker.signal(Signal::SIGTERM);
        let end = broker.finish();
        assert_eq!(end.code, Some(0), "{end:?}");
        assert!(!end.stderr.contains("does not listen"), "{end:?}");
        assert!(path.exists(), "it is systemd's");
    }
}

#[test]
fn a_passed_socket_of_no_use_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nsq.sock");
    let (unix, tcp) = (UnixListener::bind(&path).expect("a name"), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let end = with_passed_sockets(folder.path(), &unix, &tcp, "tcp:other.socket", "").run();
    assert_eq!(end.code, Some(2), "{end:?}");
    assert!(end.stderr.contains("FileDescriptorName=tcp, http or https") && end.stderr.lines().count() == 1, "{end:?}");
    assert!(!folder.path().join("data").exists(), "nothing is left behind");
}

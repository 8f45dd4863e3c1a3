//! Networks that are not as they should be: a name whose first address swallows packets, IPv6 that
//! is half there, a queue of connections that nobody takes from. They are made in namespaces of
//! their own, which only root may do; elsewhere the tests are skipped.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::{Backlog, listen};

use crate::support::{Lookupd, Mqueue, Nsqd, Wire, mqueue, needs, skip, wait_until};

/// Returns true if namespaces can be created; otherwise reports that the test is skipped.
fn can_unshare() -> bool {
    let made = Command::new("unshare").args(["-mn", "sh", "-c", "ip link set lo up"]).output();
    let can = made.is_ok_and(|output| output.status.success());
    if !can {
        skip("no namespaces can be made here (root, unshare and ip are wanted)");
    }
    can
}

/// A listener whose queue is full: packets that begin a connection are dropped.
struct Swallower {
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Swallower {
    /// Listens on 127.0.0.1 at this port, if it is free.
    fn at(port: u16) -> Option<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).ok()?;
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let waiting = std::iter::from_fn(connect).collect();
        Some(Self { _listener: listener, _waiting: waiting })
    }
}

/// The host `two.test` with two addresses: the first drops packets, the second leads to a server.
struct Two {
    _first: Swallower,
    second: Wire,
    folder: tempfile::TempDir,
}

impl Two {
    fn to(target: &str) -> Self {
        let both = || {
            let second = Wire::from("127.0.0.2", target.to_owned());
            let port = second.address().parse::<SocketAddr>().unwrap().port();
            Swallower::at(port).map(|first| (first, second))
        };
        let (first, second) = std::iter::repeat_with(both).take(20).flatten().next().expect("a port free on both");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("hosts"), "127.0.0.1 localhost\n127.0.0.1 two.test\n127.0.0.2 two.test\n")
            .unwrap();
        Self { _first: first, second, folder }
    }

    /// Returns the name with its port.
    fn address(&self) -> String {
        let port = self.second.address().rsplit_once(':').unwrap().1;
        format!("two.test:{port}")
    }

    /// Prepares an mqueue that can resolve the name.
    fn mqueue(&self, args: &str) -> Mqueue {
        let hosts = self.folder.path().join("hosts");
        let inner = format!("mount --bind {} /etc/hosts && exec \"$0\" {args}", hosts.display());
        Mqueue::shell(&format!("exec unshare -m sh -c '{inner}' \"$0\""))
    }
}

/// Checks the time of connecting: less than both addresses in turn, and at least the head start of
/// the first.
#[track_caller]
fn assert_in_turns(start: Instant, what: &str) {
    let took = start.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(4)).contains(&took), "{what} took {took:?}");
}

#[test]
fn a_producer_and_a_consumer_reach_the_second_address_of_a_name() {
    needs!("nsqd");
    if !can_unshare() {
        return;
    }
    let nsqd = Nsqd::start();
    let two = Two::to(&nsqd.tcp());
    let flags = format!("--stream foo --nsqd-tcp-address {} --count 1", two.address());
    for args in [format!("producer --generate {flags}"), format!("consumer --group 1 {flags}")] {
        let start = Instant::now();
        let finished = two.mqueue(&args).run();
        assert_eq!(finished.code, Some(0), "{args}: {}", finished.stderr);
        assert_in_turns(start, &args);
    }
}

#[test]
fn the_broker_reaches_the_second_address_of_an_nsqlookupd() {
    needs!("nsqlookupd");
    if !can_unshare() {
        return;
    }
    let lookupd = Lookupd::start();
    let two = Two::to(&lookupd.tcp());
    let flags = "--memory --tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0";
    let _broker = two.mqueue(&format!("broker {flags} --lookupd-tcp-address {}", two.address())).start();
    let nodes = || crate::support::get(&lookupd.http(), "/nodes");
    wait_until("nsqlookupd to know the broker", || nodes().contains("tcp_port"));
}

#[test]
fn a_sender_reaches_the_second_address_of_a_receiver() {
    needs!("nsqd");
    if !can_unshare() {
        return;
    }
    let nsqd = Nsqd::start();
    let ingest = mqueue(&format!("ingest --listen tcp:127.0.0.1:0 --to foo --nsqd-tcp-address {}", nsqd.tcp())).start();
    let said = "listening on tcp:";
    ingest.wait_to_say(said);
    let stderr = ingest.stderr();
    let at = stderr.split(said).nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let two = Two::to(at);
    let start = Instant::now();
    let sent = two.mqueue(&format!("send --to tcp:{} --count 3 --rate 1000", two.address())).run();
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    assert_in_turns(start, "send");
    assert_eq!(nsqd.published("foo"), 3);
}

#[test]
fn a_port_alone_listens_on_ipv4_and_ipv6_whatever_the_ipv6_settings() {
    if !can_unshare() {
        return;
    }
    for (setting, reached) in
        [("bindv6only", &["127.0.0.1:4150", "[::1]:4150"][..]), ("conf/all/disable_ipv6", &["127.0.0.1:4150", ":4150"])]
    {
        // the namespace has a network of its own, so that the ports are free
        let inner = format!(
            "echo 1 >/proc/sys/net/ipv6/{setting} && ip link set lo up || exit 9; \
             \"$0\" broker --memory --tcp-address=:4150 --http-address=:4151 & trap \"kill $!\" EXIT; \
             for at in {}; do \
                 n=0; until \"$0\" producer --generate --stream foo --count 1 --nsqd-tcp-address $at; do \
                     n=$((n + 1)); [ $n -lt 100 ] || exit 1; sleep 0.1; \
                 done; \
             done",
            reached.join(" ")
        );
        let finished = Mqueue::shell(&format!("exec unshare -n sh -c '{inner}' \"$0\"")).run();
        let acknowledged = finished.stderr.matches("1 acknowledged").count();
        assert_eq!(acknowledged, reached.len(), "{setting}: {}", finished.stderr);
    }
}

#[test]
fn a_unix_socket_that_never_accepts_is_given_up_at_a_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    let start = Instant::now();
    let sent = mqueue(&format!("send --to unix:{} --count 1", path.display())).run();
    assert!(sent.code != Some(0) && sent.stderr.contains("full for"), "{:?}: {}", sent.code, sent.stderr);
    assert!(start.elapsed() < Duration::from_secs(30), "it took {:?}", start.elapsed());
}

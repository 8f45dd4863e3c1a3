//! A disk that fails: what the running broker asks of it is answered with EIO, by strace.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Client, Nsqd, get, request, wait_until};

/// A disk that fails for as long as this lives.
struct BadDisk(Child);

impl BadDisk {
    /// Makes each of these system calls of this process fail, on this file or on all. `None` where strace cannot do that.
    fn of(pid: u32, calls: &str, file: Option<&Path>) -> Option<Self> {
        let mut strace = Command::new("strace")
            .args(["-f", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:error=EIO")])
            .args(file.iter().flat_map(|file| [Path::new("-P"), file]))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(strace.stderr.take().expect("piped")).lines();
        let attached = lines.by_ref().map_while(Result::ok).any(|line| line.contains("attached"));
        // strace stops when nobody reads what it says
        std::thread::spawn(move || lines.for_each(drop));
        let bad = attached.then_some(Self(strace));
        if bad.is_none() {
            assert_ne!(
                std::env::var("MQUEUE_REQUIRE_PEERS").as_deref(),
                Ok("1"),
                "strace is missing, or may not trace"
            );
            eprintln!("skipped: strace is missing, or may not trace");
        }
        bad
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        // it lets go of the process
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT);
        let _ = self.0.wait();
    }
}

#[test]
fn a_sync_that_fails_is_an_error_and_loses_nothing_acknowledged() {
    let mut broker = Nsqd::embedded(&["--sync=always"]);
    broker.create("foo", "c");
    let publish = |broker: &Nsqd| request(&broker.http(), "POST", "/pub?topic=foo", b"x");
    let (mut acknowledged, mut refused) = (0, 0);
    for _ in 0..10 {
        assert_eq!(publish(&broker), "OK");
        acknowledged += 1;
    }
    let Some(bad) = BadDisk::of(broker.pid(), "fsync,fdatasync", None) else { return };
    // strace says that it is attached a moment before it interferes
    wait_until("two refusals", || {
        match publish(&broker).as_str() {
            "OK" => acknowledged += 1,
            refusal => {
                assert!(refusal.contains("cannot write to the log"), "{refusal:?}");
                refused += 1;
            }
        }
        refused == 2
    });
    let ping = get(&broker.http(), "/ping");
    assert!(ping.starts_with("NOK - ") && ping.contains("could not sync"), "{ping:?}");
    drop(bad);
    wait_until("publishing to work again", || publish(&broker) == "OK");
    acknowledged += 1;
    assert_eq!(get(&broker.http(), "/ping"), "OK");
    broker.kill();
    broker.start_again();
    // the first that was refused may be there, too: it is in the file, and only the sync of it failed
    let depth = broker.channel("foo", "c").depth;
    assert!((acknowledged..=acknowledged + refused).contains(&depth), "{depth} messages, {acknowledged} acknowledged");
}

#[test]
fn a_write_that_fails_is_refused_and_the_next_file_is_tried() {
    let mut broker = Nsqd::embedded(&[]);
    broker.create("foo", "c");
    let publish = |broker: &Nsqd| request(&broker.http(), "POST", "/pub?topic=foo", b"x");
    let mut acknowledged = 0;
    for _ in 0..10 {
        assert_eq!(publish(&broker), "OK");
        acknowledged += 1;
    }
    let file = broker.data_path().join("0000000001.log");
    let Some(bad) = BadDisk::of(broker.pid(), "write,writev", Some(&file)) else { return };
    wait_until("a refusal", || match publish(&broker).as_str() {
        "OK" => {
            acknowledged += 1;
            false
        }
        refusal => refusal.contains("cannot write to the log: Input/output error"),
    });
    let ping = get(&broker.http(), "/ping");
    assert!(ping.starts_with("NOK - ") && ping.contains("Input/output error"), "{ping:?}");
    drop(bad);
    wait_until("publishing to work again", || publish(&broker) == "OK");
    acknowledged += 1;
    assert_eq!(get(&broker.http(), "/ping"), "OK");
    broker.kill();
    broker.start_again();
    assert_eq!(broker.channel("foo", "c").depth, acknowledged, "what was refused is not there");
}

#[test]
fn a_read_that_fails_delays_its_message_and_loses_none() {
    let broker = Nsqd::embedded(&["--max-memory=0"]);
    broker.create("foo", "c");
    for n in 0..10 {
        broker.publish("foo", format!("{n}").as_bytes());
    }
    let file = broker.data_path().join("0000000001.log");
    let Some(bad) = BadDisk::of(broker.pid(), "pread64", Some(&file)) else { return };
    let mut client = Client::subscribed(&broker, "foo", "c", "{}");
    let mut got = 0;
    // strace says that it is attached a moment before it interferes
    client.say("RDY 1\n");
    wait_until("reads to fail", || {
        broker.channel("foo", "c").deferred_count > 0 || broker.channel("foo", "c").in_flight_count > 0
    });
    if broker.channel("foo", "c").in_flight_count > 0 {
        got += 1;
    }
    let left = broker.channel("foo", "c");
    assert_eq!(left.depth + left.deferred_count + left.in_flight_count, 10, "{left:?}");
    let aside = broker.data_path().join("0000000001.log.damaged");
    assert!(aside.exists() || got > 0, "its bytes are kept");
    drop(bad);
    client.say("RDY 100\n");
    assert_eq!(client.messages(10).len(), 10);
}

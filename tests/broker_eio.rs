//! A disk that fails: each fsync and fdatasync of the running broker is answered with EIO, by strace.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Nsqd, get, request, wait_until};

/// A disk that fails for as long as this lives.
struct BadDisk(Child);

impl BadDisk {
    /// Makes each sync of this process fail. `None` where strace cannot do that.
    fn of(pid: u32) -> Option<Self> {
        let mut strace = Command::new("strace")
            .args([
                "-f",
                "-e",
                "trace=fsync,fdatasync",
                "-e",
                "inject=fsync,fdatasync:error=EIO",
                "-p",
                &pid.to_string(),
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(strace.stderr.take().expect("piped")).lines();
        let attached = lines.by_ref().map_while(Result::ok).any(|line| line.contains("attached"));
        // strace stops when nobody reads what it says
        std::thread::spawn(move || lines.for_each(drop));
        attached.then_some(Self(strace))
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
    let Some(bad) = BadDisk::of(broker.pid()) else {
        assert_ne!(std::env::var("MQUEUE_REQUIRE_PEERS").as_deref(), Ok("1"), "strace is missing, or may not trace");
        eprintln!("skipped: strace is missing, or may not trace");
        return;
    };
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

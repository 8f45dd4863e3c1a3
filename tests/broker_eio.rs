//! A failing disk: strace makes the running broker's system calls fail with EIO.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{BadDisk, Client, Mqueue, Nsqd, SmallDisk, get, mqueue, request, wait_until};

fn publish(broker: &Nsqd, body: &[u8]) -> String {
    request(&broker.http(), "POST", "/pub?topic=foo", body)
}

#[test]
fn a_failed_sync_refuses_publishing_and_loses_nothing_acknowledged() {
    let mut broker = Nsqd::embedded(&["--sync=always"]);
    broker.create("foo", "c");
    let (mut acknowledged, mut refused) = (0, 0);
    for _ in 0..10 {
        assert_eq!(publish(&broker, b"x"), "OK");
        acknowledged += 1;
    }
    let Some(bad) = BadDisk::of(broker.pid(), "fsync,fdatasync", &[]) else { return };
    wait_until("two refusals", || {
        match publish(&broker, b"x").as_str() {
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
    wait_until("health without any publish", || get(&broker.http(), "/ping") == "OK");
    assert_eq!(publish(&broker, b"x"), "OK");
    acknowledged += 1;
    broker.kill();
    broker.start_again();
    // the first refused message may be there, too: it was written, and only its sync failed
    let depth = broker.channel("foo", "c").depth;
    assert!((acknowledged..=acknowledged + refused).contains(&depth), "{depth} messages, {acknowledged} acknowledged");
}

#[test]
fn a_failed_write_refuses_publishing_and_the_next_segment_is_tried() {
    let mut broker = Nsqd::embedded(&[]);
    broker.create("foo", "c");
    let mut acknowledged = 0;
    for _ in 0..10 {
        assert_eq!(publish(&broker, b"x"), "OK");
        acknowledged += 1;
    }
    let file = broker.data_path().join("0000000001.log");
    let Some(bad) = BadDisk::of(broker.pid(), "write,writev", &[&file]) else { return };
    wait_until("a refusal", || match publish(&broker, b"x").as_str() {
        "OK" => {
            acknowledged += 1;
            false
        }
        refusal => refusal.contains("cannot write to the log: input/output error"),
    });
    let ping = get(&broker.http(), "/ping");
    assert!(ping.starts_with("NOK - ") && ping.contains("input/output error"), "{ping:?}");
    drop(bad);
    wait_until("health without any publish", || get(&broker.http(), "/ping") == "OK");
    assert_eq!(publish(&broker, b"x"), "OK");
    acknowledged += 1;
    broker.kill();
    broker.start_again();
    assert_eq!(broker.channel("foo", "c").depth, acknowledged, "refused messages are not there");
}

#[test]
fn a_failed_read_delays_its_message_and_loses_none() {
    let broker = Nsqd::embedded(&["--max-memory=0"]);
    broker.create("foo", "c");
    for n in 0..10 {
        broker.publish("foo", format!("{n}").as_bytes());
    }
    let file = broker.data_path().join("0000000001.log");
    let Some(bad) = BadDisk::of(broker.pid(), "pread64", &[&file]) else { return };
    let mut client = Client::subscribed(&broker, "foo", "c", "{}");
    let mut got = 0;
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

#[test]
fn failed_syncs_and_writes_are_retried_without_any_request() {
    for calls in ["fsync,fdatasync", "write,writev"] {
        let data = tempfile::tempdir().expect("a temporary folder");
        let flags = "--tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0 --sync interval";
        let broker = mqueue(&format!("broker {flags}")).arg("--data-path").arg(&data.path().display().to_string());
        let broker = broker.start();
        let http = broker.listens("HTTP");
        let publish = || request(&http, "POST", "/pub?topic=foo", b"x");
        assert_eq!(publish(), "OK");
        let file = data.path().join("0000000001.log");
        let Some(bad) = BadDisk::of(broker.pid(), calls, &[&file]) else { return };
        // the sync fails after the response; no other publish is needed to detect it
        wait_until("trouble", || {
            let is_told = broker.times_said("publishing is refused until this failure is over") > 0;
            is_told || (publish(), false).1
        });
        drop(bad);
        broker.wait_to_say("publishing works again");
        assert_eq!(publish(), "OK", "{calls}");
    }
}

#[test]
fn a_directory_that_cannot_be_synced_is_a_failed_sync_of_its_new_segment() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut broker = Nsqd::embedded_in(disk.folder(), &["--sync=always"]);
    broker.create("foo", "c");
    assert_eq!(publish(&broker, b"x"), "OK");
    let Some(bad) = BadDisk::of(broker.pid(), "fsync,fdatasync", &[broker.data_path()]) else { return };
    let (mut acknowledged, mut refusal) = (1, String::new());
    // segments of a small disk are small, so the next one is begun soon
    wait_until("a refusal", || match publish(&broker, &[b'x'; 20_000]).as_str() {
        "OK" => {
            acknowledged += 1;
            false
        }
        other => {
            refusal = other.to_owned();
            true
        }
    });
    let reason = format!("cannot write to the log: could not sync {}: ", broker.data_path().display());
    assert!(refusal.contains(&reason), "{refusal}");
    drop(bad);
    wait_until("health without any publish", || get(&broker.http(), "/ping") == "OK");
    assert_eq!(publish(&broker, b"x"), "OK");
    acknowledged += 1;
    broker.kill();
    broker.start_again();
    let depth = broker.channel("foo", "c").depth;
    assert!((acknowledged..=acknowledged + 1).contains(&depth), "{depth} messages, {acknowledged} acknowledged");
}

#[test]
fn new_parents_of_a_data_path_are_synced() {
    let top = tempfile::tempdir().expect("a temporary folder");
    let start = |data: &Path, sync: &str, bad: &Path| {
        let strace = BadDisk::around("fsync,fdatasync", bad)?;
        let flags = "--tcp-address 127.0.0.1:0 --http-address 127.0.0.1:0";
        let script = format!("exec {strace} \"$0\" broker {flags} --sync {sync} --data-path {}", data.display());
        Some(Mqueue::shell(&script).start())
    };
    for (n, level) in ["", "a"].iter().enumerate() {
        let path = top.path().join(n.to_string());
        std::fs::create_dir(&path).expect("a folder");
        let data = path.join("a/b");
        let Some(broker) = start(&data, "always", &path.join(level)) else { return };
        let finished = broker.finish();
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let line = format!("cannot use {}: input/output error", data.display());
        assert!(finished.stderr.contains(&line), "{}", finished.stderr);
    }
    let data = top.path().join("never/a");
    let Some(broker) = start(&data, "never", top.path()) else { return };
    broker.listens("HTTP");
    broker.signal(Signal::SIGTERM);
    broker.finish();
}
